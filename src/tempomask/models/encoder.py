"""The encoder contract: one routed stack of blocks, and the policy that decides which of them run.

Every image encoder (`hiera.py`, `vit.py`, `hybrid.py`) embeds the image, asks a `Policy` once for
a `Plan`, and runs its blocks through that plan. A routing method (a static plan, the
prediction-aware router of RDS, AdaViT, DyT) therefore needs no subclass of a network.

Shapes: B batch, S image side, L number of blocks, h x w token grid, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tempomask.errors import InputError
from tempomask.ops.resumable import Resumable


class EncoderOutput(NamedTuple):
    """Features of one encoder pass.

    features: channels-first maps (B, C_i, S / stride_i, S / stride_i), finest stride first.
    blocks: bool (L,), or (B, L) when the samples of a batch differ; True where the block ran.
    """

    features: list[Tensor]
    blocks: Tensor


class RoutedBlock(nn.Module):
    """A residual block in two halves, so that a plan may skip all of it or one half.

    A subclass implements `attend` and `feed_forward`, both residual, on maps (B, h, w, C).

    Attributes:
        attention_layers: Names, within the block, of the linear layers of its attention, the last
            of which gives what is added. Adapters go to these and the next.
        feed_forward_layers: The same of its feed-forward.
    """

    attention_layers: tuple[str, ...] = ("qkv", "output")
    feed_forward_layers: tuple[str, ...] = ("expand", "contract")

    def attend(self, x: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must implement attend")

    def feed_forward(self, x: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must implement feed_forward")

    def forward(self, x: Tensor) -> Tensor:
        return self.feed_forward(self.attend(x))

    def image_tokens(self, x: Tensor) -> Tensor:
        """The tokens (B, N, C) of the image on a map; a map may hold others beside them."""
        return x.flatten(1, 2)


class Plan(Protocol):
    """What happens to each block in one forward pass."""

    def apply(self, index: int, block: RoutedBlock, x: Tensor) -> Tensor:
        """Run block `index` on x, or part of it, or return x."""
        ...

    @property
    def blocks(self) -> Tensor:
        """Which blocks ran, bool (L,) or (B, L); complete once the last block was applied."""
        ...


class Policy(Resumable):
    """Decides which blocks run. A routing method derives from it and implements `plan`.

    A session takes a `fresh` one for its video and tells it of each frame. The other methods need
    an implementation only where a policy has a state, which it declares in `state_types`.

    Attributes:
        recurrent: The plan depends on previous_masks: training then encodes frame after frame
            instead of a clip at once.
        memory_budget: Share of a frame's tokens that may attend to an object's memories; which
            ones, `routing.memory` decides.
    """

    recurrent: bool = False
    memory_budget: float = 1.0

    @property
    def fixed_keep(self) -> tuple[bool, ...] | None:
        """Which blocks run, where they are the same for every image; None otherwise."""
        return None

    @property
    def reads_results(self) -> bool:
        """Whether `end_frame` needs the frame's results, which are then waited for.

        Without it, `end_frame` gets empty arrays.
        """
        return False

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Plan:
        """Make the plan of one pass.

        Args:
            embedding: (B, h, w, C), the image after the patch embedding.
            previous_masks: (B, 1, h', w') logits of the last frame's masks (the union of all
                objects), or None when there are none.
        """
        raise TypeError(f"{type(self).__name__} must implement plan")

    def fresh(self) -> Policy:
        """The same policy at the beginning of a video, sharing networks but no state."""
        return self

    def begin_frame(self) -> None:
        """A frame has come; called before its plan is asked for."""

    def end_frame(self, predicted_iou: NDArray[Any], object_scores: NDArray[Any]) -> None:
        """The frame's results are there: (N,) in [0, 1] and (N,) logits of its N objects."""

    def reseed(self, seed: int) -> None:
        """Begin anew whatever is drawn at random; training calls it before every step."""


class KeepPlan:
    """Runs the blocks marked True and passes the input through the others."""

    def __init__(self, keep: Iterable[bool]) -> None:
        self.keep = tuple(bool(k) for k in keep)

    def apply(self, index: int, block: RoutedBlock, x: Tensor) -> Tensor:
        return block(x) if self.keep[index] else x

    @property
    def blocks(self) -> Tensor:
        return torch.tensor(self.keep)


