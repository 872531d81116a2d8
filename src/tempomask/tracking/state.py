"""What a session knows of its video: of every object its prompts, results and memories.

S the network's image side, h x w low resolution (S / 4), C hidden_dim.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tempomask.frames import Size
from tempomask.models.config import SegmenterConfig
from tempomask.ops.resumable import Resumable, agree, agree_shape
from tempomask.ops.transfer import to_device, waits_for_now
from tempomask.prompts import Prompt
from tempomask.results import DeferredArrays, FrameArrays, FrameResult
from tempomask.routing.memory import Focus
from tempomask.tracking.frames import FrameStore
from tempomask.tracking.memory_bank import Memory, MemoryBank
from tempomask.tracking.samurai import Motion
from tempomask.tracking.selection import MemorySelector, Selection

# Labels of the two leading points that stand for a box.
BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = 2, 3


@dataclass(frozen=True, eq=False)
class Clicks:
    """Points (P, 2) in pixels of the network's input, with labels (P,); a box is two points."""

    points: NDArray[np.float32]
    labels: NDArray[np.int64]

    @staticmethod
    def of(prompt: Prompt, size: Size, image_size: int) -> Clicks:
        """The box corners, then the points of a prompt, scaled from (H, W) to the square input.

        What lies outside the image is moved to its border.
        """
        points, labels = [], []
        if prompt.box is not None:
            points.append(np.asarray(prompt.box).reshape(2, 2))
            labels.append(np.array([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]))
        if prompt.points is not None:
            points.append(np.asarray(prompt.points))
            labels.append(np.asarray(prompt.labels))
        # Divide, then multiply, in float32: the official order of operations.
        whole = np.array([size[1], size[0]], dtype=np.float32)
        inside = np.concatenate(points).astype(np.float32).clip(0, whole)
        scaled = inside / whole * np.float32(image_size)
        return Clicks(scaled.astype(np.float32), np.concatenate(labels).astype(np.int64))

    def after(self, earlier: Clicks | None) -> Clicks:
        """These clicks with the earlier ones of the frame before them; a box starts anew."""
        if earlier is None or BOX_TOP_LEFT in self.labels:
            return self
        return Clicks(
            np.concatenate([earlier.points, self.points]),
            np.concatenate([earlier.labels, self.labels]),
        )


