"""A run of tracking in the worker's thread, and how far it is."""

from __future__ import annotations

import resource
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tempomask.errors import InputError
from tempomask.io.video import Video
from tempomask.prompts import Prompt
from tempomask.routing.options import Routing
from tempomask.tracking.options import Direction
from tempomask.web.clicker import entries_of
from tempomask.web.models import Models
from tempomask.web.state import MaskEntry
from tempomask.web.tracking import plan, results

FrameDone = Callable[[int, dict[int, MaskEntry], str], None]


@dataclass(frozen=True)
class Run:
    """What is to be tracked; arguments as of `tracking.plan`. budget, fps: of the router."""

    prompts: Sequence[Prompt]
    direction: Direction
    frame: int
    limits: range
    budget: float | None = None
    fps: float | None = None

    def total(self) -> int:
        """Frames whose masks will come; InputError for a run that cannot be."""
        passes = plan(self.prompts, self.direction, self.frame, self.limits)
        return sum(len(each.shown) for each in passes)

    def steps(
        self, models: Models, video: Video, done: FrameDone
    ) -> Generator[None, None, str | None]:
        """Track, one frame a step; returns the error that ended it, if one did.

        Args:
            models: Of which the routed one serves where a budget or a speed is asked for.
            video: Open.
            done: Takes frame, masks by object and the blocks that ran.
        """
        try:
            routed = self.budget is not None or self.fps is not None
            model = models.routed() if routed else models.plain()
            routing = Routing(budget=self.budget, fps=self.fps) if routed else None
            passes = plan(self.prompts, self.direction, self.frame, self.limits)
            for result, wanted in results(model, video, self.prompts, passes, routing):
                entries = {i: each for i, each in entries_of(result).items() if i in wanted}
                blocks = "".join("1" if ran else "0" for ran in result.blocks)
                done(result.index, entries, blocks)
                yield
        except InputError as caught:
            return str(caught)
        except Exception as caught:
            return f"tracking failed: {caught!r}"
        return None


@dataclass(frozen=True)
class Progress:
    """How far a run is. total: frames; objects: that are tracked; fps: of the last few."""

    total: int
    objects: Sequence[int]
    done: int = 0
    frame: int | None = None
    fps: float | None = None

    def after(self, frame: int, times: Sequence[float]) -> Progress:
        """One frame further. times: when the last frames were done, in seconds."""
        span = times[-1] - times[0]
        fps = (len(times) - 1) / span if span > 0 else None
        return replace(self, done=self.done + 1, frame=frame, fps=fps)

    def view(self) -> dict[str, Any]:
        """As pages take it."""
        return {
            "type": "progress",
            "total": self.total,
            "objects": list(self.objects),
            "done": self.done,
            "frame": self.frame,
            "fps": None if self.fps is None else round(self.fps, 2),
            "megabytes": memory_megabytes(),
        }


def memory_megabytes() -> int:
    """Resident memory of this process; its peak where the system does not tell more."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