class Encoder(nn.Module):
    """Base of the image encoders. A subclass sets the attributes and implements the two methods.

    strides, channels: of the returned feature maps, finest first.
    patch_channels, patch_stride: channels C of the patch embedding that policies see, and the
        pixels of the image between its tokens.
    required_blocks: blocks that change the shape and therefore can never be skipped.
    feature_blocks: blocks after which a feature map is emitted, whether or not they ran.
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]
    patch_channels: int
    patch_stride: int
    required_blocks: frozenset[int]
    feature_blocks: tuple[int, ...]
    blocks: nn.ModuleList

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)

    def linear_layers(self, index: int) -> dict[str, nn.Linear]:
        """The linear layers of a block in the order in which they act, by name in the encoder."""
        block = cast("RoutedBlock", self.blocks[index])
        names = (*block.attention_layers, *block.feed_forward_layers)
        return {f"blocks.{index}.{n}": cast("nn.Linear", block.get_submodule(n)) for n in names}

    def run_blocks(
        self,
        x: Tensor,
        policy: Policy | None,
        previous_masks: Tensor | None,
        embedding: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Run the stack on the embedding x (B, h, w, C).

        embedding: what the policy sees of x, where x holds further tokens besides the image's.
        Returns the channels-last maps emitted after `feature_blocks`, and which blocks ran.
        """
        everything = KeepPlan([True] * self.num_blocks)
        seen = x if embedding is None else embedding
        plan = everything if policy is None else policy.plan(seen, previous_masks)
        emitted = []
        for index, block in enumerate(self.blocks):
            x = plan.apply(index, block, x)  # type: ignore[arg-type]
            if index in self.feature_blocks:
                emitted.append(x)
        return emitted, plan.blocks

    def forward(
        self, image: Tensor, policy: Policy | None = None, previous_masks: Tensor | None = None
    ) -> EncoderOutput:
        """Encode an image (B, 3, S, S), normalised. See `EncoderOutput` and `Policy.plan`."""
        raise TypeError(f"{type(self).__name__} must implement forward")


class RoutedNetwork(nn.Module):
    """A network around an image encoder whose blocks a policy chooses; adaptation works on it.

    Attributes:
        encoder: The routed stack.
    """

    encoder: Encoder

    @property
    def name(self) -> str:
        """Of its configuration; adapters know their network by it."""
        raise TypeError(f"{type(self).__name__} must implement name")

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device


def always_on_blocks(encoder: Encoder, chosen: Sequence[int] | None = None) -> tuple[int, ...]:
    """The set K of blocks that no router skips: first, last, and those that change the shape.

    Args:
        encoder: whose blocks are meant.
        chosen: K itself, instead.

    Raises:
        InputError: For chosen blocks that there are not, or without those that change the shape.
    """
    if chosen is None:
        return tuple(sorted({0, encoder.num_blocks - 1, *encoder.required_blocks}))
    check_block_indices(chosen, encoder)
    check_keep([index in chosen for index in range(encoder.num_blocks)], encoder)
    return tuple(sorted(set(chosen)))


def check_block_indices(blocks: Iterable[int], encoder: Encoder) -> None:
    """InputError for blocks that an encoder does not have."""
    beyond = sorted(index for index in blocks if not 0 <= index < encoder.num_blocks)
    if beyond:
        raise InputError(
            f"there are no blocks {beyond}: the encoder has blocks 0 to {encoder.num_blocks - 1}"
        )


def check_keep(keep: Sequence[bool], encoder: Encoder) -> None:
    """Refuse a block choice of the wrong length or one that drops a shape-changing block."""
    if len(keep) != encoder.num_blocks:
        raise InputError(f"the plan names {len(keep)} blocks; the encoder has {encoder.num_blocks}")
    dropped = sorted(i for i in encoder.required_blocks if not keep[i])
    if dropped:
        raise InputError(f"blocks {dropped} change the feature shape and must run; keep them")
