"""Compiled steps: no graph is made after the warm-up, and the masks are those of the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo as dynamo
from numpy.typing import NDArray

from tempomask.api import Model
from tempomask.engine import accelerate
from tempomask.engine.compiled import CompiledSegmenter
from tempomask.errors import InputError
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Segmenter
from tempomask.routing.budget import FixedBudget, TopK
from tempomask.routing.predictive import PredictiveRouter, RouterConfig
from tempomask.routing.recurrent import RecurrentPolicy
from tempomask.routing.static import StaticPlan
from tempomask.types import FrameResult

MakeTiny = Callable[..., Segmenter]
NAMES = ["sam2", "efficienttam-eq6", "nano"]
SIZE = 64, 64
# In bfloat16 a memory would round the smallest difference up.
EXACT: dict[str, Any] = {"memory_dtype": "float32"}
# Memories that are full after few frames.
FEW = {"max_pointers": 3, "memory_frames": 3}


@pytest.fixture(autouse=True)
def forget() -> None:
    dynamo.reset()
    dynamo.utils.counters.clear()


def frames(count: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8) for _ in range(count)]


def video(model: Model, count: int, policy: Policy | None = None) -> list[FrameResult]:
    session = model.session(policy=policy, **EXACT)
    session.prompt(object_id=1, box=(2, 2, 30, 30))
    session.prompt(object_id=2, points=[(40, 40)])
    return [session.step(frame) for frame in frames(count)]


def compiled(segmenter: Segmenter, backend: str = "eager") -> Model:
    return Model(CompiledSegmenter(accelerate(segmenter), backend))


def assert_same(got: list[FrameResult], expected: list[FrameResult]) -> None:
    for a, b in zip(got, expected, strict=True):
        scale = np.abs(b.low_res_logits).max()
        assert np.abs(a.low_res_logits - b.low_res_logits).max() <= 1e-4 * scale
        assert np.array_equal(a.blocks, b.blocks)
        # Not all of them constant, as those of absent objects are.
        assert b.low_res_logits.std(axis=(1, 2)).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_thirty_frames_need_no_other_graph(
    tiny: MakeTiny, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = compiled(tiny(name))
    model.warmup(SIZE, objects=2, compile=True, **EXACT)
    segmenter = model.segmenter
    assert isinstance(segmenter, CompiledSegmenter)
    graphs = dynamo.utils.counters["stats"]["unique_graphs"]
    # Encode, attend with and without empty places, decode and memorise; pooled: a lone memory.
    assert graphs == (6 if "eq" in name else 5)
    runs: list[str] = []

    def refuse(step: str) -> Callable[..., Any]:
        def uncompiled(*_: Any) -> Any:
            raise AssertionError(f"{step} ran uncompiled")

        return uncompiled

    for step, graph in segmenter._graphs.items():
        monkeypatch.setitem(segmenter._plain, step, refuse(step))

        def counted(*args: Any, step: str = step, graph: Any = graph) -> Any:
            runs.append(step)
            return graph(*args)

        monkeypatch.setitem(segmenter._graphs, step, counted)
    with dynamo.config.patch(error_on_recompile=True):
        got = video(model, 30)
    assert dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert {step: runs.count(step) for step in segmenter._plain} == {
        "encode": 30,
        "attend": 29,
        "decode": 29,
        "memorise": 29,
    }
    assert_same(got, video(Model(tiny(name)), 30))


def test_a_second_prompted_frame(tiny: MakeTiny) -> None:
    """Its slots are graphs of their own, made when they are asked for; other shapes get none."""
    model = compiled(tiny("efficienttam", **FEW))
    model.warmup(SIZE, compile=True, prompted_frames=2, **EXACT)
    segmenter = model.segmenter
    assert isinstance(segmenter, CompiledSegmenter)
    known = set(segmenter._known)
    assert sum(step == "attend" for step, _ in known) == 4  # type: ignore[misc]

    def tracked(model: Model) -> list[FrameResult]:
        session = model.session(**EXACT)
        for index in (0, 3):
            session.prompt(box=(2, 2, 30, 30), frame=index)
        return [session.step(frame) for frame in frames(6)]

    with segmenter.preparing():
        got = tracked(model)
    assert segmenter._known == known
    assert_same(got, tracked(Model(tiny("efficienttam", **FEW))))
    with dynamo.config.patch(error_on_recompile=True):
        got = video(model, 3)
    assert segmenter._known == known
    assert_same(got, video(Model(tiny("efficienttam", **FEW)), 3))


@pytest.mark.parametrize("routed", [False, True])
def test_policies(tiny: MakeTiny, routed: bool) -> None:
    """A static plan is part of the encoder's graph; a router's blocks are graphs of their own."""
    encoder = tiny("efficienttam", **FEW).encoder

    def policy() -> Policy:
        if not routed:
            return StaticPlan([0, 2], encoder)
        torch.manual_seed(0)
        router = PredictiveRouter(RouterConfig.for_encoder(encoder)).eval()
        return RecurrentPolicy(router, FixedBudget(0.7), TopK())

    model = compiled(tiny("efficienttam", **FEW))
    model.warmup(SIZE, objects=2, compile=True, policy=policy(), **EXACT)
    with dynamo.config.patch(error_on_recompile=True):
        got = video(model, 4, policy())
    assert int(got[-1].blocks.sum()) == 2
    assert_same(got, video(Model(tiny("efficienttam", **FEW)), 4, policy()))


def test_graphs_survive_ahead_of_time_autograd(tiny: MakeTiny) -> None:
    """The tracing that every real backend starts from."""
    model = compiled(tiny("efficienttam", **FEW), "aot_eager")
    model.warmup(SIZE, objects=2, compile=True, **EXACT)
    assert_same(video(model, 4), video(Model(tiny("efficienttam", **FEW)), 4))


def test_the_plain_engine_is_not_compiled(tiny: MakeTiny) -> None:
    with pytest.raises(InputError, match='engine="fast"'):
        Model(tiny("efficienttam", **FEW)).warmup(SIZE, compile=True)
