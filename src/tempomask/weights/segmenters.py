"""Segmenters from their names and from checkpoints of every known layout, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tempomask.errors import InputError
from tempomask.files import read_json
from tempomask.models.config import (
    SEGMENTERS,
    HieraConfig,
    MemoryForm,
    RepViTConfig,
    SegmenterConfig,
    ViTConfig,
    segmenter_config,
)
from tempomask.models.segmenter import Segmenter
from tempomask.weights.edgetam import EDGETAM, TRANSFORMERS_EDGETAM, edgetam_config_of
from tempomask.weights.files import Checkpoint
from tempomask.weights.instances import is_instances
from tempomask.weights.layout import Layout, State, layout_of
from tempomask.weights.loading import identify, load, other_model, read
from tempomask.weights.matching import LAYOUTS as MATCHING_LAYOUTS
from tempomask.weights.own import OWN, SEGMENTER_KEY, config_from_json
from tempomask.weights.pruned import fit_widths
from tempomask.weights.sam2 import EFFICIENTTAM, SAM2
from tempomask.weights.transformers_sam2 import TRANSFORMERS_SAM2, segmenter_config_of
from tempomask.weights.zoo import INSTANCES_REMEDY, MATCHING_REMEDY, MODELS, unknown_model

LAYOUTS = (SAM2, EFFICIENTTAM, EDGETAM, TRANSFORMERS_SAM2, TRANSFORMERS_EDGETAM, OWN)
# How transformers describes its models.
CONFIGURATIONS = {
    TRANSFORMERS_SAM2.title: segmenter_config_of,
    TRANSFORMERS_EDGETAM.title: edgetam_config_of,
}


def load_segmenter(
    name: str | None = None,
    checkpoint: str | Path | None = None,
    image_size: int | None = None,
    pooled_memory: bool | MemoryForm = False,
) -> Segmenter:
    """A segmenter with its weights, on the CPU, in float32, in eval mode.

    Args:
        name: Such as "sam2.1-tiny"; None takes what the checkpoint holds, or nano without one.
        checkpoint: A file, a folder or a Hub id: official `.pt` files of SAM 2, EfficientTAM and
            EdgeTAM, transformers' safetensors of SAM 2 and EdgeTAM, and our own. None is the
            model's own, from this machine or the Hub.
        image_size: Side of the square input; None is that of the model.
        pooled_memory: Memory keys and values are pooled 2x2 (EfficientTAM, Eq. 5), or attended to
            in another form, also in models that were not trained so.

    Raises:
        InputError: The name is unknown; the checkpoint is missing, damaged or of another model; the
            strides do not allow the size.
    """
    if name is None and checkpoint is None:
        name = "nano"
    if name is not None and name not in SEGMENTERS:
        raise unknown_model(name, SEGMENTERS)
    if name is not None and image_size is not None:
        segmenter_config(name).with_image_size(image_size)  # before anything is fetched
    file = read(checkpoint, None if name is None else MODELS[name])
    if layout_of(file.state, LAYOUTS) is None and is_instances(file):
        raise InputError(f"{file.path} holds a model that {INSTANCES_REMEDY}")
    if layout_of(file.state, MATCHING_LAYOUTS) is not None:
        raise InputError(f"{file.path} holds a model that {MATCHING_REMEDY}")
    layout = identify(file, LAYOUTS, "SAM 2, EfficientTAM, EdgeTAM or tempomask")
    config = _config_of(name, file, layout)
    if image_size is not None:
        config = config.with_image_size(image_size)
    if isinstance(pooled_memory, MemoryForm):
        config = config.with_memory(pooled_memory)
    elif pooled_memory and config.memory_attention.pooling == "none":
        config = config.with_memory(MemoryForm())
    # Of our own networks some are pruned.
    own = file.state if layout is OWN else {}
    return load(lambda: fit_widths(Segmenter(config), own), config.name, file, layout)


def to_official(state: Mapping[str, Tensor]) -> State:
    """The state of a segmenter as the official SAM 2, EfficientTAM or EdgeTAM code names it.

    Save it as `torch.save({"model": to_official(segmenter.state_dict())}, path)`. Tensors that no
    network reads are zeros.

    Raises:
        InputError: The network has no official twin.
    """
    if _is_edgetam(state):
        return _converted(state, EDGETAM)
    return _converted(state, EFFICIENTTAM if "neck.project.weight" in state else SAM2)


def to_transformers(state: Mapping[str, Tensor]) -> State:
    """The state of a SAM 2 or EdgeTAM segmenter as transformers' video models name it."""
    return _converted(state, TRANSFORMERS_EDGETAM if _is_edgetam(state) else TRANSFORMERS_SAM2)


