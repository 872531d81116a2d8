"""What a name or a checkpoint probably stands for that is not what was asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tempomask.errors import InputError, unknown_name
from tempomask.weights.files import SUFFIXES
from tempomask.weights.zoo import ASSETS, DINOV3_MODELS, INSTANCE_MODELS

# As SAM 2's files, configurations and repositories are called.
_SAM2 = re.compile(
    r"(?P<version>sam2(?:\.1)?)[_-]hiera[_-]"
    r"(?P<size>t|tiny|s|small|b\+|base[_-]plus|l|large)(?:\.(?:pt|yaml))?"
)
_SIZES = {"t": "tiny", "s": "small", "b": "base-plus", "l": "large"}
INSTANCES_REMEDY = (
    "finds the objects of known classes by itself: run `tempomask instances`, or load_instances in"
    " Python"
)


def unknown_model(name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not among those known, with what it probably stands for."""
    if name in INSTANCE_MODELS:
        return InputError(f"{name} {INSTANCES_REMEDY}")
    if name in DINOV3_MODELS:
        return InputError(
            f"{name} propagates masks and does not track: run `tempomask propagate --model {name}`,"
            " or load_propagator in Python"
        )
    if any(path.name == name for path in (ASSETS / "adapters").glob("*")):
        return InputError(f"{name} is an adapter, not a model: give it as the adapter")
    remedies = []
    if match := _SAM2.fullmatch(Path(name).name):
        ours = f"{match['version']}-{_SIZES[match['size'][0]]}"
        remedies.append(f"the model is called {ours} here")
    if "/" in name or Path(name).suffix in SUFFIXES:
        remedies.append("a file or a Hub id is given as the checkpoint (--checkpoint, checkpoint=)")
    if remedies:
        return InputError(f"unknown model {name!r}; {', and '.join(remedies)}")
    return unknown_name(f"unknown model {name!r}", name, known)
