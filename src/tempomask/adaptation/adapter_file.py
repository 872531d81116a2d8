"""Adapter folders: what a method trained (router, LoRA), small enough to pass around.

`adapter.safetensors` holds the tensors, `adapter.json` the method, its settings, and the model that
it belongs to. A sample of that model's weights goes along, so that an adapter of another model is
refused instead of giving nonsense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tempomask.adaptation.method import Attach, Export, LoadedAdapter
from tempomask.errors import InputError
from tempomask.files import given_path, make_folder, read_json, write_json
from tempomask.models.encoder import RoutedNetwork
from tempomask.weights.files import check_weights, read_checkpoint
from tempomask.weights.own import write_safetensors

DESCRIPTION, TENSORS = "adapter.json", "adapter.safetensors"
FORMAT = 1
SCHEMA = {"format": int, "method": str, "model": str, "settings": dict}
SAMPLE = "base.sample"
# Adapters that come with the package, by name.
BUNDLED = Path(__file__).parent.parent / "assets" / "adapters"
# Values sampled from each block, and how far they may be off: weights stored as bfloat16 fit.
SAMPLED, TOLERANCE = 8, 0.02
# The share of them that must agree; fine-tuned weights are other weights.
AGREEING = 0.9


@dataclass(frozen=True)
class Adapter:
    """An adapter as read from its folder. method, model: names. sample: of the base's weights."""

    folder: Path
    method: str
    model: str
    export: Export
    sample: Tensor


def base_sample(network: RoutedNetwork) -> Tensor:
    """A few weights of every encoder block, by which the base network is known again."""
    rows = []
    for index in range(network.encoder.num_blocks):
        first = next(iter(network.encoder.linear_layers(index).values()))
        values = first.weight.detach().flatten().float().cpu()
        rows.append(values[torch.linspace(0, len(values) - 1, SAMPLED).long()])
    return torch.stack(rows)


def same_base(sample: Tensor, other: Tensor) -> bool:
    """Whether two `base_sample`s are of the same weights."""
    if sample.shape != other.shape:
        return False
    close = torch.isclose(sample, other, rtol=TOLERANCE, atol=1e-4)
    return close.float().mean().item() >= AGREEING


def save_adapter(
    folder: str | Path, method: str, model: str, sample: Tensor, export: Export
) -> Path:
    """Write an adapter folder; each file appears whole or not at all. InputError if it cannot.

    InputError as well for an adapter whose values are not finite.
    model: name of the base network's configuration. sample: `base_sample` of it, untouched.
    """
    folder = Path(folder)
    tensors = {name: x.detach().cpu().contiguous() for name, x in export.tensors.items()}
    _check_trained(
        tensors,
        "the adapter's training has diverged; train it in another folder with smaller learning"
        " rates",
    )
    description = {
        "format": FORMAT,
        "method": method,
        "model": model,
        "settings": dict(export.settings),
    }
    tensors[SAMPLE] = sample
    write_safetensors(make_folder(folder) / TENSORS, tensors, {})
    write_json(folder / DESCRIPTION, description)
    return folder


def _check_trained(tensors: Mapping[str, Tensor], remedy: str) -> None:
    """Same as `check_weights`, but for plans, which are whole numbers."""
    whole = (torch.bool, torch.int32, torch.int64)
    check_weights({name: x for name, x in tensors.items() if x.dtype not in whole}, remedy)


def copy_adapter(name: str | Path, folder: str | Path) -> Path:
    """Copy an adapter, given by its folder or a bundled one's name, into a folder of its own."""
    adapter = read_adapter(name)
    return save_adapter(folder, adapter.method, adapter.model, adapter.sample, adapter.export)


def change_settings(folder: str | Path, changes: Mapping[str, Any]) -> None:
    """Replace some settings of an adapter on disk, such as its calibrated thresholds."""
    path = find_adapter(folder) / DESCRIPTION
    description = _description(path)
    description["settings"] |= changes
    write_json(path, description)


def find_adapter(name: str | Path) -> Path:
    """The folder of an adapter, given as such or by the name of a bundled one."""
    folder = given_path(name)
    if not (folder / DESCRIPTION).is_file() and (BUNDLED / name).is_dir():
        folder = BUNDLED / name
    if not (folder / DESCRIPTION).is_file():
        bundled = ", ".join(bundled_adapters()) or "none"
        raise InputError(
            f"there is no adapter at {name}: a folder with {DESCRIPTION}, as tempomask adapt writes"
            f" it, or the name of a bundled one ({bundled})"
        )
    return folder


def bundled_adapters() -> list[str]:
    """Names of the adapters that come with the package."""
    if not BUNDLED.is_dir():
        return []
    return sorted(path.name for path in BUNDLED.iterdir() if (path / DESCRIPTION).is_file())


def read_adapter(name: str | Path) -> Adapter:
    """Read an adapter; InputError if there is none, or if it is damaged or too new."""
    folder = find_adapter(name)
    description = _description(folder / DESCRIPTION)
    tensors = dict(read_checkpoint(folder / TENSORS).state)
    if SAMPLE not in tensors:
        raise InputError(f"{folder / TENSORS} has no {SAMPLE}; copy the adapter again")
    sample = tensors.pop(SAMPLE).float()
    _check_trained(tensors, f"train the adapter {folder} again, or copy it again")
    return Adapter(
        folder,
        description["method"],
        description["model"],
        Export(description["settings"], tensors),
        sample,
    )


def _description(path: Path) -> dict[str, Any]:
    values = read_json(path, "the description of an adapter", SCHEMA)
    if values["format"] != FORMAT:
        raise InputError(
            f"{path} describes an adapter of method {values['method']!r} in format"
            f" {values['format']!r}; this version reads format {FORMAT}"
        )
    return values


def check_model(adapter: Adapter, name: str) -> None:
    """InputError for an adapter of another model than the one of that name."""
    if adapter.model != name:
        raise InputError(
            f"the adapter {adapter.folder} belongs to {adapter.model}, not to {name}; choose the"
            f" model {adapter.model}, or an adapter of {name}"
        )


def attach_adapter(network: RoutedNetwork, adapter: Adapter, attach: Attach) -> LoadedAdapter:
    """Put an adapter on its base network, which may be changed in place.

    attach: of its method, see `baselines.methods.attach_of`.

    Raises InputError for an adapter of another model, or of other weights of the same.
    """
    name = network.name
    check_model(adapter, name)
    if not same_base(base_sample(network), adapter.sample):
        raise InputError(
            f"the adapter {adapter.folder} was made for other weights of {name} than those loaded;"
            " give the checkpoint that it was trained on"
        )
    return attach(network, adapter.export)._replace(method=adapter.method)
