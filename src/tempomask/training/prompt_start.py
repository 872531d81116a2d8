"""What the training of clicks and boxes starts from: prompt maps, and attention by position."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from tempomask.models.segmenter import Segmenter

# What is added to the seed of the prompt maps.
ATTENTION_SEED = 2


def with_prompt_maps(segmenter: Segmenter, attention_gain: float, seed: int) -> Segmenter:
    """The segmenter, if it has prompt maps; else one that has, on its weights.

    The new maps are drawn from the seed, and the decoder's attention between tokens and image,
    which found no prompts so far, starts anew as `tie_attention` says; a gain of 0 leaves it.
    """
    if segmenter.config.prompt_maps:
        return segmenter
    torch.manual_seed(seed)
    grown = Segmenter(replace(segmenter.config, prompt_maps=True))
    grown.load_state_dict(segmenter.state_dict(), strict=False)
    if attention_gain > 0:
        tie_attention(grown, attention_gain, seed + ATTENTION_SEED)
    return grown


def tie_attention(segmenter: Segmenter, gain: float, seed: int) -> None:
    """Start all attention between tokens and image as a match of positions.

    Query and key are one orthogonal projection, so that the token of a point, which carries the
    encoding of its position, scores highest where the image carries the same. gain: larger is
    sharper.
    """
    generator = torch.Generator().manual_seed(seed)
    transformer = segmenter.mask_decoder.transformer
    attentions = [
        *(block.token_to_image for block in transformer.blocks),
        *(block.image_to_token for block in transformer.blocks),
        transformer.final_attention,
    ]
    for attention in attentions:
        nn.init.orthogonal_(attention.query.weight, gain=gain, generator=generator)
        attention.key.weight.data.copy_(attention.query.weight.data)
        nn.init.zeros_(attention.query.bias)
        nn.init.zeros_(attention.key.bias)
