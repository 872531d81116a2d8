"""Interactive segmentation of images, as SAM 2 measures it on SA-23: IoU after so many clicks.

The first click is the middle of the object, and the best of three masks by predicted IoU counts;
each further click is the middle of the largest error, with the logits before it fed back.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.data.image_sets import ImageSet, LabelledImage
from tempomask.errors import Flaws, InputError
from tempomask.evaluation.prompts import error_click
from tempomask.evaluation.settings import Progress, model_settings
from tempomask.files import make_folder, write_csv, write_json
from tempomask.images.session import ImageSession
from tempomask.model import Model
from tempomask.prompts import Prompt
from tempomask.results import FrameResult

# Objects of an image that are segmented at once; their masks are held at its size.
OBJECTS_AT_ONCE = 16
Masks = dict[int, NDArray[np.bool_]]


@dataclass(frozen=True)
class ImageScores:
    """Mean IoU in percent after so many clicks.

    Attributes:
        sets: Mean over the masks of each set, by number of clicks.
        objects: Number of masks of each set.
        images: Of all sets.
        seconds: Of encoding and prompting.
        settings: Of the model and the protocol.
        flaws: Why an image is not among them, by name.
    """

    sets: dict[str, dict[int, float]]
    objects: dict[str, int]
    images: int
    seconds: float
    settings: dict[str, Any]
    flaws: Flaws

    @property
    def mean(self) -> dict[int, float]:
        """Over the sets, each counting the same."""
        clicks = next(iter(self.sets.values()))
        return {k: float(np.mean([scores[k] for scores in self.sets.values()])) for k in clicks}

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json."""
        return {
            "mIoU": {str(k): value for k, value in self.mean.items()},
            "sets": {
                name: {"objects": self.objects[name], **{str(k): v for k, v in scores.items()}}
                for name, scores in self.sets.items()
            },
            "images": self.images,
            "seconds": round(self.seconds, 3),
            "settings": self.settings,
            "flaws": self.flaws,
        }


def evaluate_images(
    model: Model,
    sets: Sequence[ImageSet],
    *,
    clicks: Iterable[int] = (1, 5),
    out: str | Path | None = None,
    max_images: int | None = None,
    progress: Progress | None = None,
) -> ImageScores:
    """Segment every object by clicks on its errors; mean over masks, then over sets.

    Args:
        model: That segments.
        sets: Of labelled images.
        clicks: After how many the IoU is taken.
        out: Folder for results.csv and summary.json; None writes nothing.
        max_images: Only so many first images of each set.
        progress: Told about every image.

    Raises:
        InputError: No image can be read, or the folder cannot be written.
    """
    counts = sorted(set(clicks))
    if not counts or counts[0] < 1:
        raise InputError(f"clicks must be numbers from 1 on, got {list(clicks)}")
    folder = None if out is None else make_folder(out)
    rows, flaws, seconds = list[list[Any]](), Flaws(), 0.0
    done = 0
    for one in sets:
        images = one.images[:max_images]
        for number, image in enumerate(images, 1):
            with flaws.of(f"{one.name}/{image.name}"):
                truth = image.read()
                started = time.perf_counter()
                for object_id, scores in _scores(model, image, truth, counts):
                    rows.append([one.name, image.name, object_id, *scores])
                seconds += time.perf_counter() - started
                done += 1
            if progress is not None:
                progress(one.name, number, len(images))
    flaws.check(rows)
    if not rows:
        raise InputError("the images have no objects to score")
    by_set = {row[0]: np.array([r[3:] for r in rows if r[0] == row[0]]) for row in rows}
    summary = ImageScores(
        {
            name: dict(zip(counts, (100 * ious.mean(axis=0)).tolist(), strict=True))
            for name, ious in by_set.items()
        },
        {name: len(ious) for name, ious in by_set.items()},
        done,
        seconds,
        {
            **model_settings(model),
            "protocol": "SA-23: centre click, best of three by predicted IoU; then error clicks",
            "max_images": max_images,
        },
        flaws,
    )
    if folder is not None:
        columns = ("set", "image", "object", *(f"IoU@{k}" for k in counts))
        write_csv(folder / "results.csv", columns, rows)
        write_json(folder / "summary.json", summary.to_dict())
    return summary


def _scores(
    model: Model, image: LabelledImage, truth: Masks, counts: list[int]
) -> Iterator[tuple[int, list[float]]]:
    """IoU of each object after each of the counts of clicks."""
    if not truth:
        return
    session = model.image_session(image.path)
    listed = list(truth)
    for first in range(0, len(listed), OBJECTS_AT_ONCE):
        ids = listed[first : first + OBJECTS_AT_ONCE]
        yield from _by_clicks(session, {i: truth[i] for i in ids}, counts)


def _by_clicks(
    session: ImageSession, truth: Masks, counts: list[int]
) -> Iterator[tuple[int, list[float]]]:
    points: dict[int, list[tuple[int, int]]] = {i: [] for i in truth}
    labels: dict[int, list[int]] = {i: [] for i in truth}
    masks = {i: np.zeros_like(mask) for i, mask in truth.items()}
    previous: FrameResult | None = None
    scores: dict[int, list[float]] = {i: [] for i in truth}
    for clicked in range(1, counts[-1] + 1):
        wrong = []
        for i, mask in truth.items():
            click = error_click(mask, masks[i])
            if click is not None:  # an object that is right gets no more clicks
                points[i].append(click[0])
                labels[i].append(click[1])
                wrong.append(i)
        if wrong:
            prompts = [Prompt(0, i, points=points[i], labels=labels[i]) for i in wrong]
            multimask = True if clicked == 1 else None
            previous = session.segment(prompts, previous=previous, multimask=multimask)
            masks.update(zip(wrong, previous.masks, strict=True))
        if clicked in counts:
            for i, mask in truth.items():
                scores[i].append(float((mask & masks[i]).sum() / (mask | masks[i]).sum()))
    yield from scores.items()
