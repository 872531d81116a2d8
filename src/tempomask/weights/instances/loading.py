"""Instance segmenters from files: ours, detectron2's, transformers'; everything has to fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tempomask.errors import InputError
from tempomask.models.instances.config import InstanceConfig
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.weights.files import Checkpoint, read_checkpoint
from tempomask.weights.hub import locate_model, resolve
from tempomask.weights.instances.mask2former import (
    DETECTRON2_MARK,
    TRANSFORMERS_MARK,
    detectron2_layout,
    is_known_backbone,
    published,
    transformers_layout,
)
from tempomask.weights.instances.mask2former_config import config_beside
from tempomask.weights.instances.own import (
    METADATA_KEY,
    ROUTER_KEY,
    ROUTER_PREFIX,
    RouterWeights,
    config_from_json,
)
from tempomask.weights.instances.zoo import instance_model
from tempomask.weights.layout import Layout
from tempomask.weights.lean import complete
from tempomask.weights.pickles import read_pickle

LISTED = 3
# The class head, whose rows tell how many classes a file knows.
CLASS_HEADS = ("sem_seg_head.predictor.class_embed.bias", "class_predictor.bias")
REID_MARK = "sem_seg_head.predictor.reid_embed."


class LoadedInstances(NamedTuple):
    """A segmenter with its weights, and TAR's router if the file holds one."""

    segmenter: InstanceSegmenter
    router: RouterWeights | None


def load_instance_segmenter(
    name: str | None = None, checkpoint: str | Path | None = None, *, with_router: bool = False
) -> LoadedInstances:
    """A segmenter with its weights, on the CPU, in float32, in eval mode.

    name: such as "nano-vis"; None takes what the checkpoint says of itself, or nano-vis without
    one. checkpoint: a file, a folder or a Hub id: ours, MinVIS's and DVIS++'s `.pth`, detectron2's
    `.pkl`, transformers' safetensors; None is the model's own. with_router: of the model's own
    files take the one with TAR.

    Raises InputError for an unknown name, and a checkpoint that is missing, damaged, of another
    model or of another stage.
    """
    model = None if name is None else instance_model(name)
    if checkpoint is None:
        path = _own_file(name or "nano-vis", with_router)
    else:
        path = resolve(checkpoint, None)
    file = read_pickle(path) if path.suffix == ".pkl" else read_checkpoint(path)
    if METADATA_KEY in file.metadata:
        return _load_own(file, name)
    file = replace(file, state=published(file.state))
    if DETECTRON2_MARK not in file.state and TRANSFORMERS_MARK not in file.state:
        raise InputError(
            f"{path} is no checkpoint of Mask2Former, MinVIS, DVIS++ or tempomask's instances; its"
            f" {len(file.state)} tensors are {_listed(file.state)}"
        )
    config = config_beside(file) if model is None else model.config
    if config is None:
        raise InputError(f"cannot tell which model {path} holds; give the name of the model")
    return LoadedInstances(_load_foreign(file, config), None)


def is_instances(file: Checkpoint) -> bool:
    """Whether a checkpoint is of an instance segmenter, our own or a foreign one."""
    if METADATA_KEY in file.metadata:
        return True
    state = published(file.state)
    return DETECTRON2_MARK in state or TRANSFORMERS_MARK in state


def _own_file(name: str, with_router: bool) -> Path:
    model = instance_model(name)
    if with_router:
        if not model.router_file:
            raise InputError(
                f"{name} has no weights with TAR; train them, or give a file as the checkpoint"
            )
        return locate_model(model.router_info)
    if not model.info.file:
        raise InputError(
            f"{name} has no file that could be fetched by its name; fetch one from {model.info.url}"
            " and name it as the checkpoint"
        )
    return locate_model(model.info)


