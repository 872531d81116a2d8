"""Every adaptation method by its name: RDS, the full model, and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from tempomask.adaptation import rds
from tempomask.adaptation.adapter_file import Adapter
from tempomask.adaptation.method import Attach, Method
from tempomask.adaptation.rds import RDS, FullModel, RDSConfig
from tempomask.baselines import adavit, dyt, slimsam, static
from tempomask.baselines.adavit import AdaViTMethod
from tempomask.baselines.dyt import DyTMethod
from tempomask.baselines.gates import GatedConfig
from tempomask.baselines.pbd import PBD, DropConfig
from tempomask.baselines.slimsam import SlimConfig, SlimSAM
from tempomask.baselines.static import Static, StaticConfig
from tempomask.errors import InputError
from tempomask.models.encoder import Encoder, always_on_blocks
from tempomask.routing.budget import check_budget

# Called with the number of blocks measured so far, and of all that will be.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class MethodKind:
    """How a method is trained and used.

    make: the method, from the router's and the adapters' settings (of which it takes what it has),
        progress, and the steps of the whole training.
    attach: puts its export back on a network.
    core: the blocks that it always runs; none for DyT and SlimSAM, which choose tokens and
        channels.
    """

    make: Callable[[RDSConfig, Progress | None, int], Method]
    attach: Attach
    core: Callable[[Encoder], Collection[int]] = always_on_blocks


def _gated(config: RDSConfig) -> GatedConfig:
    return GatedConfig(config.budget, adapters=config.adapters)


# A new method is added here.
METHODS: dict[str, MethodKind] = {
    "rds": MethodKind(RDS, rds.attach),
    "full": MethodKind(
        lambda config, progress, steps: FullModel(config, progress), rds.attach_without_router
    ),
    "static-a": MethodKind(
        lambda config, progress, steps: Static(StaticConfig("a", config.budget, config.adapters)),
        static.attach,
    ),
    "static-b": MethodKind(
        lambda config, progress, steps: Static(StaticConfig("b", config.budget, config.adapters)),
        static.attach,
    ),
    "pbd": MethodKind(
        lambda config, progress, steps: PBD(
            DropConfig(config.budget, adapters=config.adapters), progress
        ),
        static.attach,
    ),
    "adavit": MethodKind(
        lambda config, progress, steps: AdaViTMethod(_gated(config), progress),
        adavit.attach,
        lambda encoder: {0, *encoder.required_blocks},
    ),
    "dyt": MethodKind(
        lambda config, progress, steps: DyTMethod(_gated(config), progress),
        dyt.attach,
        lambda encoder: (),
    ),
    "slim": MethodKind(
        lambda config, progress, steps: SlimSAM(
            SlimConfig(config.budget, steps=steps, seed=config.adapters.seed)
        ),
        slimsam.attach,
        lambda encoder: (),
    ),
}


def check_method_budget(name: str, budget: float, encoder: Encoder) -> None:
    """InputError for a budget that the method of a name cannot keep on an encoder."""
    check_budget(budget, encoder.num_blocks, sorted(METHODS[name].core(encoder)))


def build_method(
    name: str, config: RDSConfig, progress: Progress | None = None, steps: int = 2000
) -> Method:
    """The method of a name; InputError for an unknown one.

    config: of the router and the adapters; methods without a router take the budget and the
    adapters from it. steps: of the whole training, which SlimSAM divides.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    return METHODS[name].make(config, progress, steps)


def attach_of(adapter: Adapter) -> Attach:
    """What puts an adapter back on its network; InputError for a method of another version."""
    if adapter.method not in METHODS:
        raise InputError(
            f"the adapter {adapter.folder} is of method {adapter.method!r}; this version knows"
            f" {', '.join(METHODS)}"
        )
    return METHODS[adapter.method].attach
