"""Every adaptation method by its name: RDS, the full model, and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from tempomask.adaptation import rds
from tempomask.adaptation.adapter_file import (
    Adapter,
    attach_adapter,
    check_model,
    read_adapter,
)
from tempomask.adaptation.method import Attach, LoadedAdapter, Method
from tempomask.adaptation.options import RDSConfig, RouterTraining
from tempomask.adaptation.rds import RDS, FullModel
from tempomask.baselines import adavit, dyt, slimsam, static
from tempomask.baselines.adavit import AdaViTMethod
from tempomask.baselines.dyt import DyTMethod
from tempomask.baselines.pbd import PBD
from tempomask.baselines.settings import BaselineConfig
from tempomask.baselines.slimsam import SlimSAM
from tempomask.baselines.static import Static
from tempomask.errors import InputError
from tempomask.models.encoder import Encoder, RoutedNetwork, always_on_blocks

# Called with the number of blocks measured so far, and of all that will be.
Progress = Callable[[int, int], None]


class Making(NamedTuple):
    """What methods are made from, each taking what it has.

    config: of the router and the adapters. own: of the compared methods. steps: of the whole
    training.
    """

    config: RDSConfig
    own: BaselineConfig
    progress: Progress | None
    steps: int


@dataclass(frozen=True)
class MethodKind:
    """How a method is trained and used.

    attach: puts its export back on a network. core: the blocks that it always runs; none for DyT
    and SlimSAM, which choose tokens and channels.
    """

    make: Callable[[Making], Method]
    attach: Attach
    core: Callable[[Encoder], Collection[int]] = always_on_blocks


def _rds(making: Making, router: RouterTraining) -> Method:
    return RDS(replace(making.config, router=router), making.progress, making.steps)


def _static(name: str, plan: static.Plan) -> Callable[[Making], Method]:
    return lambda m: Static(name, m.config.budget, m.config.adapters, plan)


def _slim(staged: bool) -> Callable[[Making], Method]:
    return lambda m: SlimSAM(m.config.budget, m.own.slim, m.steps, m.config.adapters.seed, staged)


def _no_blocks(encoder: Encoder) -> Collection[int]:
    return ()


# A new method is added here.
METHODS: dict[str, MethodKind] = {
    "rds": MethodKind(lambda m: _rds(m, m.config.router), rds.attach),
    "rds-worth": MethodKind(lambda m: _rds(m, m.config.router.with_worth(m.steps)), rds.attach),
    "rds-paper": MethodKind(lambda m: _rds(m, m.config.router.as_in_the_paper()), rds.attach),
    "full": MethodKind(lambda m: FullModel(m.config, m.progress), rds.attach_without_router),
    "static-a": MethodKind(_static("static-a", "a"), static.attach),
    "static-b": MethodKind(_static("static-b", "b"), static.attach),
    "pbd-last": MethodKind(
        _static("pbd-last", "last"), static.attach, attrgetter("required_blocks")
    ),
    "pbd": MethodKind(
        lambda m: PBD(m.config.budget, m.own.pbd, m.config.adapters, m.progress), static.attach
    ),
    "adavit": MethodKind(
        lambda m: AdaViTMethod(m.config.budget, m.own.adavit, m.config.adapters, m.progress),
        adavit.attach,
        lambda encoder: {0, *encoder.required_blocks},
    ),
    "dyt": MethodKind(
        lambda m: DyTMethod(m.config.budget, m.own.dyt, m.config.adapters, m.progress),
        dyt.attach,
        _no_blocks,
    ),
    "slim": MethodKind(_slim(staged=False), slimsam.attach, _no_blocks),
    "slim-paper": MethodKind(_slim(staged=True), slimsam.attach, _no_blocks),
}


def build_method(
    name: str,
    config: RDSConfig,
    progress: Progress | None = None,
    steps: int = 2000,
    own: BaselineConfig | None = None,
) -> Method:
    """The method of a name.

    Args:
        name: One of `METHODS`.
        config: Of the router and the adapters; methods without a router take the budget and the
            adapters from it.
        progress: Told how many blocks are measured.
        steps: Of the whole training, which SlimSAM divides.
        own: Settings of the compared methods.

    Raises:
        InputError: There is no method of the name.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    return METHODS[name].make(Making(config, own or BaselineConfig(), progress, steps))


def attach_of(adapter: Adapter) -> Attach:
    """What puts an adapter back on its network; InputError for a method of another version."""
    if adapter.method not in METHODS:
        raise InputError(
            f"the adapter {adapter.folder} is of method {adapter.method!r}; this version knows"
            f" {', '.join(METHODS)}"
        )
    return METHODS[adapter.method].attach


def load_adapted(
    build: Callable[[str | None], RoutedNetwork],
    name: str | None,
    adapter: str | Path,
    *,
    any_name: bool = False,
) -> LoadedAdapter:
    """A network with an adapter on it.

    Args:
        build: Loads the network of a name, on its device.
        name: That was asked for, if any.
        adapter: A folder, or the name of a bundled one.
        any_name: Without a name, take the network that the adapter was made for.

    Raises:
        InputError: For an adapter that cannot be read, of another model, or of other weights.
    """
    wanted = read_adapter(adapter)
    attach = attach_of(wanted)
    if name is None and any_name:
        name = wanted.model
    if name is not None:
        check_model(wanted, name)
    return attach_adapter(build(name), wanted, attach)
