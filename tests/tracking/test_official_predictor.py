"""Tracking against a naive re-derivation of SAM 2's offline predictor.

The re-derivation follows the description of the official predictor: one object, dictionaries that
never forget, every prompt given before propagation, no batching. It shares only the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tempomask.compat.sam2 import VideoPredictor
from tempomask.models.segmenter import Encoded, MemoryInputs, Segmenter
from tempomask.ops.normalise import normalise
from tempomask.prompts import Prompt
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.passes import track
from tempomask.tracking.session import Session


@dataclass
class Out:
    logits: Tensor
    score: Tensor
    pointer: Tensor
    memory: Tensor | None = None


@dataclass
class NaiveTracker:
    segmenter: Segmenter
    frames: list[np.ndarray]
    stride: int = 1
    max_conditioning: int = -1
    num_frames: int | None = None
    conditioning: dict[int, Out] = field(default_factory=dict)
    others: dict[int, Out] = field(default_factory=dict)
    staged: dict[int, Out] = field(default_factory=dict)
    tracked: dict[int, bool] = field(default_factory=dict)
    points: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def encode(self, t: int) -> Encoded:
        side = self.segmenter.config.image_size
        image = np.array(Image.fromarray(self.frames[t]).resize((side, side), 3))
        return self.segmenter.encode(normalise(torch.from_numpy(image)[None]))

    def attended(self, t: int, encoded: Encoded, reverse: bool) -> Tensor:
        """Features conditioned on memory; the bank as the official code reads it."""
        config = self.segmenter.config
        total = 16 if self.num_frames is None else min(self.num_frames, 16)
        chosen = list(self.conditioning)
        if self.max_conditioning != -1 and len(chosen) > self.max_conditioning:
            before = [k for k in chosen if k < t]
            after = [k for k in chosen if k >= t]
            first = ([max(before)] if before else []) + ([min(after)] if after else [])
            rest = sorted((k for k in chosen if k not in first), key=lambda k: abs(k - t))
            chosen = first + rest[: self.max_conditioning - len(first)]
        spare = {k: o for k, o in self.conditioning.items() if k not in chosen}
        spatial = [(6, self.conditioning[k]) for k in chosen]
        for position in range(1, 7):
            ago = 7 - position
            if ago == 1:
                k = t + 1 if reverse else t - 1
            elif reverse:
                k = -(-(t + 2) // self.stride) * self.stride + (ago - 2) * self.stride
            else:
                k = (t - 2) // self.stride * self.stride - (ago - 2) * self.stride
            out = self.others.get(k, spare.get(k))
            if out is not None:
                spatial.append((7 - position - 1, out))
        pointers = [
            (abs(t - k), self.conditioning[k]) for k in chosen if (k >= t if reverse else k <= t)
        ]
        for difference in range(1, total):
            k = t + difference if reverse else t - difference
            out = self.others.get(k, spare.get(k))
            if out is not None:
                pointers.append((difference, out))
        return self.segmenter.attend(
            encoded.features,
            MemoryInputs(
                spatial=torch.stack([o.memory for _, o in spatial])[None],
                images=None,
                temporal_index=torch.tensor([i for i, _ in spatial]),
                pointers=torch.stack([o.pointer for _, o in pointers])[None]
                if pointers
                else torch.zeros(1, 0, config.hidden_dim),
                pointer_distance=torch.tensor([d / max(total - 1, 1) for d, _ in pointers]),
            ),
        )

    def prompt(self, prompt: Prompt) -> Out:
        t, side = prompt.frame, self.segmenter.config.image_size
        height, width = self.frames[t].shape[:2]
        encoded = self.encode(t)
        earlier = self.staged.get(t, self.conditioning.get(t, self.others.get(t)))
        if prompt.mask is not None:
            self.points.pop(t, None)
            mask = torch.tensor(np.asarray(prompt.mask)).float()[None, None]
            mask = F.interpolate(mask, (side, side), mode="bilinear", antialias=True) >= 0.5
            decoded = self.segmenter.use_mask_as_output(encoded, mask.float())
        else:
            points, labels = np.zeros((0, 2)), np.zeros(0)
            if prompt.box is not None:
                points, labels = np.asarray(prompt.box).reshape(2, 2), np.array([2, 3])
            elif t in self.points:
                points, labels = self.points[t]
            if prompt.points is not None:
                points = np.concatenate([points, np.asarray(prompt.points)])
                labels = np.concatenate([labels, np.asarray(prompt.labels)])
            self.points[t] = (points, labels)
            features = self.segmenter.attend(encoded.features, None)
            if t in self.tracked:
                features = self.attended(t, encoded, self.tracked[t])
            decoded = self.segmenter.decode(
                features,
                encoded.high_resolution,
                torch.tensor(points / (width, height) * side).float()[None],
                torch.tensor(labels).long()[None],
                None if earlier is None else earlier.logits.clamp(-32, 32),
                multimask=len(labels) <= 1,
            )
        self.staged[t] = Out(decoded.logits, decoded.object_score, decoded.object_pointer[0])
        return self.staged[t]

    def propagate(self, start: int, stop: int, reverse: bool = False) -> dict[int, Tensor]:
        """Logits by frame from start to stop, both included."""
        for t, out in self.staged.items():
            memory = self.segmenter.encode_memory(self.encode(t).features, out.logits, out.score)
            out.memory = memory[0]
            self.conditioning[t] = out
            self.others.pop(t, None)
        self.staged.clear()
        results = {}
        for t in range(start, stop - 1, -1) if reverse else range(start, stop + 1):
            if t not in self.conditioning:
                encoded = self.encode(t)
                features = self.attended(t, encoded, reverse)
                d = self.segmenter.decode(features, encoded.high_resolution, multimask=True)
                memory = self.segmenter.encode_memory(encoded.features, d.logits, d.object_score)
                self.others[t] = Out(d.logits, d.object_score, d.object_pointer[0], memory[0])
            self.tracked[t] = reverse
            results[t] = self.conditioning.get(t, self.others.get(t)).logits[0, 0]
        return results


MASK = np.zeros((48, 80), dtype=bool)
MASK[8:22, 5:21] = True
EXACT = TrackingOptions(memory_dtype="float32")
CASES = {
    "point": [Prompt(0, points=[(12, 14)])],
    "two points": [Prompt(0, points=[(12, 14), (50, 40)], labels=[1, 0])],
    "two clicks in turn": [Prompt(0, points=[(12, 14)]), Prompt(0, points=[(50, 40)], labels=[0])],
    "box": [Prompt(0, box=(4, 7, 22, 23))],
    "box, then a point": [Prompt(0, box=(4, 7, 22, 23)), Prompt(0, points=[(12, 14)])],
    "box with a point": [Prompt(0, box=(4, 7, 22, 23), points=[(50, 40)], labels=[0])],
    "mask": [Prompt(0, mask=MASK)],
    "mask, then a point": [Prompt(0, mask=MASK), Prompt(0, points=[(50, 40)], labels=[0])],
    "not from the start": [Prompt(3, points=[(12, 14)])],
}


def assert_equal(logits: dict[int, np.ndarray], expected: dict[int, Tensor]) -> None:
    assert set(logits) == set(expected)
    for t, value in expected.items():
        np.testing.assert_allclose(logits[t], value.numpy(), atol=1e-4, err_msg=f"frame {t}")


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_every_kind_of_prompt_tracks_as_the_official_predictor(
    name: str, segmenter: Segmenter, clip: Callable, source: Callable
) -> None:
    frames = clip(20)
    naive = NaiveTracker(segmenter, frames, num_frames=20)
    for prompt in CASES[name]:
        naive.prompt(prompt)
    results = track(segmenter, source(frames), CASES[name], options=EXACT)
    start = CASES[name][0].frame
    assert_equal({r.index: r.low_res_logits[0] for r in results}, naive.propagate(start, 19))


@pytest.mark.parametrize("stride, limit, length", [(1, -1, 24), (3, -1, 24), (2, 2, 24), (1, 2, 8)])
@torch.inference_mode()
def test_lookahead_with_prompts_on_many_frames_is_the_offline_predictor(
    stride: int, limit: int, length: int, segmenter: Segmenter, clip: Callable, source: Callable
) -> None:
    frames = clip(length)
    prompts = [
        Prompt(1, points=[(12, 14)]),
        Prompt(5, box=(4, 7, 30, 30)),
        Prompt(7, mask=MASK),
        Prompt(length - 1, points=[(30, 20), (1, 1)], labels=[1, 0]),
    ]
    naive = NaiveTracker(segmenter, frames, stride, limit, num_frames=length)
    for prompt in prompts:
        naive.prompt(prompt)
    options = TrackingOptions(
        memory_dtype="float32", memory_stride=stride, max_conditioning_frames=limit, lookahead=True
    )
    results = list(track(segmenter, source(frames), prompts, options=options))
    assert [r.index for r in results] == list(range(1, length))
    expected = naive.propagate(1, length - 1)
    assert_equal({r.index: r.low_res_logits[0] for r in results}, expected)


@pytest.mark.parametrize("stride", [1, 3])
@torch.inference_mode()
def test_backward_tracking_is_the_offline_predictor_in_reverse(
    stride: int, segmenter: Segmenter, clip: Callable, source: Callable
) -> None:
    frames = clip(20)
    naive = NaiveTracker(segmenter, frames, stride, num_frames=20)
    naive.prompt(Prompt(18, points=[(12, 14)]))
    options = TrackingOptions(memory_dtype="float32", memory_stride=stride)
    prompt = Prompt(18, points=[(12, 14)])
    results = list(track(segmenter, source(frames), prompt, direction="backward", options=options))
    assert [r.index for r in results] == list(range(18, -1, -1))
    expected = naive.propagate(18, 0, reverse=True)
    assert_equal({r.index: r.low_res_logits[0] for r in results}, expected)


@torch.inference_mode()
def test_corrections_of_the_last_frame(segmenter: Segmenter, clip: Callable) -> None:
    frames = clip(16)
    session = Session(segmenter, EXACT, num_frames=16)
    naive = NaiveTracker(segmenter, frames, num_frames=16)
    session.prompt(points=[(12, 14)])
    naive.prompt(Prompt(0, points=[(12, 14)]))
    expected = naive.propagate(0, 9)
    for t in range(10):
        result = session.step(frames[t])
    assert_equal({9: result.low_res_logits[0]}, {9: expected[9]})

    for point, label in [((30, 20), 1), ((5, 40), 0)]:
        result = session.correct(points=[point], labels=[label])
        out = naive.prompt(Prompt(9, points=[point], labels=[label]))
        assert result.index == 9
        assert_equal({9: result.low_res_logits[0]}, {9: out.logits[0, 0]})

    rest = {t: session.step(frames[t]).low_res_logits[0] for t in range(10, 16)}
    assert_equal(rest, naive.propagate(10, 15))


@torch.inference_mode()
def test_corrections_of_earlier_frames_then_tracking_again(
    segmenter: Segmenter, clip: Callable
) -> None:
    frames = clip(12)
    session = Session(segmenter, TrackingOptions(memory_dtype="float32", keep="all"), num_frames=12)
    naive = NaiveTracker(segmenter, frames, num_frames=12)
    session.prompt(points=[(12, 14)])
    naive.prompt(Prompt(0, points=[(12, 14)]))
    naive.propagate(0, 11)
    for frame in frames:
        session.step(frame)
    for prompt in [
        Prompt(6, points=[(30, 20)], labels=[1]),
        Prompt(0, points=[(5, 40)], labels=[0]),
        Prompt(6, points=[(5, 40)], labels=[0]),
        Prompt(9, mask=MASK),
    ]:
        result, out = session.add(prompt), naive.prompt(prompt)
        assert result is not None and result.index == prompt.frame
        assert_equal({0: result.low_res_logits[0]}, {0: out.logits[0, 0]})
    again = {t: session.step(frames[t], index=t).low_res_logits[0] for t in range(12)}
    assert_equal(again, naive.propagate(0, 11))


@torch.inference_mode()
def test_the_official_names(segmenter: Segmenter, clip: Callable, source: Callable) -> None:
    """The order of calls of SAM 2's notebook: click, propagate, correct, propagate both ways."""
    frames = clip(14)
    options = TrackingOptions(memory_dtype="float32")
    predictor = VideoPredictor(segmenter, options=options)
    state = predictor.init_state(source(frames))
    naive = NaiveTracker(segmenter, frames, num_frames=14)
    index, ids, logits = predictor.add_new_points_or_box(state, 4, 7, [(12, 14)], [1])
    naive.prompt(Prompt(4, points=[(12, 14)]))
    assert (index, ids, logits.shape) == (4, [7], (1, 1, 48, 80))

    def compare(answers: list, expected: dict[int, Tensor]) -> None:
        assert [index for index, _, _ in answers] == list(expected)
        for (_, _, logits), low in zip(answers, expected.values(), strict=True):
            full = F.interpolate(low[None, None], (48, 80), mode="bilinear", align_corners=False)
            torch.testing.assert_close(logits, full, atol=1e-4, rtol=0)

    compare(list(predictor.propagate_in_video(state)), naive.propagate(4, 13))
    predictor.add_new_points_or_box(state, 8, 7, [(5, 40)], [0], clear_old_points=False)
    naive.prompt(Prompt(8, points=[(5, 40)], labels=[0]))
    compare(
        list(predictor.propagate_in_video(state, start_frame_idx=8, max_frame_num_to_track=3)),
        naive.propagate(8, 11),
    )
    compare(
        list(predictor.propagate_in_video(state, reverse=True)), naive.propagate(4, 0, reverse=True)
    )
    # Frame 4 was tracked in reverse last, so its correction looks at later frames.
    _, _, logits = predictor.add_new_points_or_box(state, 4, 7, [(30, 20)], [0], False)
    low = naive.prompt(Prompt(4, points=[(30, 20)], labels=[0])).logits
    full = F.interpolate(low, (48, 80), mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, full, atol=1e-4, rtol=0)
    predictor.add_new_mask(state, 2, 7, MASK)
    naive.prompt(Prompt(2, mask=MASK))
    compare(list(predictor.propagate_in_video(state)), naive.propagate(2, 13))

    predictor.add_new_mask(state, 10, 8, MASK)
    _, ids, logits = predictor.add_new_points_or_box(state, 0, 7, box=(4, 7, 22, 23))
    assert ids == [7, 8] and (logits[1] == -1024).all()
    ids, updated = predictor.remove_object(state, 7)
    assert ids == [8] and {index for index, _ in updated} == {0, 2, 4, 8}
    predictor.reset_state(state)
    assert state.session.object_ids == ()
