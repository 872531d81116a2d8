"""Low-rank adapters (arXiv 2106.09685) on the blocks that matter, by `peft`; merged for inference.

They go to the linear layers that a block declares (`Encoder.linear_layers`). In most encoders
W_Q, W_K and W_V are one fused layer, so that one adapter serves the three.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from tempomask.errors import InputError
from tempomask.models.encoder import Encoder

PREFIX = "lora."
# A rank is chosen so that the adapters hold at most this share of the network's parameters.
SHARE = 0.04


def adapted_layers(encoder: Encoder, blocks: Iterable[int]) -> dict[str, nn.Linear]:
    """The layers of these blocks that adapters go to, by name."""
    return {n: layer for i in sorted(blocks) for n, layer in encoder.linear_layers(i).items()}


def lora_parameters(encoder: Encoder, blocks: Collection[int], rank: int) -> int:
    """How many parameters adapters of this rank have on these blocks."""
    layers = adapted_layers(encoder, blocks).values()
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)


def suitable_rank(encoder: Encoder, blocks: Collection[int], network_parameters: int) -> int:
    """The largest power of two whose adapters hold at most `SHARE` of the network; at least 1.

    32 for the 24 blocks of SAM 2's large encoder, as the 7.6 M parameters of the paper imply.
    Never above `largest_rank`. InputError without blocks.
    """
    if not blocks:
        raise InputError("adapters need a block to stand on, got none; give a larger budget")
    rank, most, allowed = 1, largest_rank(encoder), SHARE * network_parameters
    while 2 * rank <= most and lora_parameters(encoder, blocks, 2 * rank) <= allowed:
        rank *= 2
    return rank


def largest_rank(encoder: Encoder) -> int:
    """The rank of the widest weight that adapters are added to."""
    layers = adapted_layers(encoder, range(encoder.num_blocks)).values()
    return max(min(layer.in_features, layer.out_features) for layer in layers)


def check_rank(encoder: Encoder, rank: int) -> None:
    """InputError for a rank below 1, or above that of every weight it could be added to."""
    most = largest_rank(encoder)
    if not 1 <= rank <= most:
        raise InputError(
            f"the rank of adapters must be from 1 to {most}, the width of the encoder, got {rank}"
        )


def add_lora(
    encoder: Encoder, blocks: Collection[int], rank: int, scale: int = 1, seed: int = 0
) -> list[nn.Parameter]:
    """Wrap the layers of the blocks in adapters that start as nothing; returns their parameters.

    The encoder is changed in place, and everything in it but the adapters is frozen.
    scale: alpha / rank. seed: of the adapters' initial weights.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise InputError("adapters need peft: pip install 'tempomask[adapt]'") from error
    check_rank(encoder, rank)
    names = list(adapted_layers(encoder, blocks))
    config = LoraConfig(r=rank, lora_alpha=scale * rank, target_modules=names, lora_dropout=0.0)
    encoder.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, encoder)
    return [p for p in encoder.parameters() if p.requires_grad]


def _adapted(encoder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers that peft has wrapped, by the name they had before."""
    for name, module in encoder.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            yield name, module


def export_lora(encoder: Encoder) -> dict[str, Tensor]:
    """The adapters as `lora.blocks.3.qkv.down` (rank, in) and `.up` (out, rank), scale included."""
    tensors: dict[str, Tensor] = {}
    for name, module in _adapted(encoder):
        for key in module.lora_A:  # type: ignore[union-attr]
            down, up = module.lora_A[key].weight, module.lora_B[key].weight  # type: ignore[index]
            scale = module.scaling[key]  # type: ignore[index]
            tensors[f"{PREFIX}{name}.down"] = down.detach().cpu().clone()
            tensors[f"{PREFIX}{name}.up"] = (scale * up.detach()).cpu().clone()
    return tensors


@torch.no_grad()
def merge_lora(encoder: Encoder, tensors: Mapping[str, Tensor]) -> None:
    """Add exported adapters to the weights of a plain encoder: W + up down. Needs no peft.

    Entries that are not LoRA's are left alone. InputError for a layer that does not fit; nothing
    is merged then.
    """
    pairs = {name.removesuffix(".down") for name in tensors if name.startswith(PREFIX)}
    pairs = {name.removesuffix(".up") for name in pairs}
    layers = dict(encoder.named_modules())
    merged: list[tuple[nn.Linear, Tensor]] = []
    for pair in sorted(pairs):
        layer = layers.get(pair.removeprefix(PREFIX))
        down, up = tensors.get(f"{pair}.down"), tensors.get(f"{pair}.up")
        fits = (
            isinstance(layer, nn.Linear)
            and down is not None
            and up is not None
            and down.shape[1:] == (layer.in_features,)
            and up.shape == (layer.out_features, len(down))
        )
        if not fits or not isinstance(layer, nn.Linear) or down is None or up is None:
            raise InputError(
                f"the adapter's {pair.removeprefix(PREFIX)} does not fit this encoder; it was made"
                " for another model"
            )
        merged.append((layer, up.float() @ down.float()))
    for layer, change in merged:
        layer.weight += change.to(layer.weight)
