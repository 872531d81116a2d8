"""Frames on their way to a GPU: resized by a thread, copied out of pinned memory, not waited for.

Resizing an image to 1024 x 1024 takes a CPU as long as a GPU needs for all the rest of a frame.
S image side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempomask.frames import Size

# Pinned buffers: one being filled, one being copied, one being waited for.
BUFFERS = 3
# Frames prepared while another one is tracked.
AHEAD = 1


class Arrival:
    """A tensor on its way to a GPU, copied by a stream of its own."""

    def __init__(self, tensor: Tensor, done: Any) -> None:
        self._tensor, self._done = tensor, done

    def wait(self) -> None:
        """Hold the host up until the copy is done."""
        self._done.synchronize()

    def take(self) -> Tensor:
        """The tensor, for work that is enqueued from now on; the host does not wait."""
        stream = torch.cuda.current_stream(self._tensor.device)
        stream.wait_event(self._done)
        # Its memory was taken on another stream, and must not be given out while this one reads it.
        self._tensor.record_stream(stream)
        return self._tensor


class Transport:
    """Pinned host memory, and a stream that copies beside the computation."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def buffer(self, shape: tuple[int, ...]) -> Tensor:
        """Host memory, uint8, that can be copied from without waiting."""
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True)

    def send(self, buffer: Tensor) -> Arrival:
        """Begin to copy a buffer."""
        with torch.cuda.stream(self._stream):
            tensor = buffer.to(self._device, non_blocking=True)
            done = torch.cuda.Event()
            done.record(self._stream)
        return Arrival(tensor, done)


@dataclass(frozen=True, eq=False)
class PreparedFrame:
    """A frame as the network takes it.

    pixels: (S, S, 3) uint8. size: (H, W) of the frame. arrival: the image on its way to the
    device; None where it is copied when it is needed.
    """

    pixels: NDArray[np.uint8]
    size: Size
    arrival: Arrival | None = None


class PinnedRing:
    """A few buffers, used in turn; one is filled again only when its last copy is done."""

    def __init__(self, transport: Transport, buffers: int = BUFFERS) -> None:
        self._transport = transport
        self._slots: deque[tuple[Tensor, Arrival]] = deque()
        self._buffers = buffers

    def send(self, image: NDArray[np.uint8]) -> Arrival:
        """Begin to copy an image; it may be changed at once."""
        buffer = self._free(image.shape)
        np.copyto(buffer.numpy(), image)
        arrival = self._transport.send(buffer)
        self._slots.append((buffer, arrival))
        return arrival

    def _free(self, shape: tuple[int, ...]) -> Tensor:
        """The buffer that was used the longest time ago, or a new one."""
        if len(self._slots) < self._buffers:
            return self._transport.buffer(shape)
        buffer, arrival = self._slots.popleft()
        arrival.wait()
        return buffer if buffer.shape == shape else self._transport.buffer(shape)


def pinned_ring(device: torch.device) -> PinnedRing | None:
    """The ring of a GPU; None for devices that share the host's memory or lack pinned copies."""
    return PinnedRing(Transport(device)) if device.type == "cuda" else None


def prepared_ahead(
    frames: Iterator[tuple[int, NDArray[np.uint8]]],
    prepare: Callable[[NDArray[np.uint8]], PreparedFrame],
) -> Generator[tuple[int, PreparedFrame], None, None]:
    """The frames, prepared by a thread while the one before is tracked.

    An error in reading comes after all frames before it, as without this function. A source may
    fill the same array again for the next frame.
    """
    waiting: deque[tuple[int, Future[PreparedFrame]]] = deque()
    error: Exception | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="tempomask-upload") as worker:
        while True:
            try:
                index, frame = next(frames)
            except StopIteration:
                break
            except Exception as caught:
                error = caught
                break
            waiting.append((index, worker.submit(prepare, np.array(frame))))
            if len(waiting) > AHEAD:
                index, prepared = waiting.popleft()
                yield index, prepared.result()
        for index, prepared in waiting:
            yield index, prepared.result()
    if error is not None:
        raise error
