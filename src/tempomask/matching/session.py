"""A session of XMem or Cutie: one video or stream, advanced frame by frame, masks given.

N objects, H x W the video's size, h x w that of the padded image over 16.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.matching.memory import MatchingMemory
from tempomask.matching.options import MatchingOptions
from tempomask.models.matching.blocks import ImageFeatures, MatchingNetwork, aggregate
from tempomask.ops.normalise import IMAGENET_MEAN, IMAGENET_STD
from tempomask.ops.resumable import Resumable, agree, agree_shape
from tempomask.prompts import Prompt
from tempomask.results import FrameArrays, FrameResult
from tempomask.tracking.base import PromptedSession, VideoSession, in_turn
from tempomask.tracking.doubt import warn_of_vanished
from tempomask.tracking.frames import network_input

# Both sides of an image are brought to multiples of this.
STRIDE = 16


class _Last(NamedTuple):
    """The frame last stepped: what can be corrected."""

    features: ImageFeatures
    probabilities: Tensor
    # Before the frame was remembered, if it was.
    memory: MatchingMemory


class MatchingSession(PromptedSession):
    """Tracks masks through one video or stream: `prompt` with masks, then `step` by frame.

    Args:
        network: It keeps nothing, so that several sessions can share it.
        options: Of the memory.
        start: Index of the first frame.
        reverse: Frames come in descending order.
        size: (H, W) of the video if known, so that masks are checked at once.
        dtype: Of the network, by autocast; matching is float32.
    """

    state_types: ClassVar = {
        **VideoSession.state_types,
        "memory": Resumable,
        "_masks": Tensor | None,
        "_steps": int,
        "_remembered": int,
    }

    def __init__(
        self,
        network: MatchingNetwork,
        options: MatchingOptions | None = None,
        *,
        start: int = 0,
        reverse: bool = False,
        size: Size | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(start=start, reverse=reverse, size=size, dtype=dtype)
        self.network, self.options = network, options or MatchingOptions()
        wanted = self.options.long_term
        self.long_term = network.long_term if wanted is None else wanted
        self._begin()

    def _begin(self) -> None:
        self.memory = MatchingMemory()
        self._pending: dict[int, dict[int, NDArray[np.bool_]]] = {}
        # Probabilities (N, H', W') of the frame before, padded; frames since the first mask, and
        # which of them was remembered last.
        self._masks: Tensor | None = None
        self._steps, self._remembered = -1, 0
        self._last: _Last | None = None

    @in_turn
    def reset(self) -> None:
        """Forget the video: objects, memories, masks, frame numbers and the frame size."""
        super().reset()
        self._begin()

    def check_state(self) -> None:
        """Same as in `Resumable`."""
        super().check_state()
        if self._masks is None:
            agree(not self.memory.objects and not self.memory.groups, "the masks")
            return
        agree(self._size is not None and 0 <= self._remembered <= self._steps, "the frame number")
        assert self._size is not None
        height, width = (side + -side % STRIDE for side in self._network_size(self._size))
        agree_shape("the masks", self._masks, len(self.memory.objects), height, width)
        agree(self._masks.dtype == torch.float32, "the masks")
        self.memory.check(self.network.config, (height // STRIDE, width // STRIDE))

    @property
    def made_for(self) -> str:
        """Same as in `VideoSession`."""
        return f"{self.network.name}, {self.options}"

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.device

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Objects that are tracked now, in the order in which they came."""
        return self.memory.objects

    @property
    def waiting(self) -> tuple[Prompt, ...]:
        """Prompts for frames that have not come yet."""
        pairs = [(t, i, mask) for t, masks in self._pending.items() for i, mask in masks.items()]
        return tuple(Prompt(frame, object_id, mask=mask) for frame, object_id, mask in pairs)

    def memory_bytes(self) -> int:
        """Bytes held by all memories."""
        return self.memory.num_bytes()

    def prompt(
        self, *, object_id: int = 1, mask: ArrayLike, frame: int | None = None
    ) -> FrameResult | None:
        """The mask (H, W) of an object on the coming frame, a later one, or the last one.

        Returns:
            For the frame last stepped the corrected result, otherwise None.
        """
        return self.add(Prompt(self.next_index if frame is None else frame, object_id, mask=mask))

    @in_turn
    def add(self, prompt: Prompt) -> FrameResult | None:
        """`prompt` with a ready-made Prompt; InputError unless it is a mask."""
        mask = self._mask_of(prompt)
        if not self.is_ahead(prompt.frame):
            return self._correct(prompt.frame, prompt.object_id, mask)
        self._pending.setdefault(prompt.frame, {})[prompt.object_id] = mask
        return None

    @in_turn
    def correct(
        self, *, object_id: int = 1, mask: ArrayLike, frame: int | None = None
    ) -> FrameResult:
        """Replace the mask of an object on the frame last stepped, or add an object there.

        The frame is then remembered for good. Returns its new result.
        """
        if self._index is None:
            raise InputError("there is no frame to correct; call step first")
        prompt = Prompt(self._index if frame is None else frame, object_id, mask=mask)
        return self._correct(prompt.frame, object_id, self._mask_of(prompt))

    @in_turn
    def remove(self, object_id: int) -> None:
        """Stop tracking an object; its id can be used again for a new one."""
        waiting = [masks for masks in self._pending.values() if object_id in masks]
        if object_id not in self.object_ids and not waiting:
            names = ", ".join(map(str, self.object_ids)) or "none"
            raise InputError(f"there is no object {object_id} to remove; tracked: {names}")
        for masks in waiting:
            del masks[object_id]
        if object_id in self.object_ids and self._masks is not None:
            rows = [row for row, one in enumerate(self.object_ids) if one != object_id]
            self._masks = self._masks[rows] if rows else None
            self.memory.remove(object_id)
            self._last = None

    def check_prompt(self, prompt: Prompt) -> None:
        """InputError unless it is a mask of the video's size."""
        self._mask_of(prompt)

    def _mask_of(self, prompt: Prompt) -> NDArray[np.bool_]:
        if prompt.mask is None:
            raise InputError(
                f"the prompt for object {prompt.object_id} is not a mask, and {self.network.name}"
                " tracks masks: draw one, or make one of a click or box with `tempomask segment`"
                " (nano)"
            )
        if self._size is not None:
            prompt.check_inside(self._size)
        return np.asarray(prompt.mask, dtype=bool)

    @in_turn
    def step(self, frame: NDArray[np.uint8], index: int | None = None) -> FrameResult:
        """Take in one frame (H, W, 3), uint8 RGB, and say where every object is in it.

        In the result, `low_res_logits` are at the video's size: the log odds of an object against
        the likeliest other one or the background. `object_scores` are the largest of these,
        `predicted_iou` the mean probability inside the mask, 0 without one.
        """
        frame = self._checked(frame)
        if index is not None and index != self.next_index:
            raise InputError(
                f"frame {index} cannot follow; the next one is {self.next_index}, in order"
            )
        size = frame.shape[0], frame.shape[1]
        given = self._pending.get(self.next_index, {})
        for object_id, mask in list(given.items()):
            try:
                Prompt(self.next_index, object_id, mask=mask).check_inside(size)
            except InputError:
                del given[object_id]
                raise
        with self._computing(self.device):
            result = self._advance(frame, size, given)
        self._pending.pop(self.next_index, None)
        self._index, self._size = result.index, size
        return result

    def _advance(
        self, frame: NDArray[np.uint8], size: Size, given: dict[int, NDArray[np.bool_]]
    ) -> FrameResult:
        """A frame; nothing of the session changes before all of it is done."""
        memory, index = self.memory.copy(), self.next_index
        if not given and not memory.objects:
            return _result(index, size, (), torch.zeros(1, *size), ran=False)
        steps = self._steps + 1
        features = self.network.encode(self._image(frame))
        due = bool(given) or steps - self._remembered >= self.options.memory_every
        probabilities = None
        if any(one not in given for one in memory.objects):
            update = self.network.always_updates or not due
            probabilities = self._track(memory, features, update).softmax(dim=0)
        if given:
            probabilities = self._merged(index, memory.objects, probabilities, given, size)
        assert probabilities is not None
        self._last = _Last(features, probabilities, memory.copy())
        objects = _order(memory.objects, given)
        if due:
            self._remember(memory, objects, features, probabilities[1:])
            self._remembered = steps
        self.memory, self._masks, self._steps = memory, probabilities[1:], steps
        return _result(index, size, objects, self._at_video_size(probabilities, size))

    def _track(self, memory: MatchingMemory, features: ImageFeatures, update: bool) -> Tensor:
        """Logits (N + 1, H', W') of the objects that are remembered."""
        assert self._masks is not None, "there are objects"
        grid = features.pixel.shape[2:]
        readouts: dict[int, Tensor] = {}
        for place, group in enumerate(memory.groups):
            values, memory.groups[place] = group.read(features, self.options.top_k)
            rows = [memory.objects.index(one) for one in group.objects]
            sensory = torch.stack([memory.sensory[one] for one in group.objects])
            summed = [memory.summaries[one] for one in group.objects if memory.summaries]
            readout = self.network.read(
                features,
                values.unflatten(2, grid),
                sensory,
                self._masks[rows],
                torch.stack(summed) if summed else None,
            )
            readouts.update(zip(group.objects, readout, strict=True))
        readout = torch.stack([readouts[one] for one in memory.objects])
        sensory = torch.stack(list(memory.sensory.values()))
        logits, sensory = self.network.decode(features, readout, sensory, update)
        memory.sensory = dict(zip(memory.objects, sensory, strict=True))
        return logits

    def _remember(
        self,
        memory: MatchingMemory,
        objects: Sequence[int],
        features: ImageFeatures,
        masks: Tensor,
        for_good: bool = False,
    ) -> None:
        shape = self.network.config.sensory_dim, *features.pixel.shape[2:]
        for object_id in objects:
            if object_id not in memory.sensory:
                memory.sensory[object_id] = torch.zeros(shape, device=self.device)
        sensory = torch.stack(list(memory.sensory.values()))
        found = self.network.remember(features, masks, sensory)
        memory.add(features, found, self.options, self.long_term, for_good)

    def _merged(
        self,
        index: int,
        known: Sequence[int],
        tracked: Tensor | None,
        given: dict[int, NDArray[np.bool_]],
        size: Size,
    ) -> Tensor:
        """Probabilities (N + 1, H', W') with given masks, which others have to leave."""
        masks = {object_id: self._given(mask, size) for object_id, mask in given.items()}
        for object_id, mask in given.items():
            left = bool(masks[object_id].any())
            warn_of_vanished(Prompt(index, object_id, mask=mask), left, self._network_size(size))
        if tracked is not None:
            taken = torch.stack(list(masks.values())).amax(dim=0) > 0.5
            before = {one: tracked[row].masked_fill(taken, 0) for row, one in enumerate(known, 1)}
            masks = {**before, **masks}
        rows = [masks[one] for one in _order(known, given)]
        return aggregate(torch.stack(rows)).softmax(dim=0)

    def _correct(self, index: int, object_id: int, mask: NDArray[np.bool_]) -> FrameResult:
        if index != self._index or self._size is None:
            raise InputError(
                f"frame {index} is not kept; {self.network.name} corrects the frame last stepped"
                f" ({self._index}), or give the mask before its frame is stepped"
            )
        if self._last is None:
            raise InputError(f"frame {index} has nothing to correct; step a frame with masks first")
        features, before, memory = self._last._replace(memory=self._last.memory.copy())
        with self._computing(self.device):
            known = self.object_ids
            probabilities = self._merged(index, known, before, {object_id: mask}, self._size)
            objects = _order(known, [object_id])
            base = memory.copy()
            self._remember(memory, objects, features, probabilities[1:], for_good=True)
        self.memory, self._masks = memory, probabilities[1:]
        # A second correction of the frame takes the place of this one.
        self._last, self._remembered = _Last(features, probabilities, base), self._steps
        video = self._at_video_size(probabilities, self._size)
        return _result(index, self._size, objects, video)

    def _network_size(self, size: Size) -> Size:
        """(H, W) of the image before it is padded: no larger than the short side asked for."""
        scale = min(1.0, self.options.short_side / min(size))
        return max(int(size[0] * scale), 1), max(int(size[1] * scale), 1)

    def _image(self, frame: NDArray[np.uint8]) -> Tensor:
        """The network's input (1, 3, H', W')."""
        image = network_input(frame, self.device)
        size = self._network_size((frame.shape[0], frame.shape[1]))
        if image.shape[2:] != size:
            image = F.interpolate(image, size, mode="bilinear", antialias=True)
        left, right, top, bottom = _padding(size)
        padded = F.pad(image, (left, right, top, bottom))
        if self.network.pads_black and max(left, right, top, bottom):
            moments = zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)
            black = torch.tensor([-mean / std for mean, std in moments], device=self.device)
            outside = F.pad(padded.new_zeros(size), (left, right, top, bottom), value=1) > 0
            padded = torch.where(outside, black[:, None, None], padded)
        return padded

    def _given(self, mask: NDArray[np.bool_], size: Size) -> Tensor:
        """A given mask as (H', W') zeros and ones."""
        tensor = torch.from_numpy(np.array(mask)).to(self.device).float()
        wanted = self._network_size(size)
        if tuple(tensor.shape) != wanted:
            tensor = F.interpolate(tensor[None, None], wanted, mode="nearest-exact")[0, 0]
        return F.pad(tensor, _padding(wanted))

    def _at_video_size(self, probabilities: Tensor, size: Size) -> Tensor:
        """(N + 1, H', W') without the border, brought to (N + 1, H, W)."""
        wanted = self._network_size(size)
        left, _, top, _ = _padding(wanted)
        inside = probabilities[:, top : top + wanted[0], left : left + wanted[1]]
        if wanted == size:
            return inside
        return F.interpolate(inside[None], size, mode="bilinear", align_corners=False)[0]


