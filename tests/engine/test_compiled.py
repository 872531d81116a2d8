"""Compiled steps: no graph is made after the warm-up, and the masks are those of the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo as dynamo
from numpy.typing import NDArray

from tempomask.engine import accelerate
from tempomask.engine.compiled import CompiledSegmenter, _signature
from tempomask.errors import InputError
from tempomask.model import Model
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Segmenter
from tempomask.results import FrameResult
from tempomask.routing.budget import FixedBudget, TopK
from tempomask.routing.predictive import PredictiveRouter, RouterConfig
from tempomask.routing.recurrent import RecurrentPolicy
from tempomask.routing.static import StaticPlan
from tempomask.tracking.options import TrackingOptions

MakeTiny = Callable[..., Segmenter]
NAMES = ["sam2", "efficienttam-eq6", "edgetam", "nano"]
SIZE = 64, 64
# In bfloat16 a memory would round the smallest difference up.
EXACT = TrackingOptions(memory_dtype="float32")
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
    session = model.session(options=EXACT, routing=policy)
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
    small: MakeTiny, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = compiled(small(name))
    model = model.compile(SIZE, objects=2, options=EXACT)
    segmenter = model.segmenter
    assert isinstance(segmenter, CompiledSegmenter)
    graphs = dynamo.utils.counters["stats"]["unique_graphs"]
    # Encode, attend with and without empty places, decode and encode_memory; pooled: a lone memory.
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
        "encode_memory": 29,
    }
    assert_same(got, video(Model(small(name)), 30))


def test_a_second_prompted_frame(small: MakeTiny) -> None:
    """Its slots are graphs of their own, made when they are asked for; other shapes get none."""
    model = compiled(small("efficienttam", **FEW))
    model = model.compile(SIZE, prompted_frames=2, options=EXACT)
    segmenter = model.segmenter
    assert isinstance(segmenter, CompiledSegmenter)
    known = set(segmenter._known)
    assert sum(step == "attend" for step, _ in known) == 4  # type: ignore[misc]

    def tracked(model: Model) -> list[FrameResult]:
        session = model.session(options=EXACT)
        for index in (0, 3):
            session.prompt(box=(2, 2, 30, 30), frame=index)
        return [session.step(frame) for frame in frames(6)]

    with segmenter.preparing():
        got = tracked(model)
    assert segmenter._known == known
    assert_same(got, tracked(Model(small("efficienttam", **FEW))))
    with dynamo.config.patch(error_on_recompile=True):
        got = video(model, 3)
    assert segmenter._known == known
    assert_same(got, video(Model(small("efficienttam", **FEW)), 3))


@pytest.mark.parametrize("routed", [False, True])
def test_policies(small: MakeTiny, routed: bool) -> None:
    """A static plan is part of the encoder's graph; a router's blocks are graphs of their own."""
    encoder = small("efficienttam", **FEW).encoder

    def policy() -> Policy:
        if not routed:
            return StaticPlan([0, 2], encoder)
        torch.manual_seed(0)
        router = PredictiveRouter(RouterConfig.for_encoder(encoder)).eval()
        return RecurrentPolicy(router, FixedBudget(0.7), TopK())

    model = compiled(small("efficienttam", **FEW))
    model = model.compile(SIZE, objects=2, options=EXACT, routing=policy())
    with dynamo.config.patch(error_on_recompile=True):
        got = video(model, 4, policy())
    assert int(got[-1].blocks.sum()) == 2
    assert_same(got, video(Model(small("efficienttam", **FEW)), 4, policy()))


def test_graphs_survive_ahead_of_time_autograd(small: MakeTiny) -> None:
    """The tracing that every real backend starts from."""
    model = compiled(small("efficienttam", **FEW), "aot_eager")
    model = model.compile(SIZE, objects=2, options=EXACT)
    assert_same(video(model, 4), video(Model(small("efficienttam", **FEW)), 4))


@pytest.mark.parametrize(
    ("name", "options"),
    [("efficienttam-eq6", EXACT), ("sam2", replace(EXACT, memory_stride=3))],
)
def test_a_warm_up_runs_every_graph_three_times(
    small: MakeTiny, name: str, options: TrackingOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA records the second run; the last ones find every slot taken, one a lone memory."""
    model = compiled(small(name, **FEW))
    segmenter = model.segmenter
    assert isinstance(segmenter, CompiledSegmenter)
    runs: Counter[Any] = Counter()
    run = segmenter._run

    def counted(step: str, *args: Any) -> Any:
        runs[step, _signature(args)] += 1
        return run(step, *args)

    monkeypatch.setattr(segmenter, "_run", counted)
    # The video that goes before, uncompiled where the network is not compiled yet, is not counted.
    monkeypatch.setattr("tempomask.tracking.warmup.FEW_FRAMES", 0)
    model = model.compile(SIZE, options=options)
    assert set(runs) == segmenter._known
    assert min(n for (step, _), n in runs.items() if step == "attend") >= 3
    assert min(runs.values()) >= 3
    session = model.session(options=options)
    session.prompt(object_id=1, box=(2, 2, 30, 30))
    for frame in frames(14):
        session.step(frame)
    assert set(runs) == segmenter._known


def test_graphs_are_of_the_thread_that_made_them(small: MakeTiny) -> None:
    """Not of a later one that happens to have its ident."""
    segmenter = CompiledSegmenter(
        accelerate(small("efficienttam", **FEW)), "eager", cuda_graphs=False
    )
    segmenter._cuda_graphs = True
    model, known = Model(segmenter), []
    model.compile(SIZE, options=EXACT)

    def of_thread() -> None:
        known.append(set(segmenter._known))
        with segmenter.preparing():
            video(model, 2)
        known.append(set(segmenter._known))

    here = set(segmenter._known)
    for _ in range(2):
        thread = Thread(target=of_thread)
        thread.start()
        thread.join()
    assert known[0] == known[2] == set() and known[1] and known[3]
    assert segmenter._known == here


def test_one_thread_prepares(small: MakeTiny) -> None:
    """Another one runs uncompiled meanwhile."""
    model = compiled(small("sam2", **FEW))
    assert isinstance(model.segmenter, CompiledSegmenter)
    with model.segmenter.preparing():
        thread = Thread(target=video, args=(model, 2))
        thread.start()
        thread.join()
    assert not model.segmenter._known


def test_a_graph_that_fails_is_tried_again(
    small: MakeTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = accelerate(small("efficienttam", **FEW))

    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler")

    segmenter = CompiledSegmenter(before, "eager")
    monkeypatch.setitem(segmenter._graphs, "decode", broken)
    with segmenter.preparing(), pytest.raises(RuntimeError, match="no compiler"):
        video(Model(segmenter), 3)
    assert "decode" not in {step for step, _ in segmenter._known}  # type: ignore[misc]


def test_compiling_gives_another_model(small: MakeTiny) -> None:
    model = Model(accelerate(small("efficienttam", **FEW)))
    before = model.segmenter
    other = model.compile(SIZE, options=EXACT, backend="eager")
    assert isinstance(other.segmenter, CompiledSegmenter) and model.segmenter is before
    assert not isinstance(before, CompiledSegmenter)
    assert_same(video(other, 3), video(model, 3))


def test_a_compiled_model_is_not_copied(small: MakeTiny) -> None:
    with pytest.raises(InputError, match="neither copied nor pickled"):
        deepcopy(compiled(small("sam2", **FEW)))


def test_the_plain_engine_is_not_compiled(small: MakeTiny) -> None:
    with pytest.raises(InputError, match='engine="fast"'):
        Model(small("efficienttam", **FEW)).compile(SIZE)
