"""tempomask: segment and track objects in video. `load` a model, `track` a video."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tempomask.errors import InputError
    from tempomask.images.options import EverythingOptions
    from tempomask.instances.model import InstanceModel, load_instances
    from tempomask.matching.model import Matcher, load_matcher
    from tempomask.model import Model, load
    from tempomask.prompts import Prompt
    from tempomask.propagation.model import Propagator, load_propagator
    from tempomask.results import FrameResult, InstanceResult, InstanceSummary
    from tempomask.routing.options import Routing
    from tempomask.tracking.arrivals import Arrivals
    from tempomask.tracking.options import TrackingOptions

__version__ = "0.1.0"
__all__ = [
    "Arrivals",
    "EverythingOptions",
    "FrameResult",
    "InputError",
    "InstanceModel",
    "InstanceResult",
    "InstanceSummary",
    "Matcher",
    "Model",
    "Prompt",
    "Propagator",
    "Routing",
    "TrackingOptions",
    "__version__",
    "load",
    "load_instances",
    "load_matcher",
    "load_propagator",
]

# torch is imported when the first of these is used, not by `import tempomask`.
_HOMES = {
    "load": "tempomask.model",
    "Model": "tempomask.model",
    "Prompt": "tempomask.prompts",
    "FrameResult": "tempomask.results",
    "InputError": "tempomask.errors",
    "load_instances": "tempomask.instances.model",
    "InstanceModel": "tempomask.instances.model",
    "load_matcher": "tempomask.matching.model",
    "Matcher": "tempomask.matching.model",
    "load_propagator": "tempomask.propagation.model",
    "Propagator": "tempomask.propagation.model",
    "InstanceResult": "tempomask.results",
    "InstanceSummary": "tempomask.results",
    "Routing": "tempomask.routing.options",
    "EverythingOptions": "tempomask.images.options",
    "Arrivals": "tempomask.tracking.arrivals",
    "TrackingOptions": "tempomask.tracking.options",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tempomask' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