def _padding(size: Size) -> tuple[int, int, int, int]:
    """Left, right, top, bottom."""
    down, across = (-side % STRIDE for side in size)
    return across // 2, across - across // 2, down // 2, down - down // 2


def _order(known: Sequence[int], given: Iterable[int]) -> tuple[int, ...]:
    """Known objects, then new ones."""
    return (*known, *(one for one in given if one not in known))


def _result(
    index: int, size: Size, objects: Sequence[int], probabilities: Tensor, ran: bool = True
) -> FrameResult:
    """The result of probabilities (N + 1, H, W)."""
    logs = probabilities.float().clamp(min=1e-7).log()
    best = logs.topk(min(2, len(logs)), dim=0).values
    # Against the likeliest other one: where an object is the likeliest, that is the second.
    margins = torch.stack(
        [torch.where(row == best[0], row - best[-1], row - best[0]) for row in logs[1:]]
        or [logs[0]]
    )[: len(objects)]
    inside = margins > 0
    area = inside.sum(dim=(1, 2)).clamp(min=1)
    certainty = (probabilities[1:][: len(objects)] * inside).sum(dim=(1, 2)) / area
    scores = margins.amax(dim=(1, 2)) if len(objects) else margins.new_zeros(0)
    arrays = FrameArrays(*(x.float().cpu().numpy() for x in (margins, scores, certainty)))
    return FrameResult(index, size, tuple(objects), arrays, np.array([ran]))
