"""DINOv3's weights: the official files and those of transformers, strictly checked.

They are gated: a person has to accept the licence on the Hub before they can be fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from tempomask.errors import InputError, unknown_name
from tempomask.models.dinov3 import DINOV3_SIZES, DINOv3, DINOv3Config
from tempomask.weights.hub import resolve
from tempomask.weights.layout import Layout, State, rules
from tempomask.weights.loading import identify, load, read
from tempomask.weights.zoo import DINOV3_MODELS, home

TERMS = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"

_EMBEDDING = rules(
    """
    cls_token        embeddings.cls_token
    register_tokens  embeddings.register_tokens
    patch_embedding  embeddings.patch_embeddings
    norm             norm
    """
)
_UNREAD = rules("embeddings.mask_token  embeddings.cls_token")


def _transformers(title: str, blocks: str) -> Layout:
    return Layout(
        title,
        marks=("embeddings.register_tokens", f"{blocks}.0.norm1.weight"),
        rules=(*_EMBEDDING, ("blocks.*.layer", f"{blocks}.*")),
        unread=_UNREAD,
    )


def _official(feed_forward: str, mark: str) -> Layout:
    """The official layout, once its fused projections are taken apart; they differ by the MLP."""
    return Layout(
        title="DINOv3",
        marks=("storage_tokens", f"blocks.0.mlp.{mark}.weight"),
        rules=rules(
            f"""
            cls_token                     cls_token
            register_tokens               storage_tokens
            patch_embedding               patch_embed.proj
            norm                          norm
            blocks.*.layer.               blocks.*.
              {{norm1,norm2}}             {{norm1,norm2}}
              attention.{{q,k,v,o}}_proj  attn.{{query,key,value,proj}}
              layer_scale{{1,2}}.lambda1  ls{{1,2}}.gamma
              {feed_forward}
            """
        ),
        unread=(("mask_token", "cls_token"),),
    )


LAYOUTS = (
    _transformers("transformers DINOv3", "model.layer"),
    _transformers("transformers 4 DINOv3", "layer"),
    _official("mlp.{up,down}_proj mlp.{fc1,fc2}", "fc1"),
    _official("mlp.{gate,up,down}_proj mlp.{w1,w2,w3}", "w1"),
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

    Args:
        name: Such as "dinov3-vits16"; None is what the checkpoint holds.
        checkpoint: A file, a folder or a Hub id, of the official release or of transformers; None
            for the model's own.

    Raises:
        InputError: The name is unknown, the weights are not on this machine and cannot be fetched,
            or the checkpoint is damaged or does not fit.
    """
    if name is None and checkpoint is None:
        raise InputError(f"name a model: {', '.join(DINOV3_SIZES)}")
    file = read(locate(name) if checkpoint is None and name else checkpoint, None)
    file = replace(file, state=split_projections(file.state))
    layout = identify(file, LAYOUTS, "DINOv3")
    config = _config(name, layout.renamed(file.state), file.path)
    return load(lambda: DINOv3(config), config.name, file, layout)


def locate(name: str) -> Path:
    """The weights of a named DINOv3: in the folder for weights, in the Hub's cache, or fetched.

    Raises:
        InputError: That is not possible; the text says how to get them.
    """
    check_name(name)
    official = f"{name.replace('-', '_')}_pretrain_lvd1689m"
    for pattern in (f"{name}.safetensors", f"{name}.pth", f"{official}*.pth", name):
        for path in sorted(home().glob(pattern)):
            return path
    try:
        return resolve(DINOV3_MODELS[name].repository or "")
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
