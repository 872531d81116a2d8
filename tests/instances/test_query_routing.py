"""TAR: equations 2 to 10, and that a skipped layer does not run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tempomask.errors import InputError
from tempomask.instances.query_routing import (
    AttentionSynchroniser,
    FixedLayers,
    QueryRouterConfig,
    TemporalQueryRouter,
    mix,
    straight_through,
)

DIM, QUERIES = 16, 5


class CountingLayer:
    """Adds one, and counts how often it ran."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, queries: Tensor) -> Tensor:
        self.runs += 1
        return queries + 1


def make_router(**values: object) -> TemporalQueryRouter:
    torch.manual_seed(0)
    config = QueryRouterConfig(dim=DIM, layers=4, hidden_dim=8, num_heads=2, **values)  # type: ignore[arg-type]
    return TemporalQueryRouter(config).eval()


def force(router: TemporalQueryRouter, *choices: int) -> None:
    """Make the routers of the layers after the warm-up choose 0 (skip) or 1 (run)."""
    for module, choice in zip(router.routers, choices, strict=True):
        with torch.no_grad():
            module.score.weight.zero_()
            module.score.bias.copy_(torch.tensor([1.0 - choice, float(choice)]))


def queries(seed: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, QUERIES, DIM, generator=torch.Generator().manual_seed(seed))


def test_equations_2_and_3() -> None:
    synchroniser = AttentionSynchroniser(DIM, 2)
    torch.nn.init.normal_(synchroniser.attention.input_bias)
    now, before = queries(1, 2), queries(2, 2)
    attention = synchroniser.attention
    reference = torch.nn.MultiheadAttention(DIM, 2, batch_first=True)
    reference.load_state_dict(
        {
            "in_proj_weight": attention.input_weight,
            "in_proj_bias": attention.input_bias,
            "out_proj.weight": attention.output.weight,
            "out_proj.bias": attention.output.bias,
        }
    )
    wanted = F.layer_norm(reference(before, now, now)[0] + before, (DIM,))
    torch.testing.assert_close(synchroniser(now, before), wanted)


def test_equations_4_and_5_sum_over_the_queries() -> None:
    router = make_router().routers[0]
    torch.nn.init.normal_(router.score.weight)
    now, before = queries(1), queries(2)
    wanted = torch.zeros(2)
    for q, p in zip(now[0], before[0], strict=True):
        hidden = (router.expand.weight @ torch.cat([q, p, q - p]) + router.expand.bias).relu()
        wanted += router.score.weight @ hidden + router.score.bias
    torch.testing.assert_close(router(now, before)[0], wanted)


@settings(deadline=None)
@given(st.lists(st.integers(-4000, 4000), min_size=2, max_size=2))
def test_equations_8_and_9(thousandths: list[int]) -> None:
    # Scores that differ less than a probability can show are no choice at all.
    scores = [value / 1000 for value in thousandths]
    x = torch.tensor([scores], requires_grad=True)
    choice = straight_through(x)
    hard = F.one_hot(torch.tensor([int(scores[1] > scores[0])]), 2).float()
    torch.testing.assert_close(choice.detach(), hard)
    (gradient,) = torch.autograd.grad(choice[0, 1], x)
    (wanted,) = torch.autograd.grad(x.softmax(-1)[0, 1], x)
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize(("choice", "wanted"), [((1.0, 0.0), 2.0), ((0.0, 1.0), 7.0)])
def test_equation_10(choice: tuple[float, float], wanted: float) -> None:
    before, after = torch.full((1, 1, 1), 2.0), torch.full((1, 1, 1), 7.0)
    mixed, share = mix(before, after, torch.tensor([choice]))
    assert mixed.item() == wanted
    assert share.item() == choice[1]


def test_training_sends_gradients_to_the_router_whatever_it_chooses() -> None:
    for choice in (0, 1):
        router = make_router().train()
        force(router, choice, choice, choice)
        mixed, share = router.route(1, queries(1), queries(2), CountingLayer())
        assert share.item() == pytest.approx(choice)
        (mixed * queries(9)).sum().backward()
        gradient = router.routers[0].score.bias.grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


