"""Structural pruning of an encoder: which channels belong together, what they are worth, surgery.

SlimSAM (arXiv 2312.05284): the importance of a weight is |w dL/dw| for L = MSE(E, E + noise), E the
image embedding: without noise the loss and its gradient would be zero. Channels that must go
together form a group, whose importance is the sum over its weights.

Two kinds of groups. Embedding: one residual channel, in every layer that reads or writes it; Hiera
has one set of them per stage, pruned at one rate, so that its stages still double. Bottleneck: a
hidden channel of one MLP; a channel of one head, queries and keys together, values with the output
projection's input. Rotary encodings turn queries and keys in pairs, which are kept or pruned whole.

A pruned encoder has truly narrower tensors; it equals the full one with the pruned channels left
out of everything, layer norms included.

B batch, L blocks, H heads, D channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.errors import InputError, check_share
from tempomask.models.config import (
    EncoderConfig,
    HieraConfig,
    HybridConfig,
    RepViTConfig,
    SegmenterConfig,
)
from tempomask.models.hybrid import TransformerBlock
from tempomask.models.segmenter import Segmenter
from tempomask.models.windowed_block import WindowedBlock
from tempomask.weights.pruned import fit_widths

# Standard deviation of the disturbance (SlimSAM, section 3.3).
DISTURBANCE = 0.01
# Widths are multiples of these: processors like round numbers, and rotary pairs stay whole.
EMBEDDING_STEP, HEAD_STEP, MLP_STEP = 8, 4, 8


@dataclass(frozen=True)
class Bottleneck:
    """Kept channels of one block, ascending.

    query_key, value: (H, D') of each head; mlp: (M',).
    """

    query_key: Tensor
    value: Tensor
    mlp: Tensor


@dataclass(frozen=True)
class Importances:
    """Importances of the groups.

    embedding: of each stage (C,). query_key, value: (L) of (H, D); mlp: (L) of (M,).
    """

    embedding: list[Tensor]
    query_key: list[Tensor]
    value: list[Tensor]
    mlp: list[Tensor]


def disturbed_importance(
    segmenter: Segmenter, images: Tensor, seed: int = 0, disturbance: float = DISTURBANCE
) -> dict[str, Tensor]:
    """|w dL/dw| of every weight of encoder and neck, by name, averaged over images (N, 3, S, S)."""
    list(_blocks(segmenter))  # refuses an encoder of other blocks
    watched = {
        name: parameter
        for name, parameter in segmenter.named_parameters()
        if name.startswith(("encoder.", "neck."))
    }
    wanted = [parameter.requires_grad for parameter in watched.values()]
    importance = {name: torch.zeros_like(parameter) for name, parameter in watched.items()}
    generator = torch.Generator(images.device).manual_seed(seed)
    try:
        for parameter in watched.values():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            for image in images:
                loss = _disturbed_loss(segmenter, image[None], generator, disturbance)
                gradients = torch.autograd.grad(loss, list(watched.values()), allow_unused=True)
                for (name, parameter), gradient in zip(watched.items(), gradients, strict=True):
                    if gradient is not None:
                        importance[name] += (parameter.detach() * gradient).abs() / len(images)
    finally:
        for parameter, value in zip(watched.values(), wanted, strict=True):
            parameter.requires_grad_(value)
    return importance


def _disturbed_loss(
    segmenter: Segmenter, image: Tensor, generator: torch.Generator, disturbance: float
) -> Tensor:
    encoded = segmenter.encode(image)
    losses = []
    for x in (encoded.features, *encoded.high_resolution):
        noise = torch.randn(x.shape, generator=generator, device=x.device) * disturbance
        losses.append(F.mse_loss(x.float(), (x.detach().float() + noise)))
    return torch.stack(losses).sum()


def stage_of_blocks(config: SegmenterConfig) -> list[int]:
    """The stage whose channels each block puts out; a plain encoder has stage 0 only."""
    encoder = config.encoder
    if not isinstance(encoder, HieraConfig | RepViTConfig):
        return [0] * encoder.depth
    ends = list(accumulate(encoder.stages))
    return [next(s for s, end in enumerate(ends) if block < end) for block in range(ends[-1])]


def embedding_members(segmenter: Segmenter) -> list[list[tuple[str, int]]]:
    """For each stage the parameters that have its channels, and along which dimension."""
    config, encoder = segmenter.config, segmenter.encoder
    stages = stage_of_blocks(config)
    members: list[list[tuple[str, int]]] = [[] for _ in range(stages[-1] + 1)]
    members[0] += _first_layers(config)
    for index, block in enumerate(encoder.blocks):
        own, prefix = members[stages[index]], f"encoder.blocks.{index}."
        before = members[stages[index - 1] if index else 0]
        before += [
            (f"{prefix}attention_norm.weight", 0),
            (f"{prefix}attention_norm.bias", 0),
            (f"{prefix}qkv.weight", 1),
        ]
        own += [
            (f"{prefix}{name}", dim)
            for name, dim in (
                ("output.weight", 0),
                ("output.bias", 0),
                ("mlp_norm.weight", 0),
                ("mlp_norm.bias", 0),
                ("expand.weight", 1),
                ("contract.weight", 0),
                ("contract.bias", 0),
            )
        ]
        if getattr(block, "shortcut", None) is not None:
            before.append((f"{prefix}shortcut.weight", 1))
            own += [(f"{prefix}shortcut.weight", 0), (f"{prefix}shortcut.bias", 0)]
    for stage, name in enumerate(_necks(config, len(members))):
        members[stage].append((name, 1))
    return members


def _first_layers(config: SegmenterConfig) -> list[tuple[str, int]]:
    if isinstance(config.encoder, HybridConfig):
        coarse = ("embed_coarse",) if len(config.encoder.stem) > 5 else ()
        layers = ("embed", *coarse, "embed_norm", "norm")
        return [(f"encoder.{layer}.{kind}", 0) for layer in layers for kind in ("weight", "bias")]
    first = [("encoder.patch_embedding.weight", 0), ("encoder.patch_embedding.bias", 0)]
    first.append(("encoder.position", 0))
    if isinstance(config.encoder, HieraConfig):
        first.append(("encoder.window_position", 0))
    return first


def _necks(config: SegmenterConfig, stages: int) -> list[str]:
    """The layer of the neck that reads each stage."""
    if not config.high_resolution:
        return ["neck.project.weight"]
    if stages == 1:  # after the two maps of the convolutional stem
        return ["neck.laterals.2.weight"]
    return [f"neck.laterals.{stage}.weight" for stage in range(stages)]


def group_importances(segmenter: Segmenter, weights: Mapping[str, Tensor]) -> Importances:
    """Sums over the members of each group; weights: see `disturbed_importance`."""
    embedding = []
    for members in embedding_members(segmenter):
        sums = [_sum_but(weights[name], dim) for name, dim in members]
        embedding.append(torch.stack(sums).sum(dim=0))
    result = Importances(embedding, [], [], [])
    for index, block in enumerate(_blocks(segmenter)):
        prefix, heads = f"encoder.blocks.{index}.", block.num_heads
        rows = _sum_but(weights[f"{prefix}qkv.weight"], 0) + weights[f"{prefix}qkv.bias"]
        query, key, value = rows.unflatten(0, (3, heads, -1))
        inputs = _sum_but(weights[f"{prefix}output.weight"], 1).unflatten(0, (heads, -1))
        result.query_key.append(query + key)
        result.value.append(value + inputs)
        mlp = _sum_but(weights[f"{prefix}expand.weight"], 0) + weights[f"{prefix}expand.bias"]
        result.mlp.append(mlp + _sum_but(weights[f"{prefix}contract.weight"], 1))
    return result


def _sum_but(x: Tensor, dim: int) -> Tensor:
    """The sum over all dimensions but one."""
    return x.transpose(0, dim).flatten(1).sum(dim=1) if x.ndim > 1 else x


def _blocks(segmenter: Segmenter) -> Iterable[WindowedBlock | TransformerBlock]:
    for block in segmenter.encoder.blocks:
        if not isinstance(block, WindowedBlock | TransformerBlock):
            raise InputError(
                f"the channels of {segmenter.name}'s encoder cannot be pruned: its blocks have no"
                " attention; use a method that leaves out whole blocks, such as rds or pbd"
            )
        yield block


def choose_embedding(importances: Sequence[Tensor], ratio: float) -> list[Tensor]:
    """The most important channels of each stage, ascending: the share `ratio`, at one rate.

    The number is a multiple of 8, and each stage keeps the same share to the channel.
    """
    check_share("the share of channels", ratio)
    first = len(importances[0])
    count = min(first, max(EMBEDDING_STEP, _round_to(ratio * first, EMBEDDING_STEP)))
    return [_top(x, count * len(x) // first) for x in importances]


class _Layer(NamedTuple):
    """Channels of one layer: scores, descending; what one costs; how many go at once."""

    scores: Tensor
    cost: float
    step: int


def choose_bottlenecks(
    importances: Importances, widths: Sequence[int], ratio: float, rotary: bool
) -> list[Bottleneck]:
    """The most important bottleneck channels of all blocks together: the share `ratio` of weights.

    Importances are normalised within each layer (zero mean, unit deviation) before layers compete.
    widths: of each block's residual stream, which say what a channel costs. rotary: queries and
    keys go in pairs. Every layer keeps one step of channels at least (4 of a head, 8 of an MLP).
    """
    check_share("the share of channels", ratio)
    layers = []
    for query_key, value, mlp, width in zip(
        importances.query_key, importances.value, importances.mlp, widths, strict=True
    ):
        heads = _descending_pairs(query_key) if rotary else _descending(query_key)
        heads = (heads + _descending(value)).sum(dim=0)
        layers.append(_Layer(_normalised(heads), 4.0 * len(query_key) * width, HEAD_STEP))
        layers.append(_Layer(_normalised(_descending(mlp)), 2.0 * width, MLP_STEP))
    counts = _share_out(layers, ratio)
    take = _top_pairs if rotary else _top
    return [
        Bottleneck(
            query_key=take(importances.query_key[i], counts[2 * i]),
            value=_top(importances.value[i], counts[2 * i]),
            mlp=_top(importances.mlp[i], counts[2 * i + 1]),
        )
        for i in range(len(widths))
    ]


def _share_out(layers: Sequence[_Layer], ratio: float) -> list[int]:
    """How many channels each layer keeps: the best chunks of all layers until `ratio` is spent."""
    counts = [min(layer.step, len(layer.scores)) for layer in layers]
    whole = sum(layer.cost * len(layer.scores) for layer in layers)
    spent = sum(layer.cost * count for layer, count in zip(layers, counts, strict=True))
    chunks = [
        (chunk.mean().item(), index, len(chunk))
        for index, layer in enumerate(layers)
        for chunk in layer.scores[layer.step :].split(layer.step)
        if len(chunk)
    ]
    closed: set[int] = set()
    for _, index, channels in sorted(chunks, key=lambda chunk: -chunk[0]):
        cost = layers[index].cost * channels
        if index in closed or spent + cost > ratio * whole * (1 + 1e-9):
            # Later chunks of this layer are worse than the one that did not fit.
            closed.add(index)
            continue
        counts[index] += channels
        spent += cost
    return counts


def _round_to(value: float, step: int) -> int:
    return round(value / step) * step


def _normalised(values: Tensor) -> Tensor:
    deviation = values.std() if len(values) > 1 else values.new_zeros(())
    return (values - values.mean()) / deviation.clamp(min=1e-12)


def _top(values: Tensor, count: int) -> Tensor:
    """Indices of the greatest `count` of the last dimension, ascending; ties to the first."""
    order = values.argsort(dim=-1, descending=True, stable=True)
    return order[..., :count].sort(dim=-1).values


def _descending(scores: Tensor) -> Tensor:
    return scores.sort(dim=-1, descending=True).values


def _pairs(query_key: Tensor) -> Tensor:
    """(H, D) to the sums of adjacent channels (H, D / 2)."""
    return query_key.unflatten(1, (-1, 2)).sum(dim=2)


def _descending_pairs(query_key: Tensor) -> Tensor:
    """(H, D) in descending order of pairs, each with its mean twice."""
    ordered = _descending(_pairs(query_key)) / 2
    return ordered.repeat_interleave(2, dim=1)


def _top_pairs(query_key: Tensor, count: int) -> Tensor:
    pairs = _top(_pairs(query_key), count // 2)
    return torch.stack([2 * pairs, 2 * pairs + 1], dim=-1).flatten(-2)


def everything(segmenter: Segmenter) -> tuple[list[Tensor], list[Bottleneck]]:
    """The choice that keeps all channels."""
    embedding = []
    for members in embedding_members(segmenter):
        name, dim = members[0]
        embedding.append(torch.arange(segmenter.get_parameter(name).shape[dim]))
    bottlenecks = []
    for block in _blocks(segmenter):
        heads, mlp = block.num_heads, block.expand.out_features
        channels = torch.arange(block.output.in_features // heads).repeat(heads, 1)
        bottlenecks.append(Bottleneck(channels, channels, torch.arange(mlp)))
    return embedding, bottlenecks


@torch.no_grad()
def prune(
    segmenter: Segmenter, embedding: Sequence[Tensor], bottlenecks: Sequence[Bottleneck]
) -> Segmenter:
    """A new segmenter with the given channels only; `everything` gives what keeps them all.

    embedding: kept channels of each stage. `save_segmenter` and `load_segmenter` take the result
    as any other.
    """
    state = {name: x.detach() for name, x in segmenter.state_dict().items()}
    for index, (block, kept) in enumerate(zip(_blocks(segmenter), bottlenecks, strict=True)):
        _prune_bottleneck(state, f"encoder.blocks.{index}.", block, kept)
    for members, channels in zip(embedding_members(segmenter), embedding, strict=True):
        for name, dim in members:
            state[name] = state[name].index_select(dim, channels.to(state[name].device))
    encoder, width = segmenter.config.encoder, len(embedding[0])
    if isinstance(encoder, HieraConfig):
        narrow: EncoderConfig = replace(encoder, embed_dim=width)
    else:
        narrow = replace(encoder, dim=width)
    with torch.device("meta"):
        pruned = fit_widths(Segmenter(replace(segmenter.config, encoder=narrow)), state)
    copies = {name: x.clone().contiguous() for name, x in state.items()}
    pruned.load_state_dict(copies, assign=True)
    return pruned.train(segmenter.training)


def _prune_bottleneck(
    state: dict[str, Tensor],
    prefix: str,
    block: WindowedBlock | TransformerBlock,
    kept: Bottleneck,
) -> None:
    device = state[f"{prefix}qkv.weight"].device
    query_key, value, mlp = (x.to(device) for x in (kept.query_key, kept.value, kept.mlp))
    heads, dim = block.num_heads, block.output.in_features // block.num_heads
    offsets = dim * torch.arange(heads, device=device)[:, None]
    rows = [
        part * heads * dim + (offsets + x).flatten()
        for part, x in enumerate((query_key, query_key, value))
    ]
    # Attention divides by the root of its heads' width: what pruning changes there, queries undo.
    scale = torch.ones(3, len(rows[0]), device=device)
    scale[0] = math.sqrt(query_key.shape[1] / dim)
    for kind in ("weight", "bias"):
        taken = state[f"{prefix}qkv.{kind}"][torch.cat(rows)]
        state[f"{prefix}qkv.{kind}"] = taken * scale.flatten().view(-1, *[1] * (taken.ndim - 1))
        state[f"{prefix}expand.{kind}"] = state[f"{prefix}expand.{kind}"][mlp]
    state[f"{prefix}output.weight"] = state[f"{prefix}output.weight"][:, rows[2] - 2 * heads * dim]
    state[f"{prefix}contract.weight"] = state[f"{prefix}contract.weight"][:, mlp]
    if isinstance(block, TransformerBlock):
        frequencies = block.frequencies().to(device)
        pairs = (query_key[:, ::2] // 2)[:, None].expand(-1, 2, -1)
        state[f"{prefix}rotary_frequencies"] = frequencies.gather(2, pairs)


def block_widths(segmenter: Segmenter) -> list[int]:
    """Channels of the residual stream that each block puts out."""
    return [block.output.out_features for block in _blocks(segmenter)]


def is_rotary(block: nn.Module) -> bool:
    """Whether a block's queries and keys are rotated in pairs."""
    return isinstance(block, TransformerBlock)
