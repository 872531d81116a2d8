"""DAVIS interactive (Caelles et al. 2018): quality over time, all objects of a video at once.

The first frame of each object is prompted and the video tracked; then the frame with the lowest
mean of J&F over the objects is prompted, never one twice while there are others, and the video is
tracked again. All annotated frames count, the first and the last too. Its robot draws scribbles;
here the objects are clicked, which the protocol does not have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.data.sequences import MaskSequence, ObjectSequence
from tempomask.errors import InputError
from tempomask.evaluation.click_rounds import ClickPlan, Round, filled
from tempomask.evaluation.prompts import error_click
from tempomask.evaluation.settings import Progress
from tempomask.metrics.region_boundary import region_and_boundary
from tempomask.prompts import Prompt
from tempomask.tracking.session import Session

Scores = NDArray[np.float64]
# Seconds after which the score of a curve is also told.
TOLD_AT = 60.0


class Interaction:
    """A video of several objects, clicked on by the truth. The clock runs in the session alone."""

    def __init__(self, session: Session, sequence: ObjectSequence, plan: ClickPlan) -> None:
        """InputError for a sequence without label maps of all its frames."""
        if not isinstance(sequence, MaskSequence) or len(sequence.labels) < len(sequence):
            raise InputError(f"sequence {sequence.name} needs a label map of every frame")
        self.session, self.sequence, self.plan = session, sequence, plan
        self.object_ids = [item.object_id for item in sequence.objects]
        self.prompted: list[int] = []
        self.seconds = 0.0

    def click(self, index: int, object_ids: Sequence[int]) -> bool:
        """Click on the errors of these objects on a frame; False if all are right."""
        truth, frame = self.sequence.masks(index, object_ids), self.sequence.frame(index)
        found, clicked = np.zeros_like(truth), False
        if self.prompted:
            found = self._masks(self.session.result(index).label_map(), object_ids)
        for _ in range(self.plan.clicks):
            prompts = []
            for object_id, true, mask in zip(object_ids, truth, found, strict=True):
                click = error_click(true, mask)
                if click is not None:
                    point, label = click
                    prompts.append(Prompt(index, object_id, points=[point], labels=[label]))
            if not prompts:
                break
            started = time.perf_counter()
            labels = self.session.condition(frame, prompts).label_map()
            self.seconds += time.perf_counter() - started
            found, clicked = self._masks(labels, object_ids), True
        return clicked

    def track(self, passed: Callable[[int], None]) -> tuple[Scores, Scores]:
        """Pass the whole video: J and F (T, N); `passed` is told the index of every frame."""
        region, boundary = np.zeros((2, len(self.sequence), len(self.object_ids)))
        for index in range(len(self.sequence)):
            frame = self.sequence.frame(index)
            started = time.perf_counter()
            labels = self.session.step(frame, index).label_map()
            self.seconds += time.perf_counter() - started
            self.session.release_frames()
            truth = self.sequence.masks(index, self.object_ids)
            found = self._masks(labels, self.object_ids)
            region[index], boundary[index] = region_and_boundary(found, truth)
            passed(index)
        return region, boundary

    @staticmethod
    def _masks(labels: NDArray[Any], object_ids: Sequence[int]) -> NDArray[np.bool_]:
        return labels == np.asarray(object_ids)[:, None, None]


def interactions(
    session: Session,
    sequence: ObjectSequence,
    plan: ClickPlan,
    progress: Progress | None = None,
) -> dict[int, list[Round]]:
    """The rounds of each object; one that ends after the time limit does not count.

    The seconds of a round are those of the whole video. progress: told about the frames of all
    rounds.
    """

    def passed(index: int) -> None:
        if progress is not None:
            done = len(rounds) * len(sequence) + index + 1
            progress(sequence.name, done, plan.rounds * len(sequence))

    work = Interaction(session, sequence, plan)
    rounds: list[tuple[Scores, Scores, float, list[int]]] = []
    chosen: dict[int, list[int]] = {}
    for item in sequence.objects:
        chosen.setdefault(item.first, []).append(item.object_id)
    used: set[int] = set()
    limit = None if plan.max_time is None else plan.max_time * len(work.object_ids)
    spent = 0.0
    while len(rounds) < plan.rounds:
        work.seconds = 0.0
        clicked = [work.click(index, ids) for index, ids in chosen.items()]
        if not any(clicked):
            break
        work.prompted += chosen
        region, boundary = work.track(passed)
        spent += work.seconds
        if limit is not None and spent > limit:
            break
        rounds.append((region.mean(axis=0), boundary.mean(axis=0), work.seconds, [*work.prompted]))
        both = ((region + boundary) / 2).mean(axis=1)
        free = sorted(set(range(len(sequence))) - used) or range(len(sequence))
        worst = min(free, key=lambda index: both[index])
        used.add(worst)
        chosen = {worst: work.object_ids}
    return {
        object_id: filled(
            [Round(float(j[k]), float(f[k]), s, tuple(p)) for j, f, s, p in rounds]
            or [Round(0.0, 0.0, 0.0, ())],
            plan.rounds,
        )
        for k, object_id in enumerate(work.object_ids)
    }


def curve(found: Mapping[tuple[str, int], Sequence[Round]], plan: ClickPlan) -> dict[str, Any]:
    """J&F in percent over seconds, the share of the area below it, and the score after a minute.

    A time is the mean over videos, a score that over all objects. Before the first interaction the
    score is 0. The curve ends, with the last score, at the time limit, or else at so many times the
    longest interaction as there are interactions.
    """
    by_video = {sequence: rounds for (sequence, _), rounds in found.items()}
    seconds = np.array([[r.seconds for r in rounds] for rounds in by_video.values()])
    scores = np.array([[r.mean for r in rounds] for rounds in found.values()]).mean(axis=0)
    end = plan.rounds * seconds.max()
    if plan.max_time is not None:
        end = plan.max_time * len(found) / len(by_video)
    times = np.concatenate(([0.0], seconds.mean(axis=0).cumsum(), [end]))
    values = 100 * np.concatenate(([0.0], scores, scores[-1:]))
    area = float(np.trapezoid(values, times))
    return {
        "seconds": times.tolist(),
        "J&F": values.tolist(),
        "AUC": area / times.max() if times.max() else 0.0,
        "J&F_at_60s": float(np.interp(TOLD_AT, times, values)),
    }