def test_the_first_frame_and_the_warm_up_run_every_layer() -> None:
    router = make_router(warmup_layers=2)
    force(router, 0, 0)
    first, later = CountingLayer(), CountingLayer()
    for index in range(4):
        router.route(index, queries(1), None, first)
        router.route(index, queries(1), queries(2), later)
    assert first.runs == 4
    assert later.runs == 2


@pytest.mark.parametrize("synchroniser", ["attention", "bipartite", "none"])
@pytest.mark.parametrize("choices", [(0, 0, 0), (1, 0, 1), (1, 1, 1)])
def test_a_skipped_layer_does_not_run(synchroniser: str, choices: tuple[int, ...]) -> None:
    router = make_router(synchroniser=synchroniser)
    force(router, *choices)
    layer, x, ran = CountingLayer(), queries(1), []
    for index in range(4):
        x, share = router.route(index, x, queries(2), layer)
        ran.append(int(share.item()))
    assert ran == [1, *choices]
    assert layer.runs == 1 + sum(choices)


def test_skipping_passes_the_synchronised_queries_on() -> None:
    router = make_router()
    force(router, 0, 0, 0)
    now, before = queries(1), queries(2)
    skipped, _ = router.route(1, now, before, CountingLayer())
    torch.testing.assert_close(skipped, router.synchroniser(now, before))
    again, _ = router.route(2, skipped, before, CountingLayer())
    torch.testing.assert_close(again, skipped)


@pytest.mark.parametrize("synchroniser", ["attention", "bipartite"])
def test_a_synchroniser_alone_runs_every_layer(synchroniser: str) -> None:
    """Table 3, rows without a router: queries are aligned once, after the warm-up."""
    router = make_router(synchroniser=synchroniser, routers=False)
    now, before, layer = queries(1), queries(2), CountingLayer()
    x, ran = now, []
    for index in range(4):
        x, share = router.route(index, x, before, layer)
        ran.append(int(share.item()))
    assert ran == [1] * 4 and layer.runs == 4 and not len(router.routers)
    torch.testing.assert_close(x, router.synchroniser(now + 1, before) + 3)


def test_the_bipartite_synchroniser_restores_the_order() -> None:
    router = make_router(synchroniser="bipartite")
    before = queries(2, 2)
    order = torch.stack([torch.randperm(QUERIES) for _ in range(2)])
    shuffled = torch.stack([sample[index] for sample, index in zip(before, order, strict=True)])
    torch.testing.assert_close(router.synchroniser(shuffled * 1.1, before), before * 1.1)


def test_images_of_a_batch_decide_for_themselves() -> None:
    router = make_router(synchroniser="none")
    module = router.routers[0]
    with torch.no_grad():
        module.expand.weight.zero_()
        module.expand.bias.zero_()
        module.expand.weight[0, 0] = 1.0
        module.score.weight.zero_()
        module.score.weight[1, 0] = 1.0
        module.score.bias.copy_(torch.tensor([0.5, 0.0]))
    x = torch.zeros(2, QUERIES, DIM)
    x[1, :, 0] = 1.0
    after, ran = router.route(1, x, torch.zeros_like(x), CountingLayer())
    assert ran.tolist() == [0, 1]
    torch.testing.assert_close(after[0], x[0])
    torch.testing.assert_close(after[1], x[1] + 1)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_fixed_layers(count: int) -> None:
    policy, layer = FixedLayers(count, 4), CountingLayer()
    x, ran = queries(1), []
    for index in range(4):
        x, share = policy.route(index, x, None, layer)
        ran.append(int(share.item()))
    assert ran == [1] * count + [0] * (4 - count)
    assert layer.runs == count


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"warmup_layers": 4}, "warmup_layers must be from 0 to 3"),
        ({"warmup_layers": -1}, "got -1"),
        ({"synchroniser": "magic"}, "got 'magic'"),
    ],
)
def test_bad_configurations(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        QueryRouterConfig(layers=4, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 5])
def test_bad_fixed_layers(count: int) -> None:
    with pytest.raises(InputError, match="4 layers"):
        FixedLayers(count, 4)


def test_the_configuration_survives_json() -> None:
    config = QueryRouterConfig(dim=64, warmup_layers=3, synchroniser="bipartite", routers=False)
    assert QueryRouterConfig.from_json(config.to_json()) == config
    with pytest.raises(InputError, match="router"):
        QueryRouterConfig.from_json('{"depth": 3}')