def _load_own(file: Checkpoint, name: str | None) -> LoadedInstances:
    file = complete(file)
    config = config_from_json(file.metadata[METADATA_KEY])
    if name is not None and config.name != name:
        raise InputError(
            f"{file.path} is a checkpoint of {config.name}, not of {name}; ask for the model it"
            " holds"
        )
    routers = {k: x for k, x in file.state.items() if k.startswith(ROUTER_PREFIX)}
    state = {k: x for k, x in file.state.items() if k not in routers}
    segmenter = _empty(config)
    _check_fit(file.path, state, segmenter.state_dict(), config.name, "tempomask")
    _assign(segmenter, state)
    if ROUTER_KEY not in file.metadata:
        return LoadedInstances(segmenter, None)
    stored = {k.removeprefix(ROUTER_PREFIX): x.float() for k, x in routers.items()}
    return LoadedInstances(segmenter, RouterWeights(file.metadata[ROUTER_KEY], stored))


def _load_foreign(file: Checkpoint, config: InstanceConfig) -> InstanceSegmenter:
    if not is_known_backbone(config):
        raise InputError(f"{file.path} is not a checkpoint of {config.name}, which is ours alone")
    is_detectron2 = DETECTRON2_MARK in file.state
    if is_detectron2:
        _check_stage(file, config)
    _check_classes(file, config)
    layout: Layout = (detectron2_layout if is_detectron2 else transformers_layout)(config)
    if not is_detectron2 and config.referring_tracker is not None:
        raise InputError(
            f"{file.path} is a Mask2Former of transformers, without DVIS++'s tracker; {config.name}"
            " needs a file of DVIS++'s online stage"
        )
    segmenter = _empty(config)
    expected = layout.to_theirs(segmenter.state_dict())
    _check_fit(file.path, file.state, expected, config.name, layout.title)
    _assign(segmenter, layout.to_ours(file.state))
    return segmenter


def _check_stage(file: Checkpoint, config: InstanceConfig) -> None:
    """InputError if a detectron2 file is of another stage of DVIS++'s training than is needed."""
    path, state = file.path, file.state
    tracked = any(key.startswith("tracker.") for key in state)
    reidentifies = any(key.startswith(REID_MARK) for key in state)
    if any(key.startswith("refiner.") for key in state):
        raise InputError(
            f"{path} is of DVIS++'s offline stage (it has a refiner); tempomask runs the online"
            " stage: fetch its file"
        )
    if config.referring_tracker is None:
        if tracked or reidentifies:
            stage = "online stage (it has a tracker)" if tracked else "segmenter stage (CTVIS)"
            raise InputError(
                f"{path} is of DVIS++'s {stage}, not a file of {config.name}; ask for a dvis-plus"
                " model, or take a MinVIS file"
            )
    elif not tracked:
        stage = "segmenter stage (CTVIS)" if reidentifies else "segmenter stage (MinVIS)"
        raise InputError(
            f"{path} is of DVIS++'s {stage}, without the tracker; {config.name} needs a file of the"
            " online stage"
        )
    elif not reidentifies:
        raise InputError(
            f"{path} is DVIS, not DVIS++: it has no re-identification head; {config.name} needs a"
            " file of DVIS++'s online stage"
        )


def _check_classes(file: Checkpoint, config: InstanceConfig) -> None:
    head = next((file.state[name] for name in CLASS_HEADS if name in file.state), None)
    if head is not None and len(head) != config.num_classes + 1:
        raise InputError(
            f"{file.path} knows {len(head) - 1} classes, {config.name} has {config.num_classes};"
            " it was trained on other data, ask for the model it holds"
        )


def _empty(config: InstanceConfig) -> InstanceSegmenter:
    with torch.device("meta"):
        return InstanceSegmenter(config)


def _assign(segmenter: InstanceSegmenter, state: Mapping[str, Tensor]) -> None:
    # Copies: tensors that share storage would be a surprise in training.
    copies = {key: tensor.to(torch.float32, copy=True) for key, tensor in state.items()}
    segmenter.load_state_dict(copies, assign=True)
    segmenter.eval()


def _check_fit(
    path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str, title: str
) -> None:
    """InputError unless names and shapes are exactly those that the segmenter needs."""
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    kinds = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": reshaped,
    }
    problems = [f"{len(k)} {kind}: {_listed(k)}" for kind, k in kinds.items() if k]
    if problems:
        raise InputError(
            f"{path} looks like {name} ({title} layout) but does not fit it: tensors"
            f" {'; '.join(problems)}"
        )


def _listed(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:LISTED]) + (" ..." if len(names) > LISTED else "")
