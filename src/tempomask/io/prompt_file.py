"""A file of prompts: a JSON list of {frame, object, points, labels, box, mask}.

A mask is the path of an image, relative to the JSON file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tempomask.errors import InputError
from tempomask.files import make_folder, read_json, write_json
from tempomask.io.images import read_mask, write_mask_png
from tempomask.limits import check_limit
from tempomask.prompts import Prompt
from tempomask.schema import shown

_KEYS = ("box", "frame", "labels", "mask", "object", "points")


def mask_prompts(path: Path, frame: int, object_id: int, named: bool = False) -> list[Prompt]:
    """A mask image as prompts: one object, or with several ids one object for each id.

    object_id: of the one object. named: it was asked for, so several are an InputError.
    """
    labels = read_mask(path)
    ids = sorted(set(np.unique(labels).tolist()) - {0})
    check_limit("objects", len(ids), f"the mask {path}")
    if not ids:
        raise InputError(f"the mask {path} is empty; mark at least one pixel")
    if len(ids) == 1:
        return [Prompt(frame=frame, object_id=object_id, mask=labels != 0)]
    if named:
        raise InputError(
            f"the mask {path} holds {len(ids)} objects, with ids {ids[0]} to {ids[-1]}, and cannot"
            f" be object {object_id}; leave the object out, or give a mask of it alone"
        )
    return [Prompt(frame=frame, object_id=i, mask=labels == i) for i in ids]


def read_prompts(path: Path, frame: int = 0) -> list[Prompt]:
    """Prompts from a JSON list of {frame, object, points, labels, box, mask}.

    A mask is the path of an image, relative to the JSON file. object is 1 and frame as given
    here if left out. InputError, with the file and the entry, for everything else.
    """
    entries = read_json(path, "--prompts")
    if entries == []:
        raise InputError(
            f"--prompts {path} is an empty list; add a prompt, such as"
            ' {"object": 1, "points": [[410, 260]]}'
        )
    if not isinstance(entries, list):
        raise InputError(f"--prompts {path} must hold a list of prompts: [{{...}}, ...]")
    check_limit("objects", len(entries), f"--prompts {path}")
    listed: list[Prompt] = []
    for position, entry in enumerate(entries):
        try:
            listed.extend(_read_entry(entry, path.parent, frame))
        except InputError as error:
            raise InputError(f"{path}, prompt {position}: {error}") from None
    return listed


def masks_of(path: Path) -> list[Path]:
    """The mask images that a file of prompts names."""
    entries = (entry.get("mask") for entry in read_json(path, "--prompts"))
    return [path.parent / mask for mask in entries if mask is not None]


def _read_entry(entry: Any, folder: Path, frame: int) -> list[Prompt]:
    if not isinstance(entry, dict):
        raise InputError(f"expected an object with {', '.join(_KEYS)}, got {shown(entry)}")
    unknown = sorted(set(entry) - set(_KEYS))
    if unknown:
        raise InputError(f"unknown key {unknown[0]!r}; use {', '.join(_KEYS)}")
    entry = {"frame": frame, **entry}
    named = "object" in entry
    object_id, mask = entry.pop("object", 1), entry.pop("mask", None)
    if mask is None:
        return [Prompt(object_id=object_id, **entry)]
    if entry.get("points") is not None or entry.get("box") is not None:
        raise InputError("a mask excludes points and a box; correct it with a prompt after it")
    if not isinstance(mask, str):
        raise InputError(f"mask must be the path of an image, got {shown(mask)}")
    return mask_prompts(folder / mask, entry["frame"], object_id, named)


def parts_of(prompt: Prompt) -> dict[str, Any]:
    """The points, labels and box of a prompt as JSON has them, without those that it lacks."""
    parts = ((name, getattr(prompt, name)) for name in ("points", "labels", "box"))
    return {name: np.asarray(value).tolist() for name, value in parts if value is not None}


def write_prompts(path: Path, prompts: Iterable[Prompt]) -> None:
    """Write prompts for `read_prompts`; masks become PNGs in a folder named after the file.

    Masks that no prompt uses any more are removed from that folder.

    Raises:
        InputError: If a file cannot be written.
    """
    folder, used = path.with_suffix(""), set[str]()
    entries: list[dict[str, Any]] = []
    for prompt in prompts:
        entry = {"frame": prompt.frame, "object": prompt.object_id, **parts_of(prompt)}
        if prompt.mask is not None:
            mask = np.asarray(prompt.mask)
            digest = hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()[:12]
            name = f"{prompt.object_id}-{prompt.frame:05d}-{digest}.png"
            if not (folder / name).exists():
                write_mask_png(make_folder(folder) / name, mask)
            used.add(name)
            entry["mask"] = f"{folder.name}/{name}"
        entries.append(entry)
    write_json(path, entries)
    for old in folder.glob("*-*-*.png") if folder.is_dir() else ():
        if old.name not in used:
            old.unlink()
