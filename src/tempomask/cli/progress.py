"""What is shown and counted while a video is tracked: the progress bar and the tally."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tempomask.cli import console

if TYPE_CHECKING:
    from tempomask.results import FrameResult


@dataclass
class ObjectTally:
    """What became of one object: frames on which it was tracked and seen, sum of predicted IoU."""

    frames: int = 0
    visible: int = 0
    predicted_iou: float = 0.0


@dataclass
class RunStats:
    """What a run did. blocks: which encoder blocks ran, one row per frame in `indices`.

    times: when each of these frames was done, in seconds.
    """

    indices: list[int] = field(default_factory=list)
    blocks: list[NDArray[np.bool_]] = field(default_factory=list)
    objects: dict[int, ObjectTally] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False

    def add(self, result: FrameResult) -> None:
        self.indices.append(result.index)
        self.blocks.append(result.blocks)
        self.times.append(time.perf_counter())
        # Masks at the video's size are left to the thread that writes them, where that will do.
        masks = result.masks if result.non_overlapping else result.low_res_logits > 0
        for place, object_id in enumerate(result.object_ids):
            tally = self.objects.setdefault(object_id, ObjectTally())
            tally.frames += 1
            if masks[place].any():
                tally.visible += 1
                tally.predicted_iou += float(result.predicted_iou[place])

    def settled_speed(self) -> float | None:
        """Frames a second over the second half of the run; None for fewer than three frames."""
        half = self.times[len(self.times) // 2 :]
        return (len(half) - 1) / (half[-1] - half[0]) if len(half) > 1 else None

    def report(self) -> dict[str, Any]:
        """Numbers for `--json`: frames, FPS with decoding and writing, and what each object did."""
        frames = len(self.indices)
        shares = [float(blocks.mean()) for blocks in self.blocks if blocks.any()]
        return {
            "frames": frames,
            "first_frame": min(self.indices, default=None),
            "last_frame": max(self.indices, default=None),
            "seconds": round(self.seconds, 3),
            "fps": round(frames / self.seconds, 3) if frames and self.seconds else None,
            "blocks_run": round(sum(shares) / len(shares), 4) if shares else None,
            "interrupted": self.interrupted,
            "objects": [
                {
                    "id": object_id,
                    "frames": tally.frames,
                    "visible_frames": tally.visible,
                    "predicted_iou": (
                        round(tally.predicted_iou / tally.visible, 4) if tally.visible else None
                    ),
                }
                for object_id, tally in sorted(self.objects.items())
            ],
        }


class _Speed(ProgressColumn):
    """Frames a second over the last frames."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} FPS", style="progress.data.speed")


class FrameBar:
    """A progress bar on stderr: frames, FPS, objects. `total` None where the end is not known."""

    def __init__(self, total: int | None) -> None:
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.completed}/{task.fields[known]} frames"),
            BarColumn(),
            _Speed(),
            TextColumn("{task.fields[objects]}"),
            TimeRemainingColumn(),
            console=console.err,
        )
        self.task = self.bar.add_task("", total=total, known=_count(total), objects="")

    def restart(self, total: int | None) -> None:
        """Another number of frames to read."""
        self.bar.reset(self.task, total=total, known=_count(total), objects="")

    def read(self) -> None:
        """One more frame was read."""
        self.bar.advance(self.task)

    def show(self, result: FrameResult) -> None:
        self.count(len(result.object_ids), "object")

    def count(self, number: int, what: str) -> None:
        """How many of what the last frame shows."""
        self.bar.update(self.task, objects=f"{number} {what}{'' if number == 1 else 's'}")


def _count(total: int | None) -> str:
    return "?" if total is None else str(total)
