"""tempomask: segment and track objects in video. `load` a model, `track` a video."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tempomask.api import Model, load
    from tempomask.errors import InputError
    from tempomask.instances_api import InstanceModel, load_instances
    from tempomask.propagation_api import Propagator, load_propagator
    from tempomask.tracking.instance_results import InstanceResult, InstanceSummary
    from tempomask.types import FrameResult, Prompt

__version__ = "0.1.0"
__all__ = [
    "FrameResult",
    "InputError",
    "InstanceModel",
    "InstanceResult",
    "InstanceSummary",
    "Model",
    "Prompt",
    "Propagator",
    "__version__",
    "load",
    "load_instances",
    "load_propagator",
]

# torch is imported when the first of these is used, not by `import tempomask`.
_HOMES = {
    "load": "tempomask.api",
    "Model": "tempomask.api",
    "Prompt": "tempomask.types",
    "FrameResult": "tempomask.types",
    "InputError": "tempomask.errors",
    "load_instances": "tempomask.instances_api",
    "InstanceModel": "tempomask.instances_api",
    "load_propagator": "tempomask.propagation_api",
    "Propagator": "tempomask.propagation_api",
    "InstanceResult": "tempomask.tracking.instance_results",
    "InstanceSummary": "tempomask.tracking.instance_results",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tempomask' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
