"""What a table of scores says of the model that made it."""

from __future__ import annotations

from typing import Any

import torch

from tempomask.api import Model
from tempomask.propagation_api import Propagator


def model_settings(model: Model | Propagator) -> dict[str, Any]:
    """Name, resolution, device, type of the computation, threads and versions."""
    from tempomask import __version__

    return {
        "model": model.name,
        "method": "propagation" if isinstance(model, Propagator) else "tracking",
        "image_size": model.config.image_size,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "tempomask": __version__,
        "torch": torch.__version__,
    }
