"""The state of an instance session as plain tensors, to go on with a video later.

It is small, and does not grow with the video: the carried queries and the sums of each track.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from torch import Tensor

from tempomask.errors import InputError
from tempomask.instances.session import InstanceSession, TrackTable
from tempomask.models.instances.dvis import ReferringState
from tempomask.models.instances.minvis import MatchedState
from tempomask.models.instances.segmenter import CarriedState

# Arrays of a track table with one row for each track.
_SUMS = ("_total", "_shown_total", "_shown", "_area", "_first", "_last", "scores", "labels")


def session_state(session: InstanceSession) -> bytes:
    """All that the session knows of its video, as a safetensors file.

    It is given to another session of the same model by `restore_session`.

    Raises:
        InputError: Before the first frame.
    """
    from safetensors.torch import save

    table, carried = session._tracks, session._carried
    if carried is None or session.size is None:
        raise InputError("a session has no state before its first frame")
    slots = list(table.ids)
    state = {
        "counts": torch.tensor([table.start, table.frames, session._layers_run, *session.size]),
        "slots": torch.tensor(slots, dtype=torch.int64),
        "ids": torch.tensor([table.ids[slot] for slot in slots], dtype=torch.int64),
        "recent": torch.from_numpy(np.stack(table._recent)),
        "queries": carried.queries.cpu(),
    }
    for number, tensor in enumerate(carried.tracker):
        state[f"tracker.{number}"] = tensor.cpu()
    for name in _SUMS:
        state[f"sums.{name}"] = torch.from_numpy(getattr(table, name))
    return save({name: tensor.contiguous() for name, tensor in state.items()})


def frames_seen(state: bytes) -> range:
    """The frames that a session had seen; InputError if it is no session's state."""
    start, frames = _loaded(state)["counts"].tolist()[:2]
    return range(start, start + frames)


def restore_session(session: InstanceSession, kept: bytes) -> int:
    """Put a session where another one of the same model was.

    Args:
        session: of the same model.
        kept: from `session_state`.

    Returns:
        The index of the frame to go on with.

    Raises:
        InputError: If the state is of another model, or damaged.
    """
    state = _loaded(kept)
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
    session._size, session._layers_run = (height, width), layers_run
    session._index = start + frames - 1
    return start + frames


def _loaded(state: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(state)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"the kept state is damaged ({error}); do not resume") from None
