"""Every adaptation method by its name."""

from __future__ import annotations

from collections.abc import Callable

from tempomask.adaptation.method import Method
from tempomask.adaptation.rds import RDS, FullModel, RDSConfig
from tempomask.errors import InputError

# Called with the number of blocks measured so far, and of all that will be.
Progress = Callable[[int, int], None]
# A new method is added here, and to `adapter_file.ATTACH`.
METHODS: dict[str, Callable[[RDSConfig, Progress | None], Method]] = {
    "rds": RDS,
    "full": FullModel,
}


def build_method(name: str, config: RDSConfig, progress: Progress | None = None) -> Method:
    """The method of a name; InputError for an unknown one.

    config: of the router and the adapters; methods without a router take the budget and the
    adapters from it.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    return METHODS[name](config, progress)
