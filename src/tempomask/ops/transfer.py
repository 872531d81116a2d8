"""Host values to a device without waiting for it.

A plain copy of host memory to an accelerator returns only when the accelerator has come to it, and
so holds the host up for everything that was enqueued before. A copy out of pinned memory does not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


def to_device(values: ArrayLike, device: torch.device) -> Tensor:
    """The values as a tensor on the device, enqueued and not waited for; float64 becomes float32.

    On the CPU the tensor may share the memory of an array that is given.
    """
    array = np.asarray(values)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    host = torch.from_numpy(array)
    if device.type == "cpu":
        return host
    if device.type == "cuda":
        # torch's allocator of pinned memory gives a block out again only after its copy is done.
        host = host.pin_memory()
    return host.to(device, non_blocking=True)


def waits_for_now(device: torch.device) -> Callable[[], None]:
    """A function that makes its caller's stream wait for all that this one has enqueued by now."""
    if device.type != "cuda":
        return lambda: None
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(device))
    return lambda: torch.cuda.current_stream(device).wait_event(done)
