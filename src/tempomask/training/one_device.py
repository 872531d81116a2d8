"""Training on one device: the part of accelerate's Accelerator that a run needs, without it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from tempomask.devices import resolve_device


class OneDevice:
    """One GPU, or else the CPU; bfloat16 by autocast. See accelerate for what the methods do."""

    num_processes = 1
    process_index = 0
    is_main_process = True

    def __init__(self) -> None:
        self.device = resolve_device("auto")

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16)

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        return model.to(self.device), optimizer

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters: Iterable[nn.Parameter], most: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, most)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        return nullcontext()

    def free_memory(self) -> None:
        pass
