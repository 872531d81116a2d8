"""A session of label propagation: one video or stream, advanced frame by frame.

h x w patches, M labels (background first), H x W the video's size.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.models.encoder import Policy
from tempomask.ops.resumable import Resumable, agree
from tempomask.prompts import Prompt
from tempomask.propagation.labels import LabelContext, labels_on_grid, share_out
from tempomask.propagation.network import PatchEncoder
from tempomask.propagation.options import PropagationOptions
from tempomask.results import FrameArrays, FrameResult
from tempomask.tracking.base import VideoSession, in_turn
from tempomask.tracking.doubt import warn_of_vanished
from tempomask.tracking.frames import network_input

# A margin of 1 has no finite logit; nothing is surer than this.
SURE = 0.999


def resized_shape(size: Size, short_side: int, multiple: int) -> Size:
    """(H, W) of the encoder's image: both sides rounded up, the aspect kept as far as that goes.

    >>> resized_shape((480, 854), 960, 16)
    (960, 1712)
    """

    def round_up(side: float) -> int:
        return math.ceil(side / multiple) * multiple

    height, width = size
    short = round_up(short_side)
    if width > height:
        return short, round_up(width * short / height)
    return round_up(height * short / width), short


class PropagationSession(VideoSession):
    """Propagates masks through one video or stream: `prompt` with masks, then `step` by frame.

    Args:
        network: The encoder; it keeps nothing, so that several sessions can share it.
        options: Of the propagation.
        start: Index of the first frame.
        reverse: Frames come in descending order.
        size: (H, W) of the video if known, so that masks are checked at once.
        dtype: Of the encoder's computation, by autocast; similarities are float32.
        policy: Which encoder blocks run; a fresh one is taken.
    """

    state_types: ClassVar = {
        **VideoSession.state_types,
        "context": Resumable,
        "policy": Resumable | None,
        "_ids": tuple[int, ...],
    }

    def __init__(
        self,
        network: PatchEncoder,
        options: PropagationOptions | None = None,
        *,
        start: int = 0,
        reverse: bool = False,
        size: Size | None = None,
        dtype: torch.dtype = torch.float32,
        policy: Policy | None = None,
    ) -> None:
        super().__init__(start=start, reverse=reverse, size=size, dtype=dtype)
        self.network, self.options = network, options or PropagationOptions()
        self.policy = policy
        self._begin()

    def check_state(self) -> None:
        super().check_state()
        first = self.context.first
        agree((first is None) == (self._index is None) == (not self._ids), "the first frame")
        agree(first is None or first[1].shape[2] == len(self._ids) + 1, "the number of objects")

    @in_turn
    def reset(self) -> None:
        """Forget the video: masks, labels, frame numbers and the frame size."""
        super().reset()
        self._begin()

    def _begin(self) -> None:
        self.context = LabelContext(self.options)
        self.policy = None if self.policy is None else self.policy.fresh()
        # Masks that wait for the first frame, and the objects that had one.
        self._masks: dict[int, NDArray[np.bool_]] = {}
        self._ids: tuple[int, ...] = ()

    @property
    def made_for(self) -> str:
        return f"{self.network.name}, {self.options}"

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The objects, in the order in which they came."""
        return self._ids or tuple(self._masks)

    def prompt(self, *, object_id: int = 1, mask: ArrayLike) -> None:
        """The mask (H, W) of an object on the first frame; where masks overlap, the last counts."""
        self.add(Prompt(self.start, object_id, mask=mask))

    @in_turn
    def add(self, prompt: Prompt) -> None:
        """`prompt` with a ready-made Prompt. InputError unless it is a mask on the first frame."""
        if prompt.mask is None:
            raise InputError(
                f"the prompt for object {prompt.object_id} is not a mask; labels are propagated"
                " from masks: draw one, or make one with `tempomask track` from a click or box"
            )
        if self._index is not None or prompt.frame != self.start:
            raise InputError(
                f"object {prompt.object_id} has its mask on frame {prompt.frame}; labels are"
                f" propagated from the first frame, {self.start}: give all masks there"
            )
        if self._size is not None:
            prompt.check_inside(self._size)
        self._masks[prompt.object_id] = np.asarray(prompt.mask)

    @in_turn
    def step(self, frame: NDArray[np.uint8], index: int | None = None) -> FrameResult:
        """Take in one frame (H, W, 3), uint8 RGB, and say where every object is in it.

        In the result, `low_res_logits` are at the video's size: how far an object's share of a
        pixel lies above the largest other one, > 0 where the object is. `object_scores` are the
        largest of these, `predicted_iou` the mean probability of the patches found, 0 without any.
        """
        frame = self._checked(frame)
        if index is not None and index != self.next_index:
            raise InputError(
                f"frame {index} cannot follow; the next one is {self.next_index}, in order"
            )
        if not self.object_ids:
            raise InputError("no mask given; say where the objects are on the first frame")
        size = frame.shape[0], frame.shape[1]
        for object_id, mask in self._masks.items():
            Prompt(self.start, object_id, mask=mask).check_inside(size)
        self._size = size
        with torch.inference_mode():
            if self.policy is not None:
                self.policy.begin_frame()
            result = self._first(frame) if self._index is None else self._advance(frame)
            if self.policy is not None:
                # As a policy reads the scores of a tracker: logits of being there.
                margins = np.clip(result.object_scores, -SURE, SURE)
                self.policy.end_frame(result.predicted_iou, 2 * np.arctanh(margins))
        self._index, self._ids = self.next_index, self.object_ids
        self._masks = {}
        return result

    def _first(self, frame: NDArray[np.uint8]) -> FrameResult:
        """The first frame: its masks, as labels of its patches and as they are."""
        labels = np.zeros(frame.shape[:2], dtype=np.int64)
        for place, mask in enumerate(self._masks.values(), 1):
            labels[mask] = place
        features, blocks = self._encode(frame, None)
        grid = features.shape[0], features.shape[1]
        label_map = torch.from_numpy(labels).to(features.device)
        patches = labels_on_grid(label_map, grid, len(self._masks) + 1)
        found = patches[..., 1:].amax((0, 1))
        for (object_id, mask), left in zip(self._masks.items(), found, strict=True):
            warn_of_vanished(Prompt(self.start, object_id, mask=mask), bool(left), grid)
        self.context.begin(features, patches)
        ids = np.arange(1, len(self._masks) + 1)[:, None, None]
        margins = np.where(labels == ids, np.float32(1), np.float32(-1))
        found = np.asarray((margins > 0).any(axis=(1, 2)))
        scores = np.where(found, np.float32(1), np.float32(-1))
        return self._result(margins, scores, found.astype(np.float32), blocks)

    def _advance(self, frame: NDArray[np.uint8]) -> FrameResult:
        features, blocks = self._encode(frame, self.context.masks)
        labels = self.context.step(features)
        margins, won = share_out(labels, (frame.shape[0], frame.shape[1]))
        scores = margins.amax(dim=(1, 2))
        total = won.sum(dim=(1, 2))
        mean = (won * labels[..., 1:].permute(2, 0, 1)).sum(dim=(1, 2)) / total.clamp(min=1)
        return self._result(margins.cpu().numpy(), scores.cpu().numpy(), mean.cpu().numpy(), blocks)

    def _result(
        self,
        margins: NDArray[np.float32],
        scores: NDArray[np.float32],
        certainty: NDArray[np.float32],
        blocks: NDArray[np.bool_],
    ) -> FrameResult:
        return FrameResult(
            index=self.next_index,
            size=(margins.shape[1], margins.shape[2]),
            object_ids=self.object_ids,
            arrays=FrameArrays(margins, scores, certainty),
            blocks=blocks,
        )

    def _encode(
        self, frame: NDArray[np.uint8], previous_masks: Tensor | None
    ) -> tuple[Tensor, NDArray[np.bool_]]:
        """Unit features (h, w, D) of a frame (H, W, 3), and which blocks ran (L,)."""
        from PIL import Image

        size = frame.shape[0], frame.shape[1]
        height, width = resized_shape(size, self.options.short_side, self.network.multiple)
        resized = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
        image = network_input(np.asarray(resized), self.network.device)
        reduced = self.dtype != torch.float32
        with torch.autocast(image.device.type, self.dtype, enabled=reduced):
            encoded = self.network.encode(image, self.policy, previous_masks)
        return encoded.features[0], encoded.blocks.reshape(-1).cpu().numpy()
