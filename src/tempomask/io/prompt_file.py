"""A file of prompts: a JSON list of {frame, object, points, labels, box, mask}.

A mask is the path of an image, relative to the JSON file. The list itself may stand where the path
of the file is asked for; masks are then relative to the current folder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tempomask.errors import InputError, place
from tempomask.files import make_folder, read_json, write_json
from tempomask.io.images import read_mask, write_mask_png
from tempomask.limits import check_limit
from tempomask.prompts import Prompt
from tempomask.schema import parse_json, shown

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


def read_prompts(given: str | Path, frame: int = 0) -> list[Prompt]:
    """Prompts from a JSON list of {frame, object, points, labels, box, mask}, or a file with it.

    A mask is the path of an image, relative to the JSON file. object is 1 and frame as given
    here if left out. InputError, with the file and the entry, for everything else.
    """
    entries, named, folder = _read(given, "--prompts")
    if entries == []:
        raise InputError(
            f"{named} is an empty list; add a prompt, such as"
            ' {"object": 1, "points": [[410, 260]]}'
        )
    if not isinstance(entries, list):
        raise InputError(f"{named} must hold a list of prompts: [{{...}}, ...]")
    check_limit("objects", len(entries), named)
    listed: list[Prompt] = []
    for position, entry in enumerate(entries):
        with place(f"{named.removeprefix('--prompts ')}, prompt {position}"):
            listed.extend(_read_entry(entry, folder, frame))
    return listed


def masks_of(given: str | Path) -> list[Path]:
    """The mask images that prompts name, see `read_prompts`."""
    entries, _, folder = _read(given, "--prompts")
    return [folder / entry["mask"] for entry in entries if entry.get("mask") is not None]


def files_of(given: str | Path | None) -> list[Path]:
    """The file that is named where its content may stand as well."""
    if given is None or str(given).lstrip()[:1] in ("[", "{"):
        return []
    return [Path(given)]


def read_detections(given: str) -> dict[int, list[list[float]]]:
    """Boxes by frame from JSON, {frame: [[x0, y0, x1, y1], ...]}, or a file with it."""
    box = [float, float, float, float]
    found = _read(given, "--detections", {str: [box]})[0]
    wrong = [name for name in found if not re.fullmatch("[0-9]{1,9}", name)]
    if wrong:
        raise InputError(f"--detections: {shown(wrong[0])} is no number of a frame")
    return {int(name): boxes for name, boxes in found.items()}


def _read(given: str | Path, option: str, schema: Any = object) -> tuple[Any, str, Path]:
    """What the JSON holds, what it is called in messages, and the folder that masks start from."""
    if not files_of(given):
        return parse_json(str(given), option, schema), option, Path()
    return read_json(given, option, schema), f"{option} {given}", Path(given).parent


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
