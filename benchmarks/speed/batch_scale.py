"""What of `tempomask batch` breaks first with 1,000 workers and 1,000,000 jobs, by simulation.

    python -m benchmarks.speed.batch_scale --out docs/results/batch_scale.json
    python -m benchmarks.speed.batch_scale --part list --out docs/results/batch_list.json

The real code with fake jobs of known length: reading and checking the list, `run_jobs` over
workers that work on a simulated clock (the scheduler's own CPU time and the measured cost of a
message pass on it too), markers written and read on this disk, the report. CPU seconds, so that
what else the machine does counts little.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import finish, parser, shortest
from tempomask.batch.jobs import read_jobs
from tempomask.batch.places import Place
from tempomask.batch.pool import Answer, Fleet, Processes, Worker, WorkerDied, run_jobs
from tempomask.batch.report import Row, write_report
from tempomask.cli.batch import _all_earlier
from tempomask.cli.batch_job import _parsed, asked_of, columns
from tempomask.errors import InputError

# As a job's report is, in length.
REPORT = {
    "source": "videos/0000000.mp4",
    "frames": 300,
    "fps": 25.0,
    "interrupted": False,
    "objects": [{"id": 1, "frames": 300, "visible_frames": 280, "predicted_iou": 0.9}],
    "text": "x" * 400,
}


class Simulated(Fleet[int]):
    """Workers on a clock of their own; a job is a number, `lengths` says how long it takes.

    Args:
        lengths: Seconds of each job.
        start: Seconds until a new worker begins.
        message: Seconds of the scheduler's time that a job costs beside its Python code.
        look: Seconds of each look at all workers.
        deaths: The jobs that kill their first worker, at their end.
    """

    def __init__(
        self,
        lengths: Sequence[float],
        start: float,
        message: float,
        look: float,
        deaths: set[int],
    ) -> None:
        self.lengths, self.started, self.message, self.deaths = lengths, start, message, deaths
        self.look, self.looks = look, 0
        self.clock, self.running = 0.0, list[tuple[float, int, "_SimulatedWorker"]]()
        self.cpu, self._left = 0.0, time.process_time()

    def start(self) -> Worker[int]:
        """A worker that is ready in a while."""
        return _SimulatedWorker(self, self.clock + self.started)

    def wait(self, workers: Sequence[Worker[int]], seconds: float) -> Sequence[Worker[int]]:
        """Let time pass: what the scheduler took, then what the workers need."""
        spent = time.process_time() - self._left
        self.cpu += spent
        self.looks += 1
        self.clock = max(self.clock + spent + self.look, self.running[0][0])
        ready = list[Worker[int]]()
        while self.running and self.running[0][0] <= self.clock:
            ready.append(heapq.heappop(self.running)[2])
            self.clock += self.message
        self._left = time.process_time()
        return ready


class _SimulatedWorker(Worker[int]):
    def __init__(self, fleet: Simulated, free: float) -> None:
        self.fleet, self.free = fleet, free

    def _send(self, job: int) -> None:
        self.free = max(self.free, self.fleet.clock) + self.fleet.lengths[job]
        heapq.heappush(self.fleet.running, (self.free, job, self))

    def answer(self) -> Answer:
        if self.job in self.fleet.deaths:
            self.fleet.deaths.remove(self.job)
            raise WorkerDied("simulated")
        return {"frames": 1}, None

    def stop(self) -> None: ...
    def kill(self) -> None: ...


def simulate(
    jobs: int, workers: int, mean: float, message: float, look: float, rng: Any
) -> dict[str, Any]:
    """Jobs of exponentially distributed lengths; one in a thousand kills its worker."""
    lengths = rng.exponential(mean, jobs)
    deaths = set(rng.choice(jobs, jobs // 1000, replace=False).tolist())
    lost = float(lengths[list(deaths)].sum())
    fleet = Simulated(lengths.tolist(), 10.0, message, look, deaths)
    done = sum(outcome.error is None for outcome in run_jobs(range(jobs), fleet, workers))
    work = float(lengths.sum()) + lost
    return {
        "mean_job_seconds": mean,
        "done": done,
        "hours": round(fleet.clock / 3600, 2),
        "workers_at_work": round(work / (workers * fleet.clock), 4),
        "scheduler_cpu_us_a_job": round(fleet.cpu / jobs * 1e6, 1),
        "jobs_seen_a_look": round(jobs / fleet.looks, 1),
        "scheduler_busy": round((fleet.cpu + message * jobs + look * fleet.looks) / fleet.clock, 4),
    }


def nothing() -> Callable[[Any], dict[str, Any]]:
    """A worker whose jobs take no time."""
    return lambda _job: {"frames": 1}


def message_seconds(fleet: Fleet[int], workers: int, jobs: int) -> float:
    """The scheduler's CPU time for a job, with real workers."""
    ended = run_jobs(range(jobs), fleet, workers)
    for _ in range(jobs // 4):  # all have begun
        next(ended)
    began = time.process_time()
    count = sum(1 for _ in ended)
    return (time.process_time() - began) / count


def look_at_processes(workers: int) -> float:
    """Seconds to find the one of many processes that has something to say."""
    pipes = [Pipe() for _ in range(workers)]
    pipes[0][1].send(None)
    ends = [end for end, _ in pipes]
    return shortest(lambda: wait(ends, 0), 20)


def look_at_actors(workers: int) -> float:
    """The same of Ray's actors, as `RayFleet` does it; no cluster has room for these tasks."""
    import ray

    waiting = ray.remote(num_cpus=10**6)(nothing)
    refs = [ray.put(0), *(waiting.remote() for _ in range(workers - 1))]

    def look() -> None:
        ray.wait(refs, num_returns=1, timeout=0)
        ray.wait(refs, num_returns=len(refs), timeout=0)

    return shortest(look, 20)


def timed(what: Callable[[], Any], count: int) -> tuple[Any, dict[str, float]]:
    """What a call gives, with CPU and elapsed microseconds for each of `count`."""
    cpu, clock = time.process_time(), time.perf_counter()
    found = what()
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    return found, {"cpu_us": round(cpu / count * 1e6, 1), "us": round(clock / count * 1e6, 1)}


def listing(count: int) -> dict[str, Any]:
    """Reading and checking a list, the markers of its jobs, and their report."""
    rng, here, found = np.random.default_rng(0), Path.cwd(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        Path("a.mp4").touch()
        with Path("jobs.jsonl").open("w") as file:
            for k, (x, y, start) in enumerate(rng.integers(0, 900, (count, 3)).tolist()):
                row = {"source": "a.mp4", "out": f"{k // 1000}/{k}", "point": [x, y]}
                file.write(json.dumps({**row, "start": start, "end": start + 60}) + "\n")
        out = Place.of("out")
        jobs, found["read"] = timed(lambda: read_jobs("jobs.jsonl", out, columns(), ()), count)
        _, found["check"] = timed(lambda: [asked_of(job).check() for job in jobs], count)
        parse = _parsed.__wrapped__
        _, found["command_line"] = timed(lambda: [parse(("--end=9",)) for _ in range(50)], 50)
        found["resident_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        _, found["no_markers"] = timed(lambda: list(_all_earlier(jobs, False)), count)
        some = jobs[: max(1, count // 50)]
        _, found["write_marker"] = timed(lambda: [job.mark(REPORT) for job in some], len(some))
        read, found["read_marker"] = timed(lambda: list(_all_earlier(some, False)), len(some))
        assert all(row is not None for _, row in read)
        rows = [Row(job, "done", REPORT) for job in jobs]
        out.check()
        totals = dict.fromkeys(("done", "skipped", "failed", "stopped"), 0)
        _, found["report"] = timed(lambda: write_report(out, rows, totals), count)
        found["report_mb"] = round(Path("out/report.json").stat().st_size / 2**20)
        found["resident_mb_with_report"] = round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        )
        os.chdir(here)
    return found


def main() -> None:
    """Measure and simulate."""
    asked = parser(__doc__)
    asked.add_argument("--part", choices=("scheduler", "list"), default="scheduler")
    asked.add_argument("--jobs", type=int, default=1_000_000)
    asked.add_argument("--workers", type=int, default=1000)
    asked.add_argument("--listed", type=int, default=200_000, help="jobs of the list that is read")
    given: argparse.Namespace = asked.parse_args()
    if given.part == "list":
        finish({"jobs": given.listed, **listing(given.listed)}, given.out)
        return
    costs = {
        "processes": (
            message_seconds(Processes(nothing, 1), 2, 4000),
            look_at_processes(given.workers),
        )
    }
    try:
        import ray

        from tempomask.batch.ray_fleet import RayFleet

        message = message_seconds(RayFleet(nothing, "local", 1, 2), 2, 2000)
        ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        costs["ray"] = message, look_at_actors(given.workers)
        ray.shutdown()
    except (ImportError, InputError):
        print("without ray, which is not installed")
    rng = np.random.default_rng(0)
    report = {
        "jobs": given.jobs,
        "workers": given.workers,
        "cost": {
            name: {"message_us": round(message * 1e6, 1), "look_us": round(look * 1e6, 1)}
            for name, (message, look) in costs.items()
        },
        "scheduler": {
            name: [simulate(given.jobs, given.workers, mean, *cost, rng) for mean in (60, 10, 1)]
            for name, cost in costs.items()
        },
        # On paper: operations times latency, one after the other and by 16 threads.
        "markers_from_afar_hours": {
            place: {f"{n} readers": round(given.jobs * ms / 3.6e6 / n, 2) for n in (1, 16)}
            for place, ms in (("network share, 1 ms", 1), ("object store, 30 ms", 30))
        },
        "load_average": os.getloadavg()[0],
    }
    finish(report, given.out)


if __name__ == "__main__":
    main()
