"""The contract of an adaptation method: RDS, AdaViT, DyT, static plans, PBD and SlimSAM alike.

One loop (`training/adapt.py`) trains them all on the same clips with SAM 2's losses. It asks a
method what to train, gives it the chance to act before a step, adds the method's own loss, and
writes what the method exports as an adapter (`adapter_file.py`).

The order of calls: `prepare` once; then `on_step` before every step and `extra_loss` within it;
`state` whenever a checkpoint is written; `export` at the end. A resumed run calls `prepare` with
the saved state, and then loads the saved values of everything trained.

B clips, T frames, S image side, C hidden_dim, h x w the stride-16 grid, L encoder blocks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

from tempomask.errors import InputError
from tempomask.models.encoder import Policy, RoutedNetwork
from tempomask.routing.options import Routing

Setting = TypeVar("Setting")


class ClipOutputs(NamedTuple):
    """What a network said about a batch of clips.

    features: (B, T, C, h, w), of the encoder after the neck.
    logits: (B, T, 4h, 4w), of the single mask; frame 0 is the prompted one.
    targets: (B, T, S, S), the true masks, zeros and ones.
    blocks: bool (B, T, L), which encoder blocks ran.
    loss: scalar, the mean loss of the task over all predictions.
    """

    features: Tensor
    logits: Tensor
    targets: Tensor
    blocks: Tensor
    loss: Tensor


class Replay(Protocol):
    """Runs a network on the clips of the step at hand: the same prompts, memories of its own."""

    def __call__(
        self, network: RoutedNetwork, policy: Policy | None, /, *, gradients: bool = False
    ) -> ClipOutputs:
        """What a network says with a policy.

        Keep a teacher out of training mode. gradients: keep what they need; no others do.
        """
        ...


class Measure(Protocol):
    """Calibration data, for methods that measure before or while they train."""

    def score(self, network: RoutedNetwork, policy: Policy | None = None) -> float:
        """Mean J&F in [0, 1] on the calibration sequences, first mask given; without gradients."""
        ...

    def images(self, count: int) -> Tensor:
        """The same first `count` frames of the calibration set at every call.

        (count, 3, S, S), normalised, on the device of the run.
        """
        ...

    @property
    def fingerprint(self) -> str:
        """By which the calibration data are known again: other data, another text."""
        ...


@dataclass(frozen=True)
class Prepared:
    """What the loop trains.

    network: to unroll: the given one, changed in place, or another (SlimSAM's).
    policy: routes its encoder; an `nn.Module` if it has parameters or a training mode. It is told
        the seed of every step (`Policy.reseed`), so that its draws can be resumed.
    groups: parameter groups for AdamW, each with "params", "lr" and "weight_decay"; the loop scales
        every lr by the recipe's schedule. Every other parameter must have requires_grad False.
    task: whether SAM 2's losses count, or the method's own alone (SlimSAM's distillation).
    watch: gives numbers of the last step for the log, by name.
    """

    network: RoutedNetwork
    policy: Policy | None = None
    groups: list[dict[str, Any]] = field(default_factory=list)
    task: bool = True
    watch: Callable[[], Mapping[str, float]] | None = None


@dataclass(frozen=True)
class Export:
    """What is kept of a trained method, to be attached to the untouched base network later.

    settings: plain JSON values; "budget" is the share of blocks it was trained for, if any.
    tensors: by name, LoRA's as `lora.export_lora` names them.
    """

    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def setting(self, name: str, read: Callable[[Any], Setting]) -> Setting:
        """What `read` makes of a setting; InputError if it is missing or cannot be read."""
        try:
            return read(self.settings[name])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError(
                f"the adapter's setting {name!r} is missing or damaged; train or copy it again"
            ) from None


class LoadedAdapter(NamedTuple):
    """An adapter on its network, ready to track.

    network: with adapters merged where the maths allows it. make_policy: the policy for what a
    user asks of the router (budget, rule, frames a second); None where the method has no router.
    InputError from it for what the method cannot do. method: its name, as in `Routing.router`.
    """

    network: RoutedNetwork
    make_policy: Callable[[Routing], Policy] | None
    method: str = ""


# Puts an export back on the untouched base network, which it may change in place.
Attach = Callable[[RoutedNetwork, Export], LoadedAdapter]


class Method(ABC):
    """One way of making a network cheaper.

    Attributes:
        name: As users write it ("rds"); an adapter remembers it, and `baselines.methods.METHODS`
            finds by it the function that puts an `Export` back on a network.
    """

    name: str

    @abstractmethod
    def prepare(
        self, network: RoutedNetwork, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> Prepared:
        """Freeze, insert, prune: make a trained network ready, in place if that suits.

        Args:
            network: That is made cheaper.
            measure: Calibration data.
            state: What `state` returned in the run that is resumed; then nothing is measured anew,
                and the same parameters must come out, in the same order.
        """

    def on_step(self, step: int) -> Prepared | None:
        """Called before optimiser step `step` (from 0; again after resuming).

        PBD drops its next block here, SlimSAM goes on to its next phase. A new Prepared replaces
        the old one, and the optimiser starts afresh; None goes on as before.
        """
        return None

    def extra_loss(self, outputs: ClipOutputs, replay: Replay, step: int) -> Tensor | None:
        """A scalar added to the task's losses, with gradients through `outputs`; None for none."""
        return None

    def state(self) -> dict[str, Any]:
        """What was measured or decided, as plain values and tensors, for `prepare` to resume."""
        return {}

    @abstractmethod
    def export(self) -> Export:
        """The trained result."""


class WrappedMethod(Method):
    """A method that leaves everything to another; subclasses change what they add to."""

    def __init__(self, method: Method) -> None:
        self.method, self.name = method, method.name

    def prepare(
        self, network: RoutedNetwork, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> Prepared:
        return self.method.prepare(network, measure, state)

    def on_step(self, step: int) -> Prepared | None:
        return self.method.on_step(step)

    def extra_loss(self, outputs: ClipOutputs, replay: Replay, step: int) -> Tensor | None:
        return self.method.extra_loss(outputs, replay, step)

    def state(self) -> dict[str, Any]:
        return self.method.state()

    def export(self) -> Export:
        return self.method.export()