def _is_edgetam(state: Mapping[str, Tensor]) -> bool:
    return "perceiver.latents" in state


def _converted(state: Mapping[str, Tensor], layout: Layout) -> State:
    try:
        return layout.to_theirs(state)
    except KeyError as error:
        raise InputError(f"cannot convert this model: {error.args[0]}") from None


def _config_of(name: str | None, file: Checkpoint, layout: Layout) -> SegmenterConfig:
    """The configuration to load a checkpoint with: as stored beside the weights, or by name."""
    stored = _stored_config(file, layout)
    if stored is not None:
        if name is not None and stored.name != name:
            raise other_model(file.path, [stored.name], name)
        return stored
    fitting = _fitting_names(layout.renamed(file.state))
    # EfficientTAM's variants have equal tensors; the name of the file decides where it can.
    likely = [n for n in fitting if MODELS[n].file == file.path.name][:1] or fitting
    if name is None:
        if len(likely) == 1:
            return segmenter_config(likely[0])
        choice = f"; say which of {', '.join(likely)} it is" if likely else ""
        raise InputError(f"cannot tell which model {file.path} holds{choice}")
    if fitting and name not in fitting:
        raise other_model(file.path, likely, name)
    return segmenter_config(name)


def _stored_config(file: Checkpoint, layout: Layout) -> SegmenterConfig | None:
    if layout is OWN:
        if SEGMENTER_KEY not in file.metadata:
            raise InputError(f"{file.path} lacks its configuration; save it with save_segmenter")
        return config_from_json(SegmenterConfig, file.metadata[SEGMENTER_KEY])
    if layout.title in CONFIGURATIONS and file.config_json is not None:
        return CONFIGURATIONS[layout.title](read_json(file.config_json, "the configuration"))
    return None


# What tells models apart: the kind of encoder, the channels of its first embedding, its number of
# blocks, and whether there are occlusion embeddings, as in version 2.1 of SAM 2.
Signature = tuple[str, int, int, bool]


def _fitting_names(state: Mapping[str, Tensor]) -> list[str]:
    """Named models with the signature of a state that `Layout.renamed` made."""
    blocks = {key.split(".")[2] for key in state if key.startswith("encoder.blocks.")}
    kind = "hiera" if "encoder.window_position" in state else "vit"
    embedding = state.get("encoder.patch_embedding.weight")
    for other, name in (("hybrid", "embed.weight"), ("repvit", "stem.2.conv.weight")):
        if embedding is None:
            kind, embedding = other, state.get(f"encoder.{name}")
    if embedding is None:
        return []
    signature = kind, embedding.shape[0], len(blocks), "occlusion_embedding" in state
    return [name for name, config in SEGMENTERS.items() if _signature(config) == signature]


def _signature(config: SegmenterConfig) -> Signature:
    """The signature that checkpoints of a configuration have."""
    encoder, newer = config.encoder, config.occlusion_embedding
    if isinstance(encoder, HieraConfig):
        return "hiera", encoder.embed_dim, sum(encoder.stages), newer
    if isinstance(encoder, RepViTConfig):
        # Two more lie between stages.
        blocks = sum(encoder.stages) + 2 * (len(encoder.stages) - 1)
        return "repvit", encoder.channels[0], blocks, newer
    kind = "vit" if isinstance(encoder, ViTConfig) else "hybrid"
    return kind, encoder.dim, encoder.depth, newer
