"""Widths of a pruned encoder: read from its weights, since no configuration names them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tempomask.models.hybrid import TransformerBlock
from tempomask.models.segmenter import Segmenter
from tempomask.models.windowed_block import WindowedBlock


def fit_widths(segmenter: Segmenter, state: Mapping[str, Tensor]) -> Segmenter:
    """The segmenter, its encoder's blocks as wide as the weights that they will load.

    Args:
        segmenter: On the meta device, of the configuration that the weights belong to.
        state: Weights by our names. A block that lacks any keeps its widths, and weights that do
            not fit together stay so: whoever loads them finds that out.
    """
    for index, block in enumerate(segmenter.encoder.blocks):
        prefix = f"encoder.blocks.{index}."
        qkv, expand = state.get(f"{prefix}qkv.weight"), state.get(f"{prefix}expand.weight")
        if not isinstance(block, (WindowedBlock, TransformerBlock)) or qkv is None:
            continue
        with torch.device("meta"):
            attention = len(qkv) // 3
            if attention != block.output.in_features and attention % block.num_heads == 0:
                block.qkv = nn.Linear(block.qkv.in_features, 3 * attention)
                block.output = nn.Linear(attention, block.output.out_features)
            if expand is not None and len(expand) != block.expand.out_features:
                block.expand = nn.Linear(block.expand.in_features, len(expand))
                block.contract = nn.Linear(len(expand), block.contract.out_features)
        frequencies = state.get(f"{prefix}rotary_frequencies")
        if isinstance(block, TransformerBlock) and frequencies is not None:
            block.rotary_frequencies = torch.empty_like(frequencies, device="meta")
    return segmenter
