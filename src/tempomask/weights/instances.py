"""Instance segmenters from their names and from checkpoints: ours, detectron2's, transformers'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from tempomask.errors import InputError
from tempomask.models.instances.config import (
    InstanceConfig,
    StemConfig,
    ViTAdapterConfig,
    instance_config,
)
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.weights.files import Checkpoint
from tempomask.weights.layout import Layout, layout_of
from tempomask.weights.loading import identify, load, other_model, read
from tempomask.weights.mask2former import (
    DETECTRON2,
    DETECTRON2_VIT_ADAPTER,
    TRANSFORMERS_MASK2FORMER,
    config_beside,
    published,
)
from tempomask.weights.own import (
    INSTANCES_KEY,
    OWN_INSTANCES,
    ROUTER_KEY,
    ROUTER_PREFIX,
    RouterWeights,
    config_from_json,
)
from tempomask.weights.zoo import INSTANCE_MODELS

LAYOUTS = (DETECTRON2_VIT_ADAPTER, DETECTRON2, TRANSFORMERS_MASK2FORMER)
# The class head, whose rows tell how many classes a file knows.
CLASS_HEADS = ("sem_seg_head.predictor.class_embed.bias", "class_predictor.bias")
# What DVIS++ trains in turn; its parts tell which stage a file is of.
SEGMENTER_STAGE = "the segmenter stage (MinVIS), without the tracker"
CTVIS_STAGE = "CTVIS, as DVIS++ starts from it, without the tracker"
ONLINE_STAGE = "DVIS++'s online stage (it has a tracker)"
DVIS_STAGE = "DVIS, not DVIS++ (no re-identification head)"
OFFLINE_STAGE = "DVIS++'s offline stage (it has a refiner)"
OFFLINE_DVIS_STAGE = "DVIS's offline stage (it has a refiner)"
# The models that a file of each stage is of.
FAMILIES = {
    SEGMENTER_STAGE: "minvis or mask2former",
    CTVIS_STAGE: "ctvis",
    ONLINE_STAGE: "dvis-plus",
    DVIS_STAGE: "dvis",
    OFFLINE_STAGE: "dvis-plus-...-offline",
    OFFLINE_DVIS_STAGE: "dvis-...-offline",
}


class LoadedInstances(NamedTuple):
    """A segmenter with its weights, and TAR's router if the file holds one."""

    segmenter: InstanceSegmenter
    router: RouterWeights | None


def load_instance_segmenter(
    name: str | None = None, checkpoint: str | Path | None = None, *, with_router: bool = False
) -> LoadedInstances:
    """A segmenter with its weights, on the CPU, in float32, in eval mode.

    Args:
        name: Such as "nano-vis"; None takes what the checkpoint says of itself, or nano-vis without
            one.
        checkpoint: A file, a folder or a Hub id: ours, MinVIS's and DVIS++'s `.pth`, detectron2's
            `.pkl`, transformers' safetensors; None is the model's own.
        with_router: Of the model's own files take the one with TAR.

    Raises:
        InputError: The name is unknown, or the checkpoint is missing, damaged, of another model or
            of another stage.
    """
    if name is None and checkpoint is None:
        name = "nano-vis"
    named = None if name is None else instance_config(name)
    info = None if name is None else INSTANCE_MODELS[name]
    if info is not None and checkpoint is None and with_router:
        # Only bundled models have a file of the same model with TAR trained on top.
        if info.repository is not None:
            raise InputError(
                f"{name} has no weights with TAR; train them, or give a file as the checkpoint"
            )
        info = replace(info, name=f"{name} with TAR", file=f"{name}-tar.safetensors")
    file = read(checkpoint, info)
    if INSTANCES_KEY in file.metadata:
        return _load_own(file, name)
    file = replace(file, state=published(file.state))
    kinds = "Mask2Former, MinVIS, DVIS++ or tempomask's instances"
    layout = identify(file, LAYOUTS, kinds)
    config = named or config_beside(file)
    if config is None:
        raise InputError(f"cannot tell which model {file.path} holds; give the name of the model")
    _check_kind(file, layout, config)
    segmenter = load(lambda: InstanceSegmenter(config), config.name, file, layout)
    return LoadedInstances(segmenter, None)


def is_instances(file: Checkpoint) -> bool:
    """Whether a checkpoint is of an instance segmenter, our own or a foreign one."""
    return INSTANCES_KEY in file.metadata or layout_of(published(file.state), LAYOUTS) is not None


def _load_own(file: Checkpoint, name: str | None) -> LoadedInstances:
    config = config_from_json(InstanceConfig, file.metadata[INSTANCES_KEY])
    if name is not None and config.name != name:
        raise other_model(file.path, [config.name], name)
    routers = {k: x for k, x in file.state.items() if k.startswith(ROUTER_PREFIX)}
    file = replace(file, state={k: x for k, x in file.state.items() if k not in routers})
    segmenter = load(lambda: InstanceSegmenter(config), config.name, file, OWN_INSTANCES)
    if ROUTER_KEY not in file.metadata:
        return LoadedInstances(segmenter, None)
    stored = {k.removeprefix(ROUTER_PREFIX): x.float() for k, x in routers.items()}
    return LoadedInstances(segmenter, RouterWeights(file.metadata[ROUTER_KEY], stored))


def _check_kind(file: Checkpoint, layout: Layout, config: InstanceConfig) -> None:
    """InputError if a file of other projects is of another model or stage than the one wanted."""
    if isinstance(config.backbone, StemConfig):
        raise InputError(f"{file.path} is not a checkpoint of {config.name}, which is ours alone")
    if (layout is DETECTRON2_VIT_ADAPTER) != isinstance(config.backbone, ViTAdapterConfig):
        has = "a" if layout is DETECTRON2_VIT_ADAPTER else "no"
        raise InputError(
            f"{file.path} has {has} ViT-Adapter as its backbone, unlike {config.name}; ask for the"
            " model it holds"
        )
    wanted, found = _wanted(config), _stage(file.state)
    if found != wanted:
        remedy = f": take one, or ask for a {FAMILIES[found]} model" if found in FAMILIES else ""
        raise InputError(
            f"{file.path} is of {found}; {config.name} needs a file of {wanted}{remedy}"
        )
    head = next((file.state[name] for name in CLASS_HEADS if name in file.state), None)
    if head is not None and len(head) != config.num_classes + 1:
        raise InputError(
            f"{file.path} knows {len(head) - 1} classes, {config.name} has {config.num_classes};"
            " it was trained on other data, ask for the model it holds"
        )


def _wanted(config: InstanceConfig) -> str:
    """The stage that a model's file is of."""
    referring = config.referring_tracker
    if referring is not None:
        stages = (ONLINE_STAGE, DVIS_STAGE, OFFLINE_STAGE, OFFLINE_DVIS_STAGE)
        return stages[(referring.reid_dim is None) + 2 * (config.refiner is not None)]
    return SEGMENTER_STAGE if config.memory_tracker is None else CTVIS_STAGE


def _stage(state: Mapping[str, Tensor]) -> str:
    """Of DVIS++'s training, that a file is of."""
    identifies = any(key.startswith("sem_seg_head.predictor.reid_embed.") for key in state)
    parts = {key.partition(".")[0] for key in state}
    if "refiner" in parts:
        return OFFLINE_STAGE if identifies else OFFLINE_DVIS_STAGE
    if "tracker" in parts:
        return ONLINE_STAGE if identifies else DVIS_STAGE
    return CTVIS_STAGE if identifies else SEGMENTER_STAGE
