"""What a table of scores says of the model that made it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tempomask.devices import computation
from tempomask.errors import InputError
from tempomask.files import read_json
from tempomask.matching.model import Matcher
from tempomask.matching.options import MatchingOptions
from tempomask.model import Model
from tempomask.models.encoder import Policy
from tempomask.propagation.model import Propagator
from tempomask.propagation.options import PropagationOptions
from tempomask.routed_model import RoutingChoice
from tempomask.routing.options import Routing
from tempomask.tracking.options import TrackingOptions

# Called with the sequence, the number of its frames that are done, and the number of all of them.
Progress = Callable[[str, int, int], None]

# Settings that may differ between the parts of a resumed run: they do not change the masks.
_FREE = ("threads", "shard")


def model_settings(model: Model | Propagator | Matcher) -> dict[str, Any]:
    """Name and resolution, and what `computation` says."""
    return {
        "model": model.name,
        "method": _method(model),
        "image_size": model.image_size,
        **computation(model.device, model.dtype),
    }


def _method(model: Model | Propagator | Matcher) -> str:
    if isinstance(model, Matcher):
        return "matching"
    return "propagation" if isinstance(model, Propagator) else "tracking"


def run_settings(
    options: TrackingOptions | PropagationOptions | MatchingOptions | None, routing: RoutingChoice
) -> dict[str, Any]:
    """How the model was run: its options, and its policy or what was asked of its router."""
    chosen = {} if options is None else options.settings()
    if isinstance(routing, Policy):
        return {"policy": str(routing), **chosen}
    return {"policy": None, **chosen, **Routing.of(routing).settings()}


def kept_record(record: Path, settings: dict[str, Any], schema: dict[str, Any]) -> Any:
    """What an earlier run with the same settings noted of a sequence; None if it did not.

    InputError if that run had other settings, which the record holds too.
    """
    if not record.is_file():
        return None
    kept = read_json(record, "the record", {"settings": dict, **schema})
    before = kept.pop("settings")
    # Through JSON, as the record is: tuples become lists.
    now = json.loads(json.dumps(settings, default=str))
    differing = [n for n in now if n not in _FREE and before.get(n) != now[n]]
    if differing:
        name = differing[0]
        raise InputError(
            f"{record.parent.parent} holds a run with {name} {before.get(name)}, this one has"
            f" {now[name]}; leave --resume out to begin anew, or choose another folder"
        )
    return kept
