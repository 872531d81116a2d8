"""Workers on the machines of a Ray cluster: an actor tracks one video after the other.

A job is a path and options, so no frame goes through Ray's store of objects, and results are
written where the actor is. Retries are `run_jobs`'s: actors are not restarted by Ray.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

from tempomask import __version__
from tempomask.batch.pool import Answer, Fleet, J, Start, Worker, WorkerDied, answer_of
from tempomask.errors import InputError
from tempomask.limits import VARIABLE

# Of the environment here, what workers have too.
_PASSED = (VARIABLE, "GOMP_SPINCOUNT")


class RayFleet(Fleet[J]):
    """Actors of a cluster.

    Args:
        start: As of `Processes`.
        address: Of the cluster; "local" starts one on this machine.
        threads: Of each actor, and the CPUs that it takes of the cluster.
        workers: Most actors at once; None for as many as there is room for.
        gpus: Whether each actor takes a GPU.

    Attributes:
        workers: Actors at once.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(
        self, start: Start[J], address: str, threads: int, workers: int | None, gpus: bool = False
    ) -> None:
        try:
            import ray
            import ray.exceptions
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
        except ImportError:
            raise InputError("--ray needs the package ray: pip install 'tempomask[ray]'") from None
        self._ray, self._on_node = ray, NodeAffinitySchedulingStrategy
        # A cluster of its own has room for what is asked for, also beyond the number of cores.
        room = {"num_cpus": workers * threads} if workers and address == "local" else {}
        local = {"include_dashboard": False, **room} if address == "local" else {}
        # What Ray has to say of workers that die is no result.
        self._stdout = redirect_stdout(sys.stderr)
        try:
            _check_reachable(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"--ray {address}: no cluster to be reached: {reason}") from None
        self._stdout.__enter__()
        try:
            found = ray.get(ray.remote(num_cpus=0)(_version).remote())
        except ray.exceptions.RayError as error:
            found = f"none ({_reason(error)})"
        if found != __version__:
            self.close()
            raise InputError(
                f"--ray {address}: its machines have tempomask {found}; install {__version__} there"
            )
        there = ray.cluster_resources()
        room = there.get("GPU", 0) if gpus else there.get("CPU", 1) // threads
        if gpus and not room:
            self.close()
            raise InputError(f"--gpus all: the cluster of --ray {address} has no GPU")
        self.workers = workers or max(1, int(room))
        passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
        self._arguments = start, os.getcwd(), {**passed, "OMP_NUM_THREADS": str(threads)}
        self._actor = ray.remote(num_cpus=threads, num_gpus=int(gpus))(_Actor)

    def start(self) -> Worker[J]:
        """An actor; it may be a while before the cluster has room for it."""
        return _RayWorker(self._ray, self._actor.remote(*self._arguments), self._on_node)

    def wait(self, workers: Sequence[Worker[J]], seconds: float) -> Sequence[Worker[J]]:
        """See `Fleet`."""
        refs = {worker.ref: worker for worker in workers if isinstance(worker, _RayWorker)}
        if self._ray.wait(list(refs), num_returns=1, timeout=seconds)[0]:
            done, _ = self._ray.wait(list(refs), num_returns=len(refs), timeout=0)
            return [refs[ref] for ref in done]
        return []

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._ray.shutdown()
        self._stdout.__exit__(None, None, None)


class _RayWorker(Worker[J]):
    def __init__(self, ray: Any, actor: Any, on_node: Any) -> None:
        self._ray, self._actor, self._on_node = ray, actor, on_node
        self._place, self._up = actor.place.remote(), False

    def _send(self, job: J) -> None:
        self.ref = self._actor.do.remote(job)

    def took(self) -> float:
        if not self._up:  # the time that the cluster has no room for it is not the job's
            self._up = bool(self._ray.wait([self._place], timeout=0)[0])
            self._since = time.monotonic()
        return super().took()

    def answer(self) -> Answer:
        try:
            return self._ray.get(self.ref)
        except self._ray.exceptions.RayTaskError as error:  # the actor could not begin
            return None, str(error.cause)
        except self._ray.exceptions.RayError as error:
            raise WorkerDied(f"its actor died: {_reason(error)}") from None

    def stop(self) -> None:
        """As Ctrl-C stops one, by a signal that is sent where the actor is, if it has begun."""
        try:
            node, process = self._ray.get(self._place, timeout=0)
        except (self._ray.exceptions.RayError, TimeoutError):
            self.kill()
            return
        where = self._on_node(node, soft=False)
        send = self._ray.remote(num_cpus=0)(_terminate).options(scheduling_strategy=where)
        send.remote(process)

    def kill(self) -> None:
        self._ray.kill(self._actor)


def _check_reachable(address: str) -> None:
    """OSError if nothing answers at an address, on which Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _reason(error: Exception) -> str:
    """The last line of one of Ray's messages, which has the cause; its first sentence."""
    return str(error).strip().splitlines()[-1].strip().partition(". Some common")[0]


def _version() -> str:
    return __version__


def _terminate(process: int) -> None:
    os.kill(process, signal.SIGTERM)


class _Actor:
    """What an actor is: a worker's function, set up in the folder in which jobs were listed."""

    def __init__(self, start: Start[Any], folder: str, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        self._folder, self._start = folder, start
        self._do: Callable[[Any], dict[str, Any]] | None = None

    def place(self) -> tuple[str, int]:
        """Node and process."""
        import ray

        return ray.get_runtime_context().get_node_id(), os.getpid()

    def do(self, job: Any) -> Answer:
        """Do a job; the first one sets the worker up."""
        if self._do is None:
            try:
                os.chdir(self._folder)
            except OSError:
                return None, f"{self._folder} is not on a machine of the cluster; share it"
            self._do = self._start()
        return answer_of(self._do, job)