def network_mask(prompt: Prompt, image_size: int, device: torch.device) -> Tensor:
    """The mask of a prompt as (S, S) zeros and ones: bilinear with antialiasing, then >= 0.5.

    An object so small that nothing reaches 0.5 keeps its strongest pixels instead of vanishing.
    """
    mask = to_device(np.array(prompt.mask), device).float()
    if mask.shape == (image_size, image_size):
        return mask
    size = (image_size, image_size)
    soft = F.interpolate(mask[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    return (soft >= soft.max().clamp(max=0.5)).float()


@dataclass(frozen=True, eq=False)
class Output:
    """What the network said about one object on one frame.

    Attributes:
        logits: (h, w), as remembered.
        shown: (h, w), as given out and fed back, holes filled.
        object_score: Scalar logit, > 0 = present.
        predicted_iou: Scalar in [0, 1].
        pointer: (C,).
        full_mask: (S, S) zeros and ones of a mask prompt, where its memory is to be made from that.
        prompted: By a person.
        initial: Without memory, as the first prompt on a frame that has not been tracked.
        reverse: The direction of tracking at that time.
        motion, motion_score: With SAMURAI's memory, as in `samurai.Choice`.
        area, anchor: With DAM4SAM's, as in `memory_bank.Memory`.
        path, path_score, rivals: With SAM2Long's: the pathway before that this result goes on from,
            the sum of the log IoUs along it, and the frame's other pathways, the best first.
        focus: With a memory budget, which tokens attended to the object's memories, and why.
        agreement: Of a single click that may be warned of, see `doubt.agreement`.
    """

    logits: Tensor
    shown: Tensor
    object_score: Tensor
    predicted_iou: Tensor
    pointer: Tensor
    full_mask: Tensor | None = None
    prompted: bool = False
    initial: bool = False
    reverse: bool = False
    motion: Motion | None = None
    motion_score: float | None = None
    area: float | None = None
    anchor: bool = False
    path: int = 0
    path_score: float = 0.0
    rivals: tuple[Output, ...] = ()
    focus: Focus | None = None
    agreement: Tensor | None = None

    def remembered(self, index: int, features: Tensor, score: float, iou: float) -> Memory:
        """Its memory, with object score and predicted IoU as far as they are read."""
        noted = self.motion_score, self.area, self.anchor, self.path
        return Memory(index, features, self.pointer, score, iou, *noted)


def stacked_scores(outputs: Iterable[Output]) -> Tensor:
    """Object scores and predicted IoUs of N results, (2, N)."""
    return torch.stack([torch.stack([o.object_score, o.predicted_iou]) for o in outputs], dim=1)


@dataclass(frozen=True, eq=False)
class Request:
    """One object to be segmented on one frame.

    Attributes:
        initial: Whether this is an initial conditioning frame.
        selection: The object's memories; None on such a frame and for mask prompts.
        clicks: All clicks so far on this frame.
        previous: (4h, 4w) logits so far on this frame.
        mask: (S, S) mask prompt, in place of all these.
        motion: Of the object up to the frame before, for a choice by motion.
        path, path_score: Which pathway of the object it goes on, and that one's score so far.
        focus: Same as in `Output`.
    """

    initial: bool = False
    selection: Selection | None = None
    clicks: Clicks | None = None
    previous: Tensor | None = None
    mask: Tensor | None = None
    motion: Motion | None = None
    path: int = 0
    path_score: float = 0.0
    focus: Focus | None = None

    @property
    def num_points(self) -> int:
        return 0 if self.clicks is None else len(self.clicks.labels)


@dataclass
class TrackedObject:
    """What is known of one object.

    Attributes:
        object_id: Its name.
        bank: Its memories.
        rival_banks: Those of its other pathways (`pathways.py`), in the order of `Output.rivals`.
        outputs: By frame, of frames that can be corrected and of conditioning frames that lie
            ahead.
        clicks: By frame, all clicks given so far.
        staged: Memories by frame, and whether they condition. They enter the bank when tracking
            goes on, so that a second prompt on a frame does not see the first one as memory.
    """

    object_id: int
    bank: MemoryBank = field(default_factory=MemoryBank)
    rival_banks: tuple[MemoryBank, ...] = ()
    outputs: dict[int, Output] = field(default_factory=dict)
    clicks: dict[int, Clicks] = field(default_factory=dict)
    staged: dict[int, tuple[Memory, bool]] = field(default_factory=dict)

    def check(self, config: SegmenterConfig) -> None:
        """ValueError unless frames agree, and shapes are those of a network."""
        side, channels = config.image_size, config.hidden_dim
        low = (side // 4, side // 4)
        staged = [(i, m) for i, (one, _) in self.staged.items() for m in (one, *one.rivals)]
        stored = [(bank.conditioning, bank.recent) for bank in self.banks]
        kept = [pair for both in stored for memories in both for pair in memories.items()]
        for index, memory in (*kept, *staged):
            what = f"the memory of object {self.object_id} on frame {index}"
            agree(memory.frame == index, what)
            agree_shape(what, memory.features, *config.memory_shape)
            agree_shape(what, memory.pointer, channels)
        outputs = [(i, o) for i, one in self.outputs.items() for o in (one, *one.rivals)]
        for index, output in outputs:
            what = f"the result of object {self.object_id} on frame {index}"
            for logits in (output.logits, output.shown):
                agree_shape(what, logits, *low)
            for score in (output.object_score, output.predicted_iou):
                agree_shape(what, score)
            agree_shape(what, output.pointer, channels)
            agree_shape(what, output.full_mask, side, side)
            agree(output.motion is None or output.motion.filter.fits(), what)
            agree(output.focus is None or output.focus.fits(), what)
        for index, clicks in self.clicks.items():
            agree(
                clicks.points.shape == (*clicks.labels.shape, 2) and clicks.labels.ndim == 1,
                f"the clicks of object {self.object_id} on frame {index}",
            )

    @property
    def banks(self) -> tuple[MemoryBank, ...]:
        """Those of all its pathways, first that of the result that is shown."""
        return self.bank, *self.rival_banks

    def copy(self) -> TrackedObject:
        """A copy with dictionaries of its own, of the same results."""
        return replace(
            self,
            bank=self.bank.copy(),
            rival_banks=tuple(bank.copy() for bank in self.rival_banks),
            outputs=dict(self.outputs),
            clicks=dict(self.clicks),
            staged=dict(self.staged),
        )

    def merge_staged(self) -> None:
        """Move staged memories into the bank."""
        for memory, conditioning in self.staged.values():
            before = self.banks
            if conditioning or not (memory.rivals or self.rival_banks):
                # A prompt settles which pathway is right.
                self.rival_banks = ()
                self.bank.store(memory, conditioning)
                continue
            grown = []
            for one in (memory, *memory.rivals):
                bank = before[min(one.path, len(before) - 1)].copy()
                bank.store(replace(one, rivals=()), conditioning=False)
                grown.append(bank)
            self.bank, self.rival_banks = grown[0], tuple(grown[1:])
        self.staged.clear()


@dataclass
class VideoState(Resumable):
    """Objects and frames of one video.

    Attributes:
        frames: Images and features that are still of use.
        reverse: The direction of tracking.
        objects: By id, in the order in which they came.
        fresh: Results whose memory is still to be encoded: their frame, and the objects' ids.
        arrived: For the policy: the frame that tracking has come to, and the greatest logit
            (1, 1, h, w) of all objects on the frame before it, None without one.
    """

    state_types: ClassVar = {
        "frames": Resumable,
        "reverse": bool,
        "objects": dict[int, TrackedObject],
    }

    frames: FrameStore
    reverse: bool = False
    objects: dict[int, TrackedObject] = field(default_factory=dict)
    fresh: tuple[int, frozenset[int]] | None = None
    arrived: tuple[int, Tensor | None] | None = None

    def check_state(self) -> None:
        config = self.frames.segmenter.config
        side, channels = config.image_size, config.hidden_dim
        for index, image in self.frames.images.items():
            agree_shape(f"the image of frame {index}", image, channels, side // 16, side // 16)
        for object_id, tracked in self.objects.items():
            agree(tracked.object_id == object_id, f"the id of object {object_id}")
            tracked.check(config)
            needed = {*tracked.staged}.union(*(bank.frames() for bank in tracked.banks))
            seen = not config.memory_attention.image_keys or needed <= self.frames.images.keys()
            agree(seen, f"a frame of object {object_id}")

    def check_memories(self, selector: MemorySelector, following: int) -> None:
        """ValueError unless every object has memories for the next frame."""
        for object_id, tracked in self.copy().objects.items():
            tracked.merge_staged()
            bank, what = tracked.bank, f"the memory of object {object_id}"
            reached = selector.reach(bank, following, following, self.reverse).spatial
            agree({t for t in bank.conditioning if t in reached} <= set(bank.frames()), what)
            agree(bool(selector.select(bank, following, self.reverse).spatial), what)

    def copy(self) -> VideoState:
        """A copy with dictionaries of its own, of the same results."""
        objects = {i: tracked.copy() for i, tracked in self.objects.items()}
        return replace(self, frames=self.frames.copy(), objects=objects)

    def advance(self, last: int | None, following: int) -> None:
        """Go on from frame `last` to another: staged memories count, prompts are history."""
        self.arrived = following, self._shown_before(last, following)
        for tracked in self.objects.values():
            tracked.merge_staged()
            if last in tracked.outputs:
                tracked.outputs[last] = replace(tracked.outputs[last], initial=False)

    def _shown_before(self, last: int | None, following: int) -> Tensor | None:
        """The greatest logit of all objects (1, 1, h, w) on the frame before, for the policy.

        That is the neighbour in the direction of tracking if it has results; it need not be the
        frame last stepped, where tracking went back or turned. None without a mask.
        """
        sign = -1 if self.reverse else 1
        before: int | None = following - sign
        if not any(before in tracked.outputs for tracked in self.objects.values()):
            before = last if last is not None and sign * last < sign * following else None
        shown = [o.outputs[before].shown for o in self.objects.values() if before in o.outputs]
        if self.frames.policy is None or not shown:
            return None
        return torch.stack(shown).amax(dim=0)[None, None]

    def result(self, index: int, size: Size, non_overlapping: bool) -> FrameResult:
        """The result of a frame, of all objects that have one there."""
        rows = {i: o.outputs[index] for i, o in self.objects.items() if index in o.outputs}
        side = self.frames.segmenter.config.image_size // 4
        logits, scores = torch.zeros(0, side, side), torch.zeros(2, 0)
        if rows:
            logits = torch.stack([output.shown for output in rows.values()])
            scores = stacked_scores(rows.values())
        wait = waits_for_now(logits.device)

        def fetch() -> FrameArrays:
            # Whoever reads may do so on another stream than the one that computes.
            wait()
            object_scores, predicted_iou = scores.cpu().numpy()
            return FrameArrays(logits.cpu().numpy(), object_scores, predicted_iou)

        blocks = self.frames.blocks(index if rows else None)
        arrays = DeferredArrays(fetch)
        return FrameResult(index, size, tuple(rows), arrays, blocks, non_overlapping)

    def forget_prompts(self, object_id: int, index: int) -> None:
        """Make a prompted frame of an object an ordinary one.

        A mask that tracking has not gone on from is forgotten; another is kept until the frame is
        tracked again.
        """
        tracked = self.objects.get(object_id)
        if tracked is None:
            return
        tracked.clicks.pop(index, None)
        output = tracked.outputs.get(index)
        if output is None or not output.prompted:
            return
        fresh = tracked.staged.pop(index, None) is not None
        if self.fresh is not None and self.fresh[0] == index:
            fresh |= object_id in self.fresh[1]
            self.fresh = index, self.fresh[1] - {object_id}
        if fresh:
            del tracked.outputs[index]
        else:
            tracked.outputs[index] = replace(output, prompted=False, initial=True)
        memory = tracked.bank.conditioning.pop(index, None)
        if memory is not None:
            tracked.bank.recent[index] = memory

    def forget(
        self, selector: MemorySelector, keep: int, index: int | None, following: int
    ) -> None:
        """Drop everything that no later step and no allowed correction can reach.

        Args:
            selector: Says which memories can still be attended to.
            keep: Number of earlier frames that can still be corrected.
            index: The frame last stepped, None before the first.
            following: The next one.
        """
        sign = -1 if self.reverse else 1
        oldest = following if index is None else index - sign * keep
        window = set() if index is None else set(range(oldest, index + sign, sign))
        # Results that are still to be remembered are needed wherever they lie.
        fresh = set() if self.fresh is None else {self.fresh[0]}
        recorded, images = set(window), window | fresh
        for tracked in self.objects.values():
            for bank in tracked.banks:
                bank.retain(selector.reach(bank, oldest, following, self.reverse))
            ahead = {t for t in tracked.outputs if sign * t >= sign * following}
            kept = window | ahead | fresh
            tracked.outputs = {t: output for t, output in tracked.outputs.items() if t in kept}
            tracked.clicks = {t: clicks for t, clicks in tracked.clicks.items() if t in kept}
            recorded |= ahead
            images |= ahead.union(tracked.staged, *(bank.frames() for bank in tracked.banks))
        self.frames.retain(window, recorded, images)
