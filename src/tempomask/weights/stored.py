"""How our own checkpoint files are written and what they say of themselves is read.

`own.py` stores segmenters and `own_instances.py` instance segmenters with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from tempomask.errors import InputError
from tempomask.weights.layout import State

Config = TypeVar("Config")


def build_config(config_type: type[Any], values: Mapping[str, Any]) -> Any:
    """A configuration from its JSON values, in which tuples have become lists."""
    unknown = values.keys() - {field.name for field in fields(config_type)}
    if unknown:
        raise ValueError(f"unknown {', '.join(sorted(unknown))}")
    return config_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def read_config(read: Callable[[str], Config], text: str) -> Config:
    """What `read` makes of the text; InputError where it fails, as with a newer version's."""
    try:
        return read(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the checkpoint's configuration cannot be read ({error!r}); it may come from a newer"
            " version of tempomask, which can then load it"
        ) from None


def write_checkpoint(path: Path, state: State, metadata: dict[str, str]) -> None:
    """A safetensors file that appears whole or not at all; InputError if it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # safetensors makes files that nobody else may read; a plain file has the user's own mode.
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(dict(state), temporary, metadata=metadata)
        temporary.chmod(mode)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot write the checkpoint {path}: {reason}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
