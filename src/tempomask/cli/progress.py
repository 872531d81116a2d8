"""What is shown and counted while a run goes through a video."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tempomask.progress import Bars


@dataclass
class RunStats:
    """What a run did.

    Attributes:
        indices: Of the frames that were written.
        times: When each of them was done, in seconds.
        seconds: Of the whole run, with decoding and writing.
        interrupted: Whether Ctrl-C stopped it.
    """

    indices: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False

    def add(self, index: int) -> None:
        """One more frame is done."""
        self.indices.append(index)
        self.times.append(time.perf_counter())

    def settled_speed(self) -> float | None:
        """Frames a second over the second half of the run; None for fewer than three frames."""
        half = self.times[len(self.times) // 2 :]
        return (len(half) - 1) / (half[-1] - half[0]) if len(half) > 1 else None

    def report(self) -> dict[str, Any]:
        """Numbers for `--json`."""
        frames = len(self.indices)
        return {
            "frames": frames,
            "seconds": round(self.seconds, 3),
            "fps": round(frames / self.seconds, 3) if frames and self.seconds else None,
            "interrupted": self.interrupted,
        }


class _Speed(ProgressColumn):
    """Frames a second over the last frames."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} FPS", style="progress.data.speed")


class FrameBar:
    """A progress bar on stderr: frames, FPS, and what the last one shows.

    Args:
        noun: What is counted on a frame.
    """

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self.bar = Bars(
            SpinnerColumn(),
            TextColumn("{task.completed}/{task.fields[known]} frames"),
            BarColumn(),
            _Speed(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
        )
        self.task = self.bar.add_task("", total=None, known="?", shown="")

    def expect(self, total: int | None) -> None:
        """How many frames will be read; None where the end is not known."""
        known = "?" if total is None else str(total)
        self.bar.reset(self.task, total=total, known=known, shown="")

    def read(self) -> None:
        """One more frame was read."""
        self.bar.advance(self.task)

    def show(self, count: int) -> None:
        """How many objects the last frame shows."""
        self.bar.update(self.task, shown=f"{count} {self._noun}{'' if count == 1 else 's'}")
