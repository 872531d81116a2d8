"""Every adaptation method by its name."""

from __future__ import annotations

from collections.abc import Callable, Collection

from tempomask.adaptation.drop import PBD, DropConfig
from tempomask.adaptation.gated import AdaViTMethod, DyTMethod, GatedConfig
from tempomask.adaptation.method import Method
from tempomask.adaptation.rds import RDS, FullModel, RDSConfig
from tempomask.adaptation.slim import SlimConfig, SlimSAM
from tempomask.adaptation.static import Static, StaticConfig
from tempomask.errors import InputError
from tempomask.models.encoder import Encoder, always_on_blocks
from tempomask.routing.budget import check_budget

# Called with the number of blocks measured so far, and of all that will be.
Progress = Callable[[int, int], None]
# What makes a method from the router's and adapters' settings, progress, and the steps of training.
Maker = Callable[[RDSConfig, Progress | None, int], Method]


def _gated(config: RDSConfig) -> GatedConfig:
    return GatedConfig(config.budget, adapters=config.adapters)


# Blocks that a method always runs, where these are not `always_on_blocks`; DyT and SlimSAM choose
# tokens and channels.
_CORES: dict[str, Callable[[Encoder], Collection[int]]] = {
    "adavit": lambda encoder: {0, *encoder.required_blocks},
    "dyt": lambda encoder: (),
    "slim": lambda encoder: (),
}

# A new method is added here, and to `adapter_file.ATTACH`.
METHODS: dict[str, Maker] = {
    "rds": lambda config, progress, steps: RDS(config, progress, steps),
    "full": lambda config, progress, steps: FullModel(config, progress),
    "static-a": lambda config, progress, steps: Static(
        StaticConfig("a", config.budget, config.adapters)
    ),
    "static-b": lambda config, progress, steps: Static(
        StaticConfig("b", config.budget, config.adapters)
    ),
    "pbd": lambda config, progress, steps: PBD(
        DropConfig(config.budget, adapters=config.adapters), progress
    ),
    "adavit": lambda config, progress, steps: AdaViTMethod(_gated(config), progress),
    "dyt": lambda config, progress, steps: DyTMethod(_gated(config), progress),
    "slim": lambda config, progress, steps: SlimSAM(
        SlimConfig(config.budget, steps=steps, seed=config.adapters.seed)
    ),
}


def check_method_budget(name: str, budget: float, encoder: Encoder) -> None:
    """InputError for a budget that the method of a name cannot keep on an encoder."""
    core = _CORES.get(name, always_on_blocks)(encoder)
    check_budget(budget, encoder.num_blocks, sorted(core))


def build_method(
    name: str, config: RDSConfig, progress: Progress | None = None, steps: int = 2000
) -> Method:
    """The method of a name; InputError for an unknown one.

    config: of the router and the adapters; methods without a router take the budget and the
    adapters from it. steps: of the whole training, which SlimSAM divides.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    return METHODS[name](config, progress, steps)
