"""Trials of memory attention and of whole parts of SAM 2.1-T. See `engine_trials.py`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from frame_profile import memory_of
from torch import Tensor, nn
from trials import Trial, Way
from trials_of_encoder import WHOLE, Shapes

from tempomask.engine import accelerate
from tempomask.engine.malloc_tuning import keep_freed_memory
from tempomask.engine.memory_attention import FastMemoryAttentionLayer, _shared
from tempomask.engine.packed import can_pack, fast_linear, fast_token_linear, stacked, turned
from tempomask.engine.rotated_keys import RotatedKeys
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter
from tempomask.ops.attention import attention
from tempomask.ops.rope import axial_table, rotate

# Parts that are timed in processes of their own, and how often.
TINY, SMALL = "SAM 2.1-T, encode and attend", "EfficientTAM-Ti at 512, attend"
CALLS = {TINY: 8, SMALL: 40}


def memory_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """All of them."""
    parts = [cross_trials, rotation_trials, object_trials, frame_trials, small_trials]
    if can_pack(nn.Linear(2, 2), dtype):
        parts += [token_trials, epilogue_trials]
    for trials in parts:
        yield from trials(shapes, dtype)


def cross_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """Cross-attention to seven memories of 64 channels: widened before, or after the sum."""
    tokens = shapes.side**2
    query = torch.randn(1, tokens, 256, dtype=dtype)
    key, memory = (torch.randn(1, 7 * tokens + 64, c, dtype=dtype) for c in (256, 64))
    value, output = nn.Linear(64, 256), nn.Linear(256, 256)
    together = nn.Linear(64, 256)
    with torch.no_grad():
        together.weight.copy_(output.weight @ value.weight)
        together.bias.copy_(output.weight @ value.bias + output.bias)
    widen, narrow, out = (fast_linear(x.to(dtype), dtype) for x in (value, together, output))
    yield Trial(
        "values of memory cross-attention",
        f"{tokens} queries, {key.shape[1]} keys of 256 channels",
        {
            "widened before": lambda: out(attention(query, key, widen(memory))),
            "64 channels, widened after": lambda: narrow(attention(query, key, memory)),
        },
    )


def rotation_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """Rotated keys of seven memories: by turned weights, with a turned twin, or pairs apart."""
    side, key = shapes.side, nn.Linear(64, 256)
    weight, bias = key.weight.data, key.bias.data
    pairs = axial_table(side, side, 256, 10000.0, torch.device("cpu"))
    cosine, sine = (x.repeat_interleave(2, dim=1) for x in pairs)
    rotated = RotatedKeys(key, (cosine, sine), side, dtype)
    twin = fast_linear(stacked((weight, bias), (turned(weight), turned(bias))), dtype)
    single = fast_linear(key, dtype)
    if single is key:
        key.to(dtype)
        twin = twin.to(dtype)
    cosine, sine = cosine.to(dtype), sine.to(dtype)
    memory = torch.randn(1, 7 * side * side, 64, dtype=dtype)
    out = torch.empty(1, 7 * side * side, 256, dtype=dtype)

    def in_one() -> Tensor:
        rotated(memory, out)
        return out

    def with_twin() -> Tensor:
        parts = memory.split(side * side, dim=1), out.split(side * side, dim=1)
        for frame, target in zip(*parts, strict=True):
            straight, other = twin(frame).chunk(2, dim=-1)
            torch.mul(straight, cosine, out=target).addcmul_(other, sine)
        return out

    yield Trial(
        "rotated keys of seven memories",
        f"{side * side} tokens each, 64 channels to 256",
        {
            "weights turned by column and row": in_one,
            "a turned twin from the same product": with_twin,
            "pairs": lambda: rotate(single(memory), pairs),
        },
    )


def object_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """Several objects, pooled memories: what is shared, and whether they attend as one batch."""
    segmenter = fast_tiny(shapes, dtype, pooled=True)
    features = torch.randn(1, 256, shapes.side, shapes.side)
    memory = memory_of(segmenter)
    memory = memory._replace(
        spatial=memory.spatial.repeat(shapes.objects, 1, 1, 1, 1),
        pointers=memory.pointers.repeat(shapes.objects, 1, 1),
    )
    repeated = features.expand(shapes.objects, -1, -1, -1)

    def together() -> Tensor:
        with patch("tempomask.engine.memory_attention.TOKENS", WHOLE):
            return segmenter.attend(features, memory)

    yield Trial(
        "objects in memory attention",
        f"SAM 2.1-T, {shapes.objects} objects, pooled",
        {
            "one after the other": _mixed(lambda: segmenter.attend(features, memory), dtype),
            "as one batch": _mixed(together, dtype),
            "first self-attention for each": _mixed(
                lambda: segmenter.attend(repeated, memory), dtype
            ),
        },
    )


def frame_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """One object: keys that a memory bank could keep, positions that the decoder keeps."""
    segmenter = fast_tiny(shapes, dtype, pooled=False)
    features = torch.randn(1, 256, shapes.side, shapes.side)
    memory = memory_of(segmenter)
    older = memory._replace(spatial=memory.spatial[:, 1:], temporal_index=memory.temporal_index[1:])
    grid, network = (shapes.side, shapes.side), segmenter.memory_attention
    layers = [x for x in network.layers if isinstance(x, FastMemoryAttentionLayer)]

    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        tokens = segmenter._memory_tokens(older)
        side = segmenter.config.image_size
        encoded = segmenter.encode(torch.randn(1, 3, side, side))

    def keys_of_older() -> Tensor:
        shared = _shared(tokens, "none", grid, network.cosine.dtype)
        return [layer._keys(shared, grid) for layer in layers][-1]

    yield Trial(
        "memory attention",
        "SAM 2.1-T, one object, seven memories",
        {"whole": _mixed(lambda: segmenter.attend(features, memory), dtype)},
        {"the keys of six memories in all layers": _mixed(keys_of_older, dtype)},
    )

    def decode() -> Tensor:
        return segmenter.decode(encoded.features, encoded.high_resolution).logits

    def decode_anew() -> Tensor:
        segmenter.prompt_encoder._grid = None
        return decode()

    yield Trial(
        "mask decoder",
        "SAM 2.1-T, one object",
        {"positions kept": _mixed(decode, dtype), "positions anew": _mixed(decode_anew, dtype)},
    )


def small_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """EfficientTAM-Ti at 512, whose layers are short: what all layers share, packed layers."""
    segmenter = fast_small(shapes, dtype)
    grid = (shapes.side // 2, shapes.side // 2)
    features, memory = torch.randn(1, 256, *grid), memory_of(segmenter)
    tokens, network = segmenter._memory_tokens(memory), segmenter.memory_attention
    layers = [x for x in network.layers if isinstance(x, FastMemoryAttentionLayer)]

    def attend() -> Tensor:
        return segmenter.attend(features, memory)

    def with_more_preparing() -> Tensor:
        for _ in layers[1:]:
            _shared(tokens, "none", grid, network.cosine.dtype)
        return attend()

    yield Trial(
        "memory attention, small",
        "EfficientTAM-Ti at 512, seven memories",
        {
            "memories prepared once": _mixed(attend, dtype),
            "memories prepared for each layer": _mixed(with_more_preparing, dtype),
        },
    )
    yield packing_trial(segmenter, shapes, dtype)


def packing_trial(segmenter: Segmenter, shapes: Shapes, dtype: torch.dtype) -> Trial:
    """The mask decoder of EfficientTAM-Ti at 512, whose layers are packed or not."""
    side = segmenter.config.image_size
    features = torch.randn(1, 256, side // 16, side // 16)

    def decode(network: Segmenter) -> Way:
        # Not the chosen logits, which are one constant where no object is seen.
        return _mixed(lambda: network.propose(features, ()).logits, dtype)

    ways = {"packed, a few tokens in float32": decode(segmenter)}
    others = {"packed for any number of tokens": fast_linear, "plain": lambda layer, dtype: layer}
    for name, layers in others.items():
        with patch("tempomask.engine.accelerate.fast_token_linear", layers):
            ways[name] = decode(fast_small(shapes, dtype))
    return Trial("layers of the mask decoder", "EfficientTAM-Ti at 512", ways)


def token_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """One layer of the mask decoder on the few tokens of a prompt, as the tokens come."""
    layer, tokens = nn.Linear(256, 256), torch.randn(1, 8, 256, dtype=dtype)
    few, packed = fast_token_linear(layer, dtype), fast_linear(layer, dtype)

    def repeated(product: nn.Module) -> Way:
        def calls() -> Tensor:
            for _ in range(100):
                out = product(tokens)
            return out

        return calls

    yield Trial(
        "a layer on the tokens of a prompt",
        "eight tokens of 256 channels, a hundred times",
        {"float32": repeated(few), "packed": repeated(packed)},
    )


def epilogue_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """Cross-attention without a softmax: for small z exp(z) is sigmoid(z), which a product can
    apply while it is in registers; sums and 64 channels of values follow in a second product."""
    tokens = shapes.side**2 // 4
    query = torch.randn(1, tokens, 256, dtype=dtype) / 2
    key, memory = (torch.randn(7 * tokens + 64, c, dtype=dtype) / 2 for c in (256, 64))
    value = fast_linear(nn.Linear(64, 256, bias=False).to(dtype), dtype)
    shift = key.new_full((len(key),), -8.0)
    product, pack = torch.ops.mkldnn._linear_pointwise, torch.ops.mkldnn._reorder_linear_weight

    def by_sigmoid() -> Tensor:
        counted = torch.cat([memory, memory.new_ones(len(memory), 1)], dim=1).T.contiguous()
        weights = product(query * 256**-0.5, pack(key), shift, "sigmoid", [], "")
        sums = product(weights, pack(counted), None, "none", [], "")
        return value(sums[..., :64] / sums[..., 64:])

    yield Trial(
        "softmax of memory cross-attention",
        f"{tokens} queries, {len(key)} keys of 256 channels",
        {
            "fused": lambda: attention(query, key[None], value(memory[None])),
            "sigmoid inside the product": by_sigmoid,
        },
    )


def _mixed(call: Callable[[], Tensor], dtype: torch.dtype) -> Callable[[], Tensor]:
    """The call under autocast, as a session makes it."""

    def mixed() -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return call()

    return mixed


def fast_tiny(shapes: Shapes, dtype: torch.dtype, pooled: bool) -> Segmenter:
    """SAM 2.1-T with random weights, accelerated."""
    config = segmenter_config("sam2.1-tiny").with_pooling("eq5" if pooled else "none")
    torch.manual_seed(0)
    return accelerate(Segmenter(config.with_image_size(16 * shapes.side)).eval(), dtype)


def fast_small(shapes: Shapes, dtype: torch.dtype) -> Segmenter:
    """EfficientTAM-Ti at 512 pixels with random weights, accelerated."""
    torch.manual_seed(0)
    config = segmenter_config("efficienttam-ti-512").with_image_size(8 * shapes.side)
    return accelerate(Segmenter(config).eval(), dtype)


def alone(shapes: Shapes, dtype: torch.dtype, part: str, kept: bool) -> float:
    """Seconds of a part in this process, by the median: without kept memory glibc's mood decides,
    and the best of many calls would be a lucky one."""
    keep = keep_freed_memory if kept else _do_nothing
    with patch("tempomask.engine.accelerate.keep_freed_memory", keep):
        tiny = part == TINY
        segmenter = fast_tiny(shapes, dtype, pooled=False) if tiny else fast_small(shapes, dtype)
    size, memory, spent = segmenter.config.image_size, memory_of(segmenter), []
    features, image = torch.randn(1, 256, size // 16, size // 16), torch.randn(1, 3, size, size)
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        for _ in range(CALLS[part]):
            started = time.perf_counter()
            if tiny:
                features = segmenter.encode(image).features
            segmenter.attend(features, memory)
            spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def _do_nothing() -> None:
    pass


def kept_memory(script: str, part: str, quick: bool) -> dict[str, Any]:
    """A part in fresh processes, with kept memory and as the C library has it."""
    spent: dict[str, list[float]] = {"kept": [], "given back": []}
    for _ in range(3):
        for name, times in spent.items():
            command = [sys.executable, script, "--alone", part, "--memory", name.split()[0]]
            done = subprocess.run(
                command + ["--quick"] * quick, capture_output=True, text=True, check=True
            )
            times.append(float(done.stdout.split()[-1]))
    used, other = (statistics.median(times) for times in spent.values())
    return {
        "where": f"{part}, in processes of their own",
        "used": "kept",
        "milliseconds": {"kept": round(1000 * used, 3), "given back": round(1000 * other, 3)},
        "ratio": {"given back": round(other / used, 2)},
        "difference": {"given back": 0.0},
    }
