"""Results of a backward pass, kept on disk until the forward pass reaches their frames."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tempomask.results import FrameArrays, FrameResult


def select_objects(result: FrameResult, object_ids: Sequence[int]) -> FrameResult:
    """The result with only these of its objects, in this order."""
    rows = [result.object_ids.index(object_id) for object_id in object_ids]
    arrays = FrameArrays(*(values[rows] for values in result.delivered))
    return replace(result, object_ids=tuple(object_ids), arrays=arrays)


def merged(first: FrameResult, second: FrameResult) -> FrameResult:
    """The objects of both results of one frame; the encoder blocks of the second."""
    pairs = zip(first.delivered, second.delivered, strict=True)
    arrays = FrameArrays(*(np.concatenate(pair) for pair in pairs))
    return replace(second, object_ids=first.object_ids + second.object_ids, arrays=arrays)


class ResultSpool:
    """Low-resolution results by frame in a temporary folder, float16 and compressed.

    A context manager: the folder goes when it is left. Memory use does not depend on the video.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tempomask-")

    def __enter__(self) -> ResultSpool:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def _path(self, index: int) -> Path:
        return Path(self._folder.name) / f"{index}.npz"

    def put(self, result: FrameResult, object_ids: Collection[int]) -> None:
        """Keep the rows of these objects."""
        kept = select_objects(result, [i for i in result.object_ids if i in object_ids])
        np.savez_compressed(
            self._path(result.index),
            size=np.array(kept.size),
            object_ids=np.array(kept.object_ids, dtype=np.int64),
            low_res_logits=kept.low_res_logits.astype(np.float16),
            object_scores=kept.object_scores,
            predicted_iou=kept.predicted_iou,
            blocks=kept.blocks,
            non_overlapping=np.array(kept.non_overlapping),
        )

    def take(self, index: int) -> FrameResult | None:
        """The result of a frame, once; None if there is none."""
        path = self._path(index)
        if not path.exists():
            return None
        with np.load(path) as stored:
            height, width = stored["size"].tolist()
            result = FrameResult(
                index=index,
                size=(height, width),
                object_ids=tuple(stored["object_ids"].tolist()),
                arrays=FrameArrays(
                    stored["low_res_logits"].astype(np.float32),
                    stored["object_scores"],
                    stored["predicted_iou"],
                ),
                blocks=stored["blocks"],
                non_overlapping=bool(stored["non_overlapping"]),
            )
        path.unlink()
        return result
