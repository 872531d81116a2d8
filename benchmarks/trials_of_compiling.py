"""Trials of `torch.compile` on a CPU in place of the engine. See `engine_trials.py`.

It needs a C++ compiler, and a minute for the encoder. Weights are frozen, as only then oneDNN's
packed products are used; "autotuned" lets its own C++ products compete with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from trials import Trial
from trials_of_encoder import QUICK, Shapes

from tempomask.engine.trunk import FastTrunk
from tempomask.models.config import HieraConfig
from tempomask.models.hiera import Hiera

TINY = HieraConfig()
AUTOTUNED = {"max_autotune": True, "max_autotune_gemm_backends": "CPP,ATEN"}


def compiled_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """Of a whole encoder, and of attention to memories."""
    yield encoder_trial(shapes, dtype)
    yield memory_trial(shapes, dtype)


def encoder_trial(shapes: Shapes, dtype: torch.dtype) -> Trial:
    """SAM 2.1-T's encoder at 1024 pixels."""
    side = 16 * shapes.side
    plain = Hiera(replace(TINY, stages=(1, 1, 1, 1)) if shapes is QUICK else TINY).eval()
    image = torch.randn(1, 3, side, side)
    fast = FastTrunk(deepcopy(plain), side, dtype)

    def with_autocast(encoder: Callable[[Tensor], Any]) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                return encoder(image)[0][-1]

        return call

    return Trial(
        "compiled encoder",
        f"SAM 2.1-T's encoder, an image of {side} pixels",
        {
            "the engine": with_autocast(fast),
            "the plain network": with_autocast(plain),
            "torch.compile": with_autocast(_compiled(deepcopy(plain), freezing=True)),
            "torch.compile, autotuned": with_autocast(
                _compiled(deepcopy(plain), freezing=True, **AUTOTUNED)
            ),
        },
    )


def memory_trial(shapes: Shapes, dtype: torch.dtype) -> Trial:
    """Attention to seven memories; flex_attention takes values of 64 channels as they are."""
    # Takes seconds, which the other parts need not wait for.
    from torch.nn.attention.flex_attention import flex_attention

    tokens = shapes.side**2
    query = torch.randn(1, 1, tokens, 256, dtype=dtype)
    key, value = torch.randn(2, 1, 1, 7 * tokens, 256, dtype=dtype)
    narrow = value[..., :64].contiguous()
    flex = _compiled(flex_attention)
    return Trial(
        "compiled attention to memories",
        f"{tokens} tokens, {7 * tokens} keys of 256 channels; the first 64 channels of the output",
        {
            "fused": lambda: F.scaled_dot_product_attention(query, key, value)[..., :64],
            "flex_attention": lambda: flex(query, key, value)[..., :64],
            "flex_attention, values of 64 channels": lambda: flex(query, key, narrow),
        },
    )


def _compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False, options=options)
