"""What a table of scores says of the model that made it."""

from __future__ import annotations

from typing import Any

import torch

from tempomask.model import Model
from tempomask.propagation.model import Propagator


def model_settings(model: Model | Propagator) -> dict[str, Any]:
    """Name and resolution, and what `computation` says."""
    return {
        "model": model.name,
        "method": "propagation" if isinstance(model, Propagator) else "tracking",
        "image_size": model.config.image_size,
        **computation(model.device, model.dtype),
    }


def computation(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Device, type, threads and versions."""
    from tempomask import __version__

    return {
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "tempomask": __version__,
        "torch": torch.__version__,
    }
