"""The state of an instance session as plain tensors, to go on with a video later.

It is small, and does not grow with the video: the carried queries and the sums of each track.
"""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tempomask.errors import InputError
from tempomask.instances.session import InstanceSession, TrackTable
from tempomask.models.instances.dvis import ReferringState
from tempomask.models.instances.minvis import MatchedState
from tempomask.models.instances.segmenter import CarriedState

State = dict[str, Tensor]

# Arrays of a track table with one row for each track.
_SUMS = ("_total", "_shown_total", "_shown", "_area", "_first", "_last", "scores", "labels")


def session_state(session: InstanceSession) -> State:
    """A copy of all that the session knows of its video. Raises InputError before the first frame.

    Written with `save_state`, given to another session of the same model by `restore_session`.
    """
    table, carried = session._tracks, session._carried
    if carried is None or session.size is None:
        raise InputError("a session has no state before its first frame")
    slots = list(table.ids)
    state = {
        "counts": torch.tensor([table.start, table.frames, session._layers_run, *session.size]),
        "slots": torch.tensor(slots, dtype=torch.int64),
        "ids": torch.tensor([table.ids[slot] for slot in slots], dtype=torch.int64),
        "recent": torch.from_numpy(np.stack(table._recent)),
        "queries": carried.queries.cpu().clone(),
    }
    for number, tensor in enumerate(carried.tracker):
        state[f"tracker.{number}"] = tensor.cpu().clone()
    for name in _SUMS:
        state[f"sums.{name}"] = torch.from_numpy(getattr(table, name).copy())
    return state


def restore_session(session: InstanceSession, state: State) -> int:
    """Put a session where another one of the same model was; the index of the frame to go on with.

    Raises InputError if the state is of another model.
    """
    try:
        start, frames, layers_run, height, width = state["counts"].tolist()
        table = TrackTable(session.config, session.options.score_frames, start)
        kind = MatchedState if session.config.tracker == "minvis" else ReferringState
        tracker = kind(
            *(state[f"tracker.{n}"].to(session._device) for n in range(len(kind._fields)))
        )
        for name in _SUMS:
            values = state[f"sums.{name}"].numpy()
            if values.shape != getattr(table, name).shape:
                raise ValueError(f"{name} has shape {values.shape}")
            setattr(table, name, values.copy())
        table.frames = frames
        table.ids = dict(zip(state["slots"].tolist(), state["ids"].tolist(), strict=True))
        table._recent = deque(state["recent"].numpy().copy(), session.options.score_frames)
        queries = state["queries"].to(session._device)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"the kept state is not of this model ({error}); start again, without resuming"
        ) from None
    session._tracks, session._carried = table, CarriedState(queries, tracker)
    session.size, session._layers_run = (height, width), layers_run
    return start + frames


def save_state(path: Path, state: State) -> None:
    """Write a state to a file, which should be given its name when it is whole (`replacing`)."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


def load_state(path: Path) -> State:
    """A state from a file; InputError if it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is no kept state ({error}); do not resume") from None
