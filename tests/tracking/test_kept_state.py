"""A session that goes on from a kept state gives the masks of one that was never stopped."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tempomask.errors import InputError
from tempomask.models.encoder import KeepPlan, Plan, Policy
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.results import FrameResult
from tempomask.routing.adaptive import AdaptiveBudget, AdaptiveConfig
from tempomask.routing.budget import FixedBudget, Stochastic, TopK
from tempomask.routing.predictive import PredictiveRouter, RouterConfig
from tempomask.routing.recurrent import RecurrentPolicy
from tempomask.tracking.options import Direction, TrackingOptions
from tempomask.tracking.passes import track
from tempomask.tracking.session import Session
from tests.tracking.conftest import ArraySource, make_segmenter

FRAMES = 12
MASK = np.zeros((48, 80), dtype=bool)
MASK[8:22, 5:21] = True
PROMPTS = [
    Prompt(3, 7, points=[(10, 10)]),
    Prompt(3, 2, mask=MASK),
    Prompt(6, 3, box=(40, 10, 60, 30)),
    Prompt(8, 7, points=[(14, 12)], labels=[0]),
    Prompt(9, 2, points=[(12, 12)]),
]
OPTIONS = {
    "plain": TrackingOptions(),
    "float32": TrackingOptions(memory_dtype="float32", memory_stride=2, max_conditioning_frames=2),
    "interactive": TrackingOptions.interactive(keep=3, non_overlapping_memory=True),
    "transformers": TrackingOptions.transformers(),
    "everything": TrackingOptions(keep="all", objects_per_batch=1),
    "samurai": TrackingOptions(memory="samurai"),
    "samurai-official": TrackingOptions(memory="samurai-official"),
    "dam4sam": TrackingOptions(memory="dam4sam"),
    "sam2long": TrackingOptions(memory="sam2long"),
    "lookahead": TrackingOptions(lookahead=True),
}


@cache
def clip() -> Sequence[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (48, 80, 3), dtype=np.uint8) for _ in range(FRAMES)]


@cache
def network(image_keys: bool) -> Segmenter:
    return make_segmenter(image_keys)


class HalfOfTheTokens(Policy):
    memory_budget = 0.5

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Plan:
        return KeepPlan([True] * network(False).encoder.num_blocks)


def policy(kind: str) -> Policy | None:
    if kind == "none":
        return None
    if kind == "memory":
        return HalfOfTheTokens()
    torch.manual_seed(0)
    router = PredictiveRouter(RouterConfig.for_encoder(network(False).encoder, mask_frames=2))
    if kind == "adaptive":
        return RecurrentPolicy(router.eval(), AdaptiveBudget(AdaptiveConfig(0.6, 0.3)), TopK())
    return RecurrentPolicy(router.eval(), FixedBudget(0.6), Stochastic(3))


def results(
    direction: Direction,
    name: str,
    routing: str,
    image_keys: bool,
    state: bytes | None = None,
    stop: int | None = None,
) -> tuple[list[FrameResult], bytes | None]:
    """The results up to the first `stop` ones, and the state then."""
    sessions: list[Session] = []
    torch.set_num_threads(1)
    made = track(
        network(image_keys),
        ArraySource(clip()),
        PROMPTS,
        direction=direction,
        options=OPTIONS[name],
        policy=policy(routing),
        state=state,
        opened=sessions.append,
    )
    found: list[FrameResult] = []
    while len(found) != stop and (result := next(made, None)) is not None:
        found.append(result)
    made.close()
    return found, sessions[0].state() if sessions and sessions[0].index is not None else None


@cache
def uninterrupted(
    direction: Direction, name: str, routing: str, image_keys: bool
) -> list[FrameResult]:
    return results(direction, name, routing, image_keys)[0]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    direction=st.sampled_from(["forward", "backward", "both"]),
    name=st.sampled_from(sorted(OPTIONS)),
    routing=st.sampled_from(["none", "adaptive", "stochastic", "memory"]),
    image_keys=st.booleans(),
    stops=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_any_split_gives_the_same_results(
    direction: Direction, name: str, routing: str, image_keys: bool, stops: list[int]
) -> None:
    if name == "samurai-official":
        direction = "forward"
    whole = uninterrupted(direction, name, routing, image_keys)
    found: list[FrameResult] = []
    state = None
    for stop in (*stops, None):
        more, state = results(direction, name, routing, image_keys, state, stop)
        if state is None and stop is not None:
            return  # "both" has nothing to keep before its forward pass
        found += more
        if len(found) >= len(whole):
            break
    assert [r.index for r in found] == [r.index for r in whole]
    for one, other in zip(found, whole, strict=True):
        assert one.object_ids == other.object_ids
        assert np.array_equal(one.low_res_logits, other.low_res_logits), one.index
        assert np.array_equal(one.predicted_iou, other.predicted_iou)
        assert np.array_equal(one.object_scores, other.object_scores)
        assert np.array_equal(one.blocks, other.blocks)


def test_a_state_is_bounded_and_taking_it_changes_nothing() -> None:
    quiet, asked = (Session(network(False), TrackingOptions(keep="all")) for _ in range(2))
    sizes = []
    for session in (quiet, asked):
        session.prompt(points=[(10, 10)])
    for index in range(60):
        frame = clip()[index % FRAMES]
        one, other = quiet.step(frame), asked.step(frame)
        assert np.array_equal(one.low_res_logits, other.low_res_logits)
        sizes.append(len(asked.state()))
    assert max(sizes[30:]) <= max(sizes[17:30]) + 64


def test_a_state_of_other_options_is_refused() -> None:
    session = Session(network(False))
    session.prompt(points=[(10, 10)])
    session.step(clip()[0])
    with pytest.raises(InputError, match="another model"):
        Session(network(False), OPTIONS["samurai"]).restore(session.state())
    with pytest.raises(InputError, match="another model"):
        Session(network(True)).restore(session.state())


def test_threads_that_share_a_session_act_one_after_the_other() -> None:
    session = Session(network(False))
    session.prompt(points=[(10, 10)])
    seen: list[int] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for frame in clip():
                seen.append(session.step(frame).index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and sorted(seen) == list(range(4 * FRAMES))
