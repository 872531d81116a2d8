"""A latency target: beta is chosen frame by frame so that frames take 1 / fps seconds.

The controller measures the machine while it tracks: how long a frame takes, and how much longer
with more blocks. It moves beta towards the value at which its estimate says the target is met.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tempomask.errors import InputError
from tempomask.ops.resumable import agree
from tempomask.routing.budget import BudgetControl


@dataclass(frozen=True)
class LatencyConfig:
    """fps: the target. least: the share of blocks that K takes.

    count_waiting: a frame lasts from its beginning to that of the next, with reading and writing,
        as is right for files; otherwise only until its result, as is right for a camera, where the
        rest is waiting.
    block: share of one block, to which budgets are rounded down: a frame with one block more would
        take too long. 0 leaves them as they are.
    gain: how far one frame moves beta, as a share of the way. memory: weight of the newest frame in
        the running estimates.
    """

    fps: float
    least: float
    count_waiting: bool = True
    block: float = 0.0
    gain: float = 0.35
    memory: float = 0.15

    def __post_init__(self) -> None:
        if not (self.fps > 0 and math.isfinite(self.fps)):
            raise InputError(f"fps must be a number of frames a second above 0, got {self.fps:g}")


class LatencyBudget(BudgetControl):
    """A beta for every frame of one video, so that a frame takes 1 / fps seconds on the mean.

    clock: seconds, as `time.perf_counter`; another one for tests.
    """

    # What it has learnt; when the frame at hand began is of one process only.
    state_types: ClassVar = {
        **dict.fromkeys(("_share", "_budget", "_mean_time", "_mean_share"), float),
        **dict.fromkeys(("_covariance", "_variance"), float),
        "_frames": int,
    }

    def __init__(
        self, config: LatencyConfig, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.config, self._clock = config, clock
        self._began: float | None = None
        self._share = 1.0
        self._budget = 1.0
        self._frames = 0
        # Running means of time and share, and of their products about these.
        self._mean_time = self._mean_share = 0.0
        self._covariance = self._variance = 0.0

    def check_state(self) -> None:
        numbers = (self._share, self._budget, self._mean_time, self._mean_share)
        finite = all(map(math.isfinite, (*numbers, self._covariance, self._variance)))
        agree(finite and self._frames >= 0, "the budget")

    @property
    def reads_results(self) -> bool:
        """A frame's own time is known only when its results are there."""
        return not self.config.count_waiting

    def __repr__(self) -> str:
        return f"LatencyBudget({self.config})"

    def fresh(self) -> LatencyBudget:
        return LatencyBudget(self.config, self._clock)

    @property
    def seconds(self) -> float:
        """Estimated seconds a frame takes now; 0 before the first."""
        return self._mean_time

    def begin_frame(self) -> None:
        now = self._clock()
        if self.config.count_waiting and self._began is not None:
            self._observe(now - self._began)
        self._began = now
        # Until a rule says otherwise, as on a video's first frame, all blocks run.
        self._share = 1.0

    def end_frame(self, predicted_iou: Sequence[float], object_scores: Sequence[float]) -> None:
        if not self.config.count_waiting and self._began is not None:
            self._observe(self._clock() - self._began)

    def budget(self, uncertainty: float) -> float:
        block = self.config.block
        whole = math.floor(self._budget / block + 1e-6) * block if block else self._budget
        return min(max(whole, self.config.least), 1.0)

    def spent(self, share: float) -> None:
        self._share = share

    def _observe(self, seconds: float) -> None:
        """Learn from a frame, and move beta towards the target."""
        self._frames += 1
        # The very first frame warms everything up and says little.
        if self._frames == 1:
            return
        self._learn(seconds)
        # Both means lag alike, so the share that would take the wanted time does not.
        gap = 1 / self.config.fps - self._mean_time
        aim = self._mean_share + gap / self._seconds_per_share()
        budget = self._budget + self.config.gain * (aim - self._budget)
        self._budget = min(max(budget, self.config.least), 1.0)

    def _learn(self, seconds: float) -> None:
        rate = max(self.config.memory, 1 / (self._frames - 1))
        time_off, share_off = seconds - self._mean_time, self._share - self._mean_share
        self._mean_time += rate * time_off
        self._mean_share += rate * share_off
        self._covariance = (1 - rate) * (self._covariance + rate * time_off * share_off)
        self._variance = (1 - rate) * (self._variance + rate * share_off**2)

    def _seconds_per_share(self) -> float:
        """How much longer a frame takes with all blocks than with none.

        By regression of time on share where the share has varied; it is held between a fifth of a
        frame's time and all of it. One that is too small would make the controller overshoot; with
        one that is too large the aim stays within a block of the share there is, and nothing moves.
        """
        whole = self._mean_time
        slope = self._covariance / self._variance if self._variance > 1e-5 else whole
        return max(min(slope, whole), 0.2 * whole, 1e-9)
