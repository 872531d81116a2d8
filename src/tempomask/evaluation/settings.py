"""What a table of scores says of the model that made it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tempomask.devices import computation
from tempomask.model import Model
from tempomask.models.encoder import Policy
from tempomask.propagation.model import Propagator
from tempomask.propagation.options import PropagationOptions
from tempomask.routed_model import RoutingChoice
from tempomask.routing.options import Routing
from tempomask.tracking.options import TrackingOptions

# Called with the sequence, the number of its frames that are done, and the number of all of them.
Progress = Callable[[str, int, int], None]


def model_settings(model: Model | Propagator) -> dict[str, Any]:
    """Name and resolution, and what `computation` says."""
    return {
        "model": model.name,
        "method": "propagation" if isinstance(model, Propagator) else "tracking",
        "image_size": model.image_size,
        **computation(model.device, model.dtype),
    }


def run_settings(
    options: TrackingOptions | PropagationOptions | None, routing: RoutingChoice
) -> dict[str, Any]:
    """How the model was run: its options, and its policy or what was asked of its router."""
    chosen = {} if options is None else options.settings()
    if isinstance(routing, Policy):
        return {"policy": str(routing), **chosen}
    return {"policy": None, **chosen, **Routing.of(routing).settings()}
