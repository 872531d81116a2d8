"""DINOv3's weights: the official files and those of transformers, strictly checked.

They are gated: a person has to accept the licence on the Hub before they can be fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tempomask.errors import InputError, unknown_name
from tempomask.models.dinov3 import DINOV3_SIZES, DINOv3, DINOv3Config
from tempomask.weights.files import read_checkpoint
from tempomask.weights.hub import resolve
from tempomask.weights.layout import Layout, Rules, State
from tempomask.weights.zoo import ModelInfo, home

LICENCE = "DINOv3 License (gated)"
TERMS = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"
_MILLIONS = (21.6, 28.7, 85.7, 303.1, 840.5, 6716.0)


def _info(name: str, parameters: float) -> ModelInfo:
    repository = f"facebook/{name}-pretrain-lvd1689m"
    return ModelInfo(
        name=name,
        title=f"DINOv3 {name.removeprefix('dinov3-')}, label propagation",
        parameters=parameters,
        image_size=960,
        file=f"{name}.safetensors",
        repository=repository,
        url=f"https://huggingface.co/{repository}",
        licence=LICENCE,
    )


DINOV3_MODELS = {
    name: _info(name, millions) for name, millions in zip(DINOV3_SIZES, _MILLIONS, strict=True)
}

_EMBEDDING: Rules = (
    ("cls_token", "embeddings.cls_token"),
    ("register_tokens", "embeddings.register_tokens"),
    ("patch_embedding", "embeddings.patch_embeddings"),
    ("norm", "norm"),
)
_UNREAD: Rules = (("embeddings.mask_token", "embeddings.cls_token"),)
TRANSFORMERS_5 = Layout(
    title="transformers DINOv3",
    marks=("embeddings.register_tokens", "model.layer.0.norm1.weight"),
    rules=(*_EMBEDDING, ("blocks.*.layer", "model.layer.*")),
    unread=_UNREAD,
)
TRANSFORMERS_4 = Layout(
    title="transformers 4 DINOv3",
    marks=("embeddings.register_tokens", "layer.0.norm1.weight"),
    rules=(*_EMBEDDING, ("blocks.*.layer", "layer.*")),
    unread=_UNREAD,
)
_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.q_proj": "attn.query",
    "attention.k_proj": "attn.key",
    "attention.v_proj": "attn.value",
    "attention.o_proj": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
_PLAIN = {"mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2"}
_GATED = {"mlp.gate_proj": "mlp.w1", "mlp.up_proj": "mlp.w2", "mlp.down_proj": "mlp.w3"}


def _official(gated: bool) -> Layout:
    """The official layout, once its fused projections are taken apart."""
    block = {**_BLOCK, **(_GATED if gated else _PLAIN)}
    return Layout(
        title="DINOv3",
        marks=("storage_tokens", "blocks.0.attn.query.weight"),
        rules=(
            ("cls_token", "cls_token"),
            ("register_tokens", "storage_tokens"),
            ("patch_embedding", "patch_embed.proj"),
            ("norm", "norm"),
            *((f"blocks.*.layer.{ours}", f"blocks.*.{theirs}") for ours, theirs in block.items()),
        ),
        unread=(("mask_token", "cls_token"),),
    )


def split_projections(state: Mapping[str, Tensor]) -> State:
    """An official state with queries, keys and values apart.

    The biases of keys are masked to zero in the release and go, with the masks themselves, the
    periods of the positions, which follow from the configuration, and a norm of training only.
    """
    split: State = {}
    for key, tensor in state.items():
        head, _, tail = key.partition(".qkv.")
        if tail in ("weight", "bias"):
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            split.update({f"{head}.{name}.{tail}": part for name, part in parts})
        elif tail != "bias_mask" and not key.startswith(("rope_embed.", "local_cls_norm.")):
            split[key] = tensor
    return {key: x for key, x in split.items() if not key.endswith(".attn.key.bias")}


def load_dinov3(name: str | None = None, checkpoint: str | Path | None = None) -> DINOv3:
    """DINOv3 with its weights, on the CPU, in float32, in eval mode.

    name: such as "dinov3-vits16"; None is what the checkpoint holds. checkpoint: a file, a folder
    or a Hub id, of the official release or of transformers; None for the model's own.

    Raises InputError for an unknown name, weights that are not on this machine and cannot be
    fetched, and a checkpoint that is damaged or does not fit.
    """
    if name is None and checkpoint is None:
        raise InputError(f"name a model: {', '.join(DINOV3_SIZES)}")
    path = locate(name) if checkpoint is None and name else resolve(checkpoint or "", None)
    state = split_projections(read_checkpoint(path).state)
    layout = _layout_of(state)
    if layout is None:
        raise InputError(f"{path} is no checkpoint of DINOv3; it lacks the tensors of its layouts")
    renamed = layout.to_ours(state)
    config = _config(name, renamed, path)
    with torch.device("meta"):
        network = DINOv3(config)
    _check(path, config, renamed, state, layout, network)
    ours = {key: tensor.to(torch.float32, copy=True) for key, tensor in renamed.items()}
    network.load_state_dict(ours, assign=True)
    return network.eval()


def locate(name: str) -> Path:
    """The weights of a named DINOv3: in the folder for weights, in the Hub's cache, or fetched.

    InputError, with the way to them, if that is not possible.
    """
    check_name(name)
    official = f"{name.replace('-', '_')}_pretrain_lvd1689m"
    for pattern in (f"{name}.safetensors", f"{name}.pth", f"{official}*.pth", name):
        for path in sorted(home().glob(pattern)):
            return path
    try:
        return resolve(DINOV3_MODELS[name].repository or "", None)
    except InputError:
        raise InputError(
            f"the weights of {name} are not on this machine and could not be fetched; accept the"
            f" licence at {DINOV3_MODELS[name].url} and log in with `hf auth login`, or pass the"
            f" file from {TERMS} as checkpoint"
        ) from None


def check_name(name: str) -> DINOv3Config:
    """The configuration of a named DINOv3; InputError with near names if there is none."""
    if name not in DINOV3_SIZES:
        raise unknown_name(f"unknown model {name!r}", name, DINOV3_SIZES)
    return DINOV3_SIZES[name]


def _layout_of(state: Mapping[str, Tensor]) -> Layout | None:
    official = _official(gated="blocks.0.mlp.w1.weight" in state)
    layouts = (TRANSFORMERS_5, TRANSFORMERS_4, official)
    return next((x for x in layouts if all(mark in state for mark in x.marks)), None)


def _config(name: str | None, state: Mapping[str, Tensor], path: Path) -> DINOv3Config:
    """By name, or the size whose width, depth and kind of feed-forward the tensors have."""
    if name is not None:
        return check_name(name)
    dim = state["cls_token"].shape[-1]
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    gated = any(".gate_proj." in key for key in state)
    for config in DINOV3_SIZES.values():
        if (config.dim, config.depth, config.gated) == (dim, depth, gated):
            return config
    raise InputError(f"{path} holds {depth} blocks of {dim} channels, which no known DINOv3 has")


def _check(
    path: Path,
    config: DINOv3Config,
    renamed: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    layout: Layout,
    network: DINOv3,
) -> None:
    """InputError unless names and shapes are exactly those that the network needs."""
    expected = {key: tuple(x.shape) for key, x in network.state_dict().items()}
    found = {key: tuple(x.shape) for key, x in renamed.items()}
    unknown = len(state) - len(found) - sum(key in layout.optional for key in state)
    wrong = [key for key, shape in found.items() if key in expected and expected[key] != shape]
    problems = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected] + ["?"] * unknown,
        "of another shape": wrong,
    }
    texts = [f"{len(k)} {kind}: {', '.join(k[:3])}" for kind, k in problems.items() if k]
    if texts:
        raise InputError(f"{path} does not fit {config.name}; tensors {'; '.join(texts)}")
