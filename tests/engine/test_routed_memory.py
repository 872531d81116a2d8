"""Memory attention of some of the tokens: plain and fast, one object and several."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tempomask.engine import accelerate
from tempomask.models.memory_attention import TokenChoice
from tempomask.models.segmenter import MemoryInputs, Segmenter

NAMES = [
    "sam2",
    "efficienttam",
    "efficienttam-eq5",
    "efficienttam-eq6",
    "efficienttam-eq5-1",
    "sam2-no-pointers",
    "edgetam",
    "nano",
]
OBJECTS, SIDE = 3, 4


def memory(segmenter: Segmenter, chosen: TokenChoice | None) -> MemoryInputs:
    config, generator = segmenter.config, torch.Generator().manual_seed(2)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    images = drawn(1, 2, config.hidden_dim, SIDE, SIDE)
    return MemoryInputs(
        drawn(OBJECTS, 2, *config.memory_shape),
        images if config.memory_attention.image_keys else None,
        torch.tensor([6, 0]),
        drawn(OBJECTS, 2, config.hidden_dim),
        torch.tensor([0.1, 0.2]),
        chosen=chosen,
    )


def choice(rows: int) -> TokenChoice:
    """rows tokens of each object, others for each; every other token takes one of theirs."""
    generator = torch.Generator().manual_seed(3)
    index = torch.stack([torch.randperm(16, generator=generator)[:rows] for _ in range(OBJECTS)])
    source = torch.randint(rows, (OBJECTS, 16), generator=generator)
    return TokenChoice(index, source.scatter(1, index, torch.arange(rows).expand(OBJECTS, -1)))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_plain_and_fast_agree(tiny: Callable[[str], Segmenter], name: str) -> None:
    plain, fast = tiny(name), accelerate(tiny(name))
    features = torch.randn(1, plain.config.hidden_dim, SIDE, SIDE)
    every = TokenChoice(*(torch.arange(16).expand(OBJECTS, -1),) * 2)
    whole = plain.attend(features, memory(plain, None))
    torch.testing.assert_close(plain.attend(features, memory(plain, every)), whole)
    some = plain.attend(features, memory(plain, choice(6)))
    assert (some - whole).abs().max() > 1e-3
    torch.testing.assert_close(
        fast.attend(features, memory(fast, choice(6))), some, rtol=1e-4, atol=1e-4
    )


@torch.inference_mode()
def test_a_token_takes_the_result_it_is_told_to(tiny: Callable[[str], Segmenter]) -> None:
    """Of one layer whose other parts add nothing, tokens that share a result differ as before."""
    network = tiny("sam2")
    layer = network.memory_attention.layers[0]
    attention = layer.cross_attention
    chosen, x = choice(6), torch.randn(OBJECTS, 16, 32)
    tokens = network.memory_tokens(memory(network, chosen))
    got = attention.attend_memory(x, tokens, (SIDE, SIDE), layer.config)
    full = attention.attend_memory(x, tokens._replace(chosen=None), (SIDE, SIDE), layer.config)
    for row in range(OBJECTS):
        expected = full[row, chosen.tokens[row]][chosen.source[row]]
        torch.testing.assert_close(got[row], expected, rtol=1e-4, atol=1e-4)
