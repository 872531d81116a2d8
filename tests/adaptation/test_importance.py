"""Which blocks matter: both importances against brute force, ranks, and what is selected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tempomask.adaptation.importance import Importance, View, local_changes, measure_importance
from tempomask.errors import InputError
from tempomask.models.config import HieraConfig
from tempomask.models.dinov3 import DINOv3, DINOv3Config
from tempomask.models.encoder import always_on_blocks
from tempomask.models.hiera import Hiera
from tempomask.models.segmenter import Segmenter


def test_the_ranking_by_brute_force(
    segmenter: Segmenter, make_measure: Callable[[Segmenter], Any]
) -> None:
    """Everything again without plans or policies: blocks are cut out of the network itself."""
    measure = make_measure(segmenter)
    importance = measure_importance(segmenter, measure)
    blocks = list(segmenter.encoder.blocks)
    count, free = len(blocks), range(1, len(blocks) - 1)

    whole, drops = measure.score(segmenter), [0.0] * count
    for index in free:
        segmenter.encoder.blocks = torch.nn.ModuleList(b for b in blocks if b is not blocks[index])
        segmenter.encoder.feature_blocks = (count - 2,)
        drops[index] = whole - measure.score(segmenter)
    segmenter.encoder.blocks = torch.nn.ModuleList(blocks)
    segmenter.encoder.feature_blocks = (count - 1,)
    assert importance.global_drops == pytest.approx(drops, abs=1e-6)

    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def remember(index: int) -> Callable[..., None]:
        def hook(_: object, given: tuple[torch.Tensor], result: torch.Tensor) -> None:
            seen[index] = (given[0].flatten(0, 2), result.flatten(0, 2))

        return hook

    hooks = [block.register_forward_hook(remember(i)) for i, block in enumerate(blocks)]
    with torch.no_grad():
        segmenter.encode(measure.images(16))
    for hook in hooks:
        hook.remove()
    changes = [0.0] * count
    for index in free:
        pairs = zip(*seen[index], strict=True)
        cosines = [(x @ y / (x.norm() * y.norm())).item() for x, y in pairs]
        changes[index] = 1 - sum(cosines) / len(cosines)
    assert importance.local_changes == pytest.approx(changes, abs=1e-5)

    def rank(values: list[float], index: int) -> int:
        return 1 + sum(values[other] > values[index] for other in free)

    score = {i: -(rank(drops, i) + rank(changes, i)) for i in free}
    best = sorted(free, key=lambda i: (-score[i], i))[:2]
    assert importance.select(4) == tuple(sorted([0, count - 1, *best]))


def test_progress_is_told(segmenter: Segmenter, make_measure: Callable[[Segmenter], Any]) -> None:
    measure = make_measure(segmenter)
    told: list[tuple[int, int]] = []
    measure_importance(segmenter, measure, lambda *done: told.append(done))
    assert measure.scored == 5
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_blocks_that_change_the_shape_are_not_measured() -> None:
    torch.manual_seed(0)
    encoder = Hiera(HieraConfig(embed_dim=8, stages=(1, 2, 3, 2), global_attention_blocks=()))
    always_on = always_on_blocks(encoder)
    changes = local_changes(encoder, torch.randn(2, 3, 64, 64), always_on)
    assert always_on == (0, 1, 3, 6, 7)
    assert all((value == 0) == (i in always_on) for i, value in enumerate(changes))


TABLE = Importance(
    global_drops=(0, 5, 1, 4, 2, 3, 0), local_changes=(0, 1, 5, 4, 3, 2, 0), always_on=(0, 6)
)


@pytest.mark.parametrize(
    ("view", "count", "chosen"),
    [
        ("global", 4, (0, 1, 3, 6)),
        ("local", 4, (0, 2, 3, 6)),
        # Sums of ranks: block 1 has 1 + 5, 2 has 5 + 1, 3 has 2 + 2, 4 has 4 + 3, 5 has 3 + 4.
        ("both", 3, (0, 3, 6)),
        ("both", 4, (0, 1, 3, 6)),
        ("both", 5, (0, 1, 2, 3, 6)),
        ("both", 7, (0, 1, 2, 3, 4, 5, 6)),
        ("both", 2, (0, 6)),
    ],
)
def test_ranks_are_added(view: View, count: int, chosen: tuple[int, ...]) -> None:
    assert TABLE.select(count, view) == chosen


@pytest.mark.parametrize("count", [-1, 0, 1, 8])
def test_impossible_counts_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=f" {count} blocks: .*2 .* to 7"):
        TABLE.select(count)


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1)), min_size=3, max_size=48), st.data())
def test_selection_grows_and_holds_what_always_runs(
    values: list[tuple[float, float]], data: st.DataObject
) -> None:
    drops, changes = (tuple(column) for column in zip(*values, strict=True))
    importance = Importance(drops, changes, (0, len(values) - 1))
    count = data.draw(st.integers(2, len(values) - 1))
    fewer, more = importance.select(count), importance.select(count + 1)
    assert len(fewer) == count and set(fewer) < set(more)
    assert {0, len(values) - 1} <= set(fewer)


def test_only_patches_count_where_a_map_holds_other_tokens() -> None:
    """DINOv3's prefix lies in the map, padded with zeros, whose cosine would be none."""
    pytest.importorskip("transformers")
    encoder = DINOv3(DINOv3Config("tiny", 16, 2, 3, 32)).eval()
    with torch.no_grad():
        for layer in encoder.linear_layers(1).values():
            layer.weight.zero_()
            if layer.bias is not None:
                layer.bias.zero_()
    changes = local_changes(encoder, torch.randn(2, 3, 48, 64), always_on_blocks(encoder))
    assert changes == pytest.approx([0, 0, 0], abs=1e-6)
