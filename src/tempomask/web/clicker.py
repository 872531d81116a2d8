"""Masks from prompts on one frame, fast enough to follow the pointer: the image is encoded once.

Prompts of an object on a frame act one after the other, exactly as `Model.track` applies them with
lookahead, so that a run of the command line gives the same masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tempomask.frames import Frame
from tempomask.model import Model
from tempomask.prompts import Prompt
from tempomask.results import FrameResult, mask_boxes
from tempomask.rle import encode_rle
from tempomask.tracking.options import TrackingOptions
from tempomask.web.state import MaskEntry

# How the page tracks, and `tempomask track --preset interactive --lookahead`.
OPTIONS = TrackingOptions.interactive(lookahead=True)
_CLICKING = replace(OPTIONS, lookahead=False)
_TRIED = 0  # the object that exists for one answer only


class Clicker:
    """Segments prompted objects on the frame that a person looks at.

    Args:
        model: With all blocks running.
        frame: Gives a frame (H, W, 3) by its number.
    """

    def __init__(self, model: Model, frame: Callable[[int], Frame]) -> None:
        self._model, self._frame = model, frame
        self._session = model.session(options=_CLICKING)
        self._at: int | None = None

    def look_at(self, index: int) -> None:
        """Encode a frame now, so that the first click on it need not wait."""
        if self._at == index:
            return
        frame = self._frame(index)
        self._session, self._at = self._model.session(options=_CLICKING, size=frame.shape[:2]), None
        self._session.step(frame)
        height, width = frame.shape[:2]
        self._segment([Prompt(0, _TRIED, box=(0, 0, width, height))])
        self._at = index

    def mask(self, index: int, prompts: Sequence[Prompt]) -> MaskEntry:
        """The mask that prompts of one object give on a frame.

        Args:
            index: Of the frame.
            prompts: In the order given.

        Raises:
            InputError: For prompts that do not fit, and a frame that cannot be read.
        """
        self.look_at(index)
        result = self._segment([replace(each, frame=0, object_id=_TRIED) for each in prompts])
        (entry,) = entries_of(result).values()
        return entry

    def _segment(self, prompts: Sequence[Prompt]) -> FrameResult:
        try:
            for prompt in prompts[:-1]:
                self._session.add(prompt)
            result = self._session.add(prompts[-1])
            assert result is not None, "the frame has been stepped"
            return result
        finally:
            if _TRIED in self._session.object_ids:
                self._session.remove(_TRIED)


def entries_of(result: FrameResult) -> dict[int, MaskEntry]:
    """The masks of a result by object."""
    boxes = result.boxes.tolist()
    return {
        object_id: MaskEntry(
            counts=str(encode_rle(result.masks[place])["counts"]),
            score=round(float(result.object_scores[place]), 4),
            iou=round(float(result.predicted_iou[place]), 4),
            box=tuple(boxes[place]),
            area=int(result.masks[place].sum()),
        )
        for place, object_id in enumerate(result.object_ids)
    }


def entry_of_prompt(prompt: Prompt) -> MaskEntry:
    """The entry of a mask that a person made, exactly as it was drawn."""
    import numpy as np

    mask = np.asarray(prompt.mask)
    x0, y0, x1, y1 = mask_boxes(mask[None])[0].tolist()
    counts = str(encode_rle(mask)["counts"])
    return MaskEntry(counts, 10.0, 1.0, (x0, y0, x1, y1), int(mask.sum()))
