"""What an exported folder says of its graphs: `export.json`, and how it is read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from tempomask.errors import InputError
from tempomask.export.graphs import block_name
from tempomask.files import read_file, write_json
from tempomask.models.config import SegmenterConfig
from tempomask.models.segmenter import Segmenter
from tempomask.schema import check, one_of, parse_json, whole
from tempomask.weights.own import config_from_json, config_to_json

ABOUT = "export.json"
# Raised when graphs take or give anything else than before.
VERSION = 1
# What the host adds and chooses by itself needs these weights.
CONSTANTS = (
    "no_memory",
    "no_object_pointer",
    "mask_prompt_downsampler.weight",
    "mask_prompt_downsampler.bias",
)
SHAPES = {str: [whole()]}
SCHEMA = {
    "model": {},
    "precision": one_of("float32", "int8"),
    "opset": whole(),
    "memories": whole(1),
    "pointers": whole(1),
    "points": whole(1),
    "plan": one_of("static", "routed"),
    "blocks": [bool],
    "mean": [float, float, float],
    "std": [float, float, float],
    "constants": {str: [float]},
    "graphs": {str: {"inputs": SHAPES, "outputs": SHAPES}},
}


@dataclass(frozen=True)
class Export:
    """What `export.json` holds.

    Attributes:
        model: The configuration of the network.
        precision: Of the weights of matrix products.
        opset: Of ONNX.
        memories: Places for memories.
        pointers: Places for object pointers.
        points: Places for points.
        plan: "static": the same encoder blocks run on every image. "routed": each block is a graph,
            and a router says which of them run.
        blocks: Which encoder blocks run, or may run.
        mean: Of the image's values in [0, 1], by which it is normalised.
        std: The same.
        constants: Weights that the host needs, flat, by name.
        graphs: Shapes of inputs and outputs by graph and name.
    """

    model: SegmenterConfig
    precision: str
    opset: int
    memories: int
    pointers: int
    points: int
    plan: str
    blocks: list[bool]
    mean: list[float]
    std: list[float]
    constants: Mapping[str, list[float]]
    graphs: Mapping[str, Mapping[str, Mapping[str, list[int]]]]

    def write(self, folder: Path) -> None:
        """Write `export.json`, which `read_export` reads."""
        values = {**asdict(self), "model": json.loads(config_to_json(self.model))}
        write_json(folder / ABOUT, {"format": "tempomask export", "version": VERSION, **values})

    def constant(self, name: str, like: Tensor) -> Tensor:
        """A weight of the host's; InputError unless it has as many values as another tensor."""
        values = torch.tensor(self.constants.get(name, []))
        if values.numel() != like.numel():
            raise InputError(f"{ABOUT}: its constants lack {name}; export the model again")
        return values.reshape(like.shape)


def constants(segmenter: Segmenter) -> dict[str, list[float]]:
    """The weights that `Export.constants` holds."""
    state = segmenter.state_dict()
    return {name: state[name].float().flatten().tolist() for name in CONSTANTS}


def is_export(path: str | Path) -> bool:
    """Whether a path is a folder that an export was written to."""
    try:
        return (Path(path) / ABOUT).is_file()
    except (OSError, ValueError):
        return False


def read_export(folder: str | Path) -> Export:
    """What a folder holds.

    Raises:
        InputError: It is no export, of another version, damaged, or lacks a graph.
    """
    folder = Path(folder)
    if not is_export(folder):
        raise InputError(
            f"{folder} is no export, as it has no {ABOUT}; give the folder that tempomask export"
            " wrote"
        )
    what = f"{folder / ABOUT}"
    values = parse_json(read_file(folder / ABOUT, "the export"), what, {"version": whole()})
    if values["version"] != VERSION:
        raise InputError(
            f"{folder} is of format {values['version']}, and this version of tempomask runs format"
            f" {VERSION}; export the model again"
        )
    check(values, SCHEMA, what)
    found = {name: values[name] for name in SCHEMA}
    found["model"] = config_from_json(SegmenterConfig, json.dumps(values["model"]))
    pieces = ["embed", *map(block_name, range(len(found["blocks"]))), "finish"]
    needed = ["encode"] if found["plan"] == "static" else pieces
    needed += ["attend", "decode", "segment", "encode_memory"]
    if found["model"].memory_attention.pooling != "none":
        needed.append("attend_lone")
    for name in needed:
        if name not in found["graphs"] or not (folder / f"{name}.onnx").is_file():
            raise InputError(f"{folder} lacks {name}.onnx; copy the whole folder, or export again")
    # No others are opened, wherever their names may lead.
    return Export(**{**found, "graphs": {name: found["graphs"][name] for name in needed}})


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Shapes by name."""
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def onnx_missing(what: str, error: ImportError) -> InputError:
    """The error for a package of the extra that is not installed."""
    return InputError(f"{what} needs {error.name}: pip install 'tempomask[onnx]'")
