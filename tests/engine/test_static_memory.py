"""Memories in slots: the same shapes on every frame, and the masks of the plain network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tempomask.engine import accelerate
from tempomask.errors import InputError
from tempomask.model import Model
from tempomask.models.segmenter import Encoded, MemoryInputs, Segmenter
from tempomask.prompts import Prompt
from tempomask.tracking.frame_step import FrameStep
from tempomask.tracking.memory_bank import Memory, MemoryBank
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.selection import RecentMemories
from tempomask.tracking.session import Session
from tempomask.tracking.state import Request

MakeTiny = Callable[[str], Segmenter]
Attend = Callable[[Tensor, MemoryInputs | None], Tensor]
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
SIDE, FRAME, END = 64, 30, 40


def bank_of(segmenter: Segmenter, conditioning: list[int], recent: list[int]) -> MemoryBank:
    config, bank = segmenter.config, MemoryBank()
    generator = torch.Generator().manual_seed(len(conditioning) + 7 * len(recent))
    for frame in {*conditioning, *recent}:
        features = torch.randn(config.memory_shape, generator=generator)
        pointer = torch.randn(config.hidden_dim, generator=generator)
        bank.store(Memory(frame, features, pointer, 1.0, 1.0), frame in conditioning)
    return bank


# Per object: its conditioning frames, which may lie ahead, and the frames among the last 20 that it
# was tracked on.
banks = st.tuples(
    st.lists(
        st.integers(0, 9) | st.integers(FRAME + 1, END - 1), min_size=1, max_size=3, unique=True
    ),
    st.lists(st.integers(FRAME - 20, FRAME - 1), max_size=20, unique=True),
)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", NAMES)
def test_attention_is_the_plain_one(
    tiny: MakeTiny, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two objects at a time, and a quarter of their tokens in the MLP.
    monkeypatch.setattr("tempomask.engine.memory_attention.TOKENS", 2 * (SIDE // 16) ** 2)
    monkeypatch.setattr("tempomask.engine.memory_attention.MLP_TOKENS", 4)
    plain, fast = tiny(name), accelerate(tiny(name))
    static = FrameStep(fast, TrackingOptions(static_memory=True), RecentMemories())
    usual = FrameStep(plain, TrackingOptions(), RecentMemories())
    dim, grid = plain.config.hidden_dim, SIDE // 16
    features = torch.randn(1, dim, grid, grid)
    images = {t: torch.randn(dim, grid, grid) for t in range(END)}
    encoded = Encoded(features, (), torch.ones(1))

    @torch.inference_mode()
    @settings(max_examples=20, deadline=None)
    @given(objects=st.lists(banks, min_size=1, max_size=3), at_once=st.booleans())
    def check(objects: list[tuple[list[int], list[int]]], at_once: bool) -> None:
        monkeypatch.setattr("tempomask.engine.memory_attention.in_parts", lambda x: not at_once)
        selections = [
            RecentMemories().select(bank_of(plain, *frames), FRAME, False) for frames in objects
        ]
        requests = [Request(selection=selection) for selection in selections]
        got = static._attend(encoded, requests, images)
        expected = usual._attend(encoded, requests, images)
        for index in range(len(objects)):
            scale = float(expected[index].abs().max())
            assert float((got[index] - expected[index]).abs().max()) <= 1e-5 * scale

    check()


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_has_the_same_shapes(
    tiny: MakeTiny, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first tracked frame on; where memories are pooled, from the second on."""
    segmenter = accelerate(tiny(name))
    shapes: list[tuple[object, ...]] = []
    masked: list[bool] = []
    attend = segmenter.attend

    def watched(features: Tensor, memory: MemoryInputs | None) -> Tensor:
        if memory is not None:
            masked.append(memory.absent is not None)
            # Whether anything is absent is the one thing that may change.
            shapes.append(tuple(None if x is None else x.shape for x in memory[:5]))
        return attend(features, memory)

    monkeypatch.setattr(segmenter, "attend", watched)
    session = Session(segmenter, TrackingOptions(static_memory=True))
    session.prompt(object_id=1, box=(2, 2, 30, 30))
    session.prompt(object_id=2, points=[(40, 40)])
    frame = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)
    for _ in range(20):
        session.step(frame)
    pooled = "-eq" in name
    assert len(shapes) == 19
    assert len(set(shapes[pooled:])) == 1
    # Sixteen pointers are known from frame 16 on.
    assert masked == [True] * 15 + [False] * 4


def test_objects_with_other_histories_attend_together(tiny: MakeTiny) -> None:
    """An object that comes later has fewer memories; without slots it would be a batch more."""
    frames = [
        np.random.default_rng(t).integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)
        for t in range(8)
    ]
    logits = {}
    calls = {}
    for static in (False, True):
        segmenter = accelerate(tiny("nano"))
        count = 0

        attend = segmenter.attend

        def counted(
            features: Tensor, memory: MemoryInputs | None, attend: Attend = attend
        ) -> Tensor:
            nonlocal count
            count += memory is not None
            return attend(features, memory)

        segmenter.attend = counted  # type: ignore[method-assign]
        session = Session(segmenter, TrackingOptions(static_memory=static, memory_dtype="float32"))
        session.prompt(object_id=1, box=(2, 2, 30, 30))
        session.prompt(object_id=2, box=(20, 20, 60, 60), frame=4)
        logits[static] = [session.step(frame).low_res_logits for frame in frames]
        calls[static] = count
    assert calls == {False: 4 + 2 * 3, True: 4 + 3}
    for a, b in zip(logits[False], logits[True], strict=True):
        assert np.abs(a - b).max() <= 1e-4 * np.abs(a).max()


@pytest.mark.parametrize("name", NAMES)
def test_frames_before_the_only_prompt(tiny: MakeTiny, name: str) -> None:
    """Looking ahead, they see a memory of the prompted frame and no pointer."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8) for _ in range(5)]
    prompt = Prompt(frame=3, box=(2, 2, 30, 30))
    usual, static = (
        list(
            Model(accelerate(tiny(name))).track(
                frames,
                prompt,
                frames=range(5),
                options=TrackingOptions(
                    lookahead=True, memory_dtype="float32", static_memory=static_memory
                ),
            )
        )
        for static_memory in (False, True)
    )
    assert len(static) == 5
    for a, b in zip(usual, static, strict=True):
        assert (
            np.abs(a.low_res_logits - b.low_res_logits).max()
            <= 1e-4 * np.abs(a.low_res_logits).max()
        )


def test_the_plain_engine_has_no_slots(tiny: MakeTiny) -> None:
    with pytest.raises(InputError, match='engine="fast"'):
        Session(tiny("nano"), TrackingOptions(static_memory=True))
