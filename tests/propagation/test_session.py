"""Label propagation against the published steps written out plainly, and its sessions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tempomask.errors import InputError, InputWarning
from tempomask.models.config import HieraConfig, HybridConfig, ViTConfig
from tempomask.models.encoder import Encoder, EncoderOutput, KeepPlan, Policy
from tempomask.models.hiera import Hiera
from tempomask.models.hybrid import HybridEncoder
from tempomask.models.vit import ViT
from tempomask.prompts import Prompt
from tempomask.propagation import labels as label_propagation
from tempomask.propagation.labels import propagate, share_out
from tempomask.propagation.model import Propagator, load_propagator
from tempomask.propagation.network import PatchEncoder
from tempomask.propagation.options import PropagationOptions
from tempomask.propagation.session import PropagationSession, resized_shape
from tempomask.routing.static import StaticPlan

Frames = Callable[..., list[NDArray[np.uint8]]]


def plainly(
    current: Tensor, features: Tensor, labels: Tensor, radius: float, k: int, temperature: float
) -> Tensor:
    """The published step, all similarities at once: (h, w, D), (T, h, w, D), (T, h, w, M)."""
    height, width = current.shape[:2]
    mixed = torch.zeros(height, width, labels.shape[-1])
    for y in range(height):
        for x in range(width):
            similarity = torch.full(labels.shape[:3], -math.inf)
            for v in range(height):
                for u in range(width):
                    if math.hypot(v - y, u - x) <= radius:
                        similarity[:, v, u] = features[:, v, u] @ current[y, x]
            flat = similarity.flatten()
            least = flat.sort(descending=True).values[min(k, len(flat)) - 1]
            weights = torch.where(flat >= least, flat / temperature, -math.inf).softmax(dim=0)
            row = weights @ labels.flatten(0, 2)
            mixed[y, x] = row / row.sum()
    return mixed


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 6),
    width=st.integers(1, 7),
    frames=st.integers(1, 3),
    radius=st.sampled_from([0.5, 1.0, 1.5, 2.3, 9.0]),
    k=st.integers(1, 6),
    tile=st.sampled_from([1, 2, 3, 16]),
    ties=st.booleans(),
    seed=st.integers(0, 999),
)
def test_every_patch_takes_the_labels_the_published_step_gives_it(
    height: int,
    width: int,
    frames: int,
    radius: float,
    k: int,
    tile: int,
    ties: bool,
    seed: int,
) -> None:
    """Whatever the size of the tiles; ties with the k-th similarity are all kept."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(frames + 1, height, width, 4, generator=generator)
    if ties:
        features = features.sign()
    features = F.normalize(features, dim=-1)
    labels = torch.rand(frames, height, width, 3, generator=generator).softmax(dim=-1)
    config = PropagationOptions(radius=radius, top_k=k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_propagation, "TILE", tile)
        found = propagate(features[0], list(features[1:]), list(labels), config)
    expected = plainly(features[0], features[1:], labels, radius, k, 0.2)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_memory_is_bounded_by_the_neighbourhood() -> None:
    """No tensor of similarities grows with the image: 4 times as wide, as large as before."""
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest[-1] = max(largest[-1], out.untyped_storage().nbytes())
            return out

    for width in (60, 240):
        features = F.normalize(torch.randn(48, width, 2), dim=-1)
        labels = torch.rand(48, width, 2)
        largest.append(0)
        with Watch():
            propagate(features, [features] * 3, [labels] * 3, PropagationOptions(radius=5))
    assert largest[1] == largest[0]


@settings(max_examples=40, deadline=None)
@given(
    labels=st.integers(2, 4),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    flat=st.booleans(),
    seed=st.integers(0, 999),
)
def test_pixels_are_shared_out_as_published(
    labels: int, grid: tuple[int, int], size: tuple[int, int], flat: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few values, so that labels tie.
    probabilities = torch.randint(0, 4, (*grid, labels), generator=generator) / 3
    if flat:
        probabilities[..., -1] = 0.5
    large = F.interpolate(probabilities.permute(2, 0, 1)[None], size=size, mode="nearest")[0]
    low = large.flatten(1).min(dim=1).values[:, None, None]
    high = large.flatten(1).max(dim=1).values[:, None, None]
    expected = torch.nan_to_num((large - low) / (high - low), nan=0).numpy().argmax(axis=0)
    margins, won = share_out(probabilities, size)
    for place in range(1, labels):
        assert np.array_equal(margins[place - 1].numpy() > 0, expected == place)
    assert won.shape == (labels - 1, *grid)


@pytest.mark.parametrize(
    ("size", "short_side", "multiple", "expected"),
    [
        ((480, 854), 960, 16, (960, 1712)),
        ((854, 480), 960, 16, (1712, 960)),
        ((480, 480), 100, 16, (112, 112)),
        ((100, 101), 64, 32, (64, 96)),
    ],
)
def test_sides_are_rounded_up(
    size: tuple[int, int], short_side: int, multiple: int, expected: tuple[int, int]
) -> None:
    assert resized_shape(size, short_side, multiple) == expected


class Colours(Encoder):
    """The mean colour of each 16 x 16 patch, and two blocks that do nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.strides, self.channels, self.feature_blocks = (16,), (3,), (1,)
        self.patch_channels, self.patch_stride, self.required_blocks = 3, 16, frozenset()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.blocks = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
        self.seen: list[Tensor | None] = []

    def forward(
        self, image: Tensor, policy: Any = None, previous_masks: Tensor | None = None
    ) -> EncoderOutput:
        self.seen.append(previous_masks)
        x = F.avg_pool2d(image, 16).permute(0, 2, 3, 1) * self.scale
        emitted, blocks = self.run_blocks(x, policy, previous_masks)
        return EncoderOutput([emitted[0].permute(0, 3, 1, 2)], blocks)


SHORT = PropagationOptions(short_side=96)
RED, GREEN = (220, 30, 30), (30, 220, 30)


def scene(
    length: int, hidden: range = range(0)
) -> tuple[list[NDArray[np.uint8]], NDArray[np.int_]]:
    """A red and a green square that move over grey, 96 x 160, and their label map by frame."""
    frames, labels = [], []
    for t in range(length):
        frame = np.full((96, 160, 3), 128, np.uint8)
        label = np.zeros((96, 160), int)
        if t not in hidden:
            frame[16:48, 16 * t : 16 * t + 48], label[16:48, 16 * t : 16 * t + 48] = RED, 5
        frame[64:80, 96:128], label[64:80, 96:128] = GREEN, 2
        frames.append(frame)
        labels.append(label)
    return frames, np.stack(labels)


def prompted(session: PropagationSession, labels: NDArray[np.int_]) -> PropagationSession:
    for object_id in (5, 2):
        session.prompt(object_id=object_id, mask=labels[0] == object_id)
    return session


def test_objects_are_followed_by_their_looks() -> None:
    frames, labels = scene(6)
    session = prompted(PropagationSession(PatchEncoder(Colours()), SHORT), labels)
    for t, frame in enumerate(frames):
        result = session.step(frame)
        assert result.object_ids == (5, 2) and result.index == t
        assert np.array_equal(result.label_map(), labels[t])
        assert not result.lost.any() and (result.predicted_iou > 0.9).all()
        assert result.logits.shape == (2, 96, 160)


def test_an_object_that_leaves_and_returns_within_the_context() -> None:
    frames, labels = scene(6, hidden=range(2, 4))
    session = prompted(PropagationSession(PatchEncoder(Colours()), SHORT), labels)
    lost = []
    for t, frame in enumerate(frames):
        result = session.step(frame)
        assert np.array_equal(result.label_map(), labels[t])
        lost.append(bool(result.lost[0]))
        if result.lost[0]:
            assert result.object_scores[0] < 0 and result.predicted_iou[0] == 0
    assert lost == [False, False, True, True, False, False]


def test_an_object_smaller_than_a_patch_is_lost_and_told_of() -> None:
    frames, _ = scene(3)
    session = PropagationSession(PatchEncoder(Colours()), SHORT)
    mask = np.zeros((96, 160), bool)
    mask[3, 3] = True
    session.prompt(object_id=9, mask=mask)
    with pytest.warns(InputWarning, match="object 9 on frame 0 .* left at the network's 10 x 6"):
        assert session.step(frames[0]).masks.sum() == 1
    for frame in frames[1:]:
        result = session.step(frame)
        assert result.lost.tolist() == [True] and np.isfinite(result.low_res_logits).all()


def test_a_refused_first_frame_fixes_no_size() -> None:
    frames, labels = scene(1)
    session = PropagationSession(PatchEncoder(Colours()), SHORT)
    with pytest.raises(InputError, match="no mask given"):
        session.step(frames[0][:64])
    prompted(session, labels)
    with pytest.raises(InputError, match="mask"):
        session.step(frames[0][:64])
    assert session.size is None
    assert np.array_equal(session.step(frames[0]).label_map(), labels[0])


def test_overlapping_masks_go_to_the_last() -> None:
    frames, labels = scene(2)
    session = PropagationSession(PatchEncoder(Colours()), SHORT)
    session.prompt(object_id=1, mask=labels[0] > 0)
    session.prompt(object_id=2, mask=labels[0] == 5)
    result = session.step(frames[0])
    assert np.array_equal(result.masks[1], labels[0] == 5)
    assert np.array_equal(result.masks[0], labels[0] == 2)


def test_context_is_the_first_and_the_last_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, labels = scene(8)
    sizes = []

    def counting(features: Tensor, context: Any, *rest: Any) -> Tensor:
        sizes.append(len(context))
        return propagate(features, context, *rest)

    monkeypatch.setattr(label_propagation, "propagate", counting)
    config = PropagationOptions(short_side=96, context_frames=3)
    session = prompted(PropagationSession(PatchEncoder(Colours()), config), labels)
    for frame in frames:
        session.step(frame)
    assert sizes == [1, 2, 3, 4, 4, 4, 4]


def test_a_policy_sees_the_objects_of_the_frame_before() -> None:
    """Frame 0 runs in full; later plans get the union of the masks, in patches."""
    frames, labels = scene(4)
    encoder = Colours()
    policy = StaticPlan([1], encoder)
    session = prompted(PropagationSession(PatchEncoder(encoder), SHORT, policy=policy), labels)
    results = [session.step(frame) for frame in frames]
    assert encoder.seen[0] is None
    for t, masks in enumerate(encoder.seen[1:]):
        expected = torch.from_numpy(labels[t][8::16, 8::16] > 0)
        assert masks is not None and torch.equal(masks[0, 0] > 0, expected)
    assert all(result.blocks.tolist() == [False, True] for result in results)


class Video(Policy):
    """A policy that counts what a session tells it."""

    reads_results = True  # type: ignore[assignment]

    def __init__(self) -> None:
        self.told: list[str] = []

    def fresh(self) -> Video:
        return Video()

    def begin_frame(self) -> None:
        self.told.append("begin")

    def end_frame(self, predicted_iou: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
        assert predicted_iou.shape == scores.shape == (2,)
        self.told.append("end")

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> KeepPlan:
        self.told.append("plan")
        return KeepPlan([True, True])


def test_a_policy_that_follows_the_video() -> None:
    frames, labels = scene(3)
    given = Video()
    session = prompted(PropagationSession(PatchEncoder(Colours()), SHORT, policy=given), labels)
    for frame in frames:
        session.step(frame)
    policy = session.policy
    assert given.told == [] and isinstance(policy, Video)
    assert policy.told == ["begin", "plan", "end"] * 3


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "hybrid": lambda: HybridEncoder(HybridConfig(dim=16, num_heads=2, depth=2)),
    "vit": lambda: ViT(
        ViTConfig(16, 2, 2, global_attention_blocks=(1,), window_size=3, position_size=5)
    ),
    "hiera": lambda: Hiera(
        HieraConfig(8, 1, (1, 1, 2, 1), (3,), window_sizes=(8, 4, 6, 3), position_size=(5, 5))
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_any_encoder_will_do(name: str) -> None:
    """Images that are not squares; the map of stride 16."""
    torch.manual_seed(0)
    frames, labels = scene(3)
    propagator = Propagator(PatchEncoder(ENCODERS[name](), name), options=SHORT)
    session = prompted(propagator.session(), labels)
    for frame in frames:
        result = session.step(frame)
    with torch.inference_mode():
        features = propagator.network.encode(torch.randn(1, 3, 96, 160)).features[0]
    assert features.shape[:2] == (6, 10) and result.label_map().shape == (96, 160)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(6, 10))


def test_track_is_a_loop_over_step_in_both_directions() -> None:
    frames, labels = scene(6)
    propagator = Propagator(PatchEncoder(Colours(), "colours"), options=SHORT)
    prompts = [Prompt(object_id=i, mask=labels[0] == i) for i in (5, 2)]
    found = list(propagator.track(frames, prompts, frames=range(5)))
    assert [result.index for result in found] == [0, 1, 2, 3, 4]
    session = prompted(propagator.session(), labels)
    for result, frame in zip(found, frames, strict=False):
        assert np.array_equal(result.logits, session.step(frame).logits)
    last = [Prompt(frame=5, object_id=i, mask=labels[5] == i) for i in (5, 2)]
    back = {
        r.index: r for r in propagator.track(frames, last, direction="backward", frames=range(1, 6))
    }
    assert list(back) == [5, 4, 3, 2, 1]
    assert np.array_equal(back[1].label_map(), labels[1])


def refusals() -> list[tuple[Callable[[Propagator], object], str]]:
    mask = np.ones((96, 160), bool)
    frames = scene(3)[0]
    here = Prompt(mask=mask)

    def after_a_step(p: Propagator) -> object:
        session = p.session()
        session.add(here)
        session.step(frames[0])
        return session.add(Prompt(frame=1, object_id=2, mask=mask))

    return [
        (lambda p: p.track(frames, Prompt(points=[(3, 3)])), "is not a mask; .*tempomask track"),
        (lambda p: p.track(frames, []), "no prompt given"),
        (lambda p: p.track(frames, [here, Prompt(1, 2, mask=mask)]), "from the first frame, 0"),
        (after_a_step, "from the first frame, 0"),
        (lambda p: p.track(frames, Prompt(mask=mask[:9])), "must be as large as"),
        (lambda p: p.track(frames, Prompt(frame=3, mask=mask)), "but the video has 3 frames"),
        (lambda p: p.track(frames, here, direction="both"), 'direction "forward" or "backward"'),
        (lambda p: p.track(frames, here, frames=range(0)), "there are no frames in range"),
        (lambda p: p.track(frames, here, frames=range(1, 3)), "from the first frame, 1"),
        (lambda p: p.track(iter(frames), here, direction="backward"), "read in any order"),
        (lambda p: PropagationOptions(radius=0), "radius must be above 0"),
        (lambda p: PropagationOptions(context_frames=-1), "context_frames must be a whole number"),
        (lambda p: p.session().step(frames[0]), "no mask given"),
        (lambda p: p.session().step(frames[0][0]), r"shape \(.*; give \(H, W, 3\) uint8"),
        (lambda p: p.session().step(frames[0], 4), "frame 4 cannot follow"),
        (lambda p: load_propagator("dinov3-vits8"), "did you mean dinov3-vits16"),
    ]


@pytest.mark.parametrize(("call", "message"), refusals(), ids=lambda x: str(x)[:24])
def test_bad_input(call: Callable[[Propagator], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(Propagator(PatchEncoder(Colours(), "colours"), options=SHORT))


def test_frames_of_another_size() -> None:
    frames, labels = scene(2)
    session = prompted(PropagationSession(PatchEncoder(Colours()), SHORT), labels)
    session.step(frames[0])
    with pytest.raises(InputError, match="160 x 90"):
        session.step(frames[1][:90])


def test_the_bundled_model_propagates() -> None:
    """nano's encoder by name, at a small size."""
    frames, labels = scene(2)
    propagator = load_propagator("nano", short_side=64, device="cpu", dtype="float32")
    assert repr(propagator) == "Propagator('nano', image_size=64, device='cpu', dtype=float32)"
    prompts = [Prompt(object_id=i, mask=labels[0] == i) for i in (5, 2)]
    results = list(propagator.track(frames, prompts))
    assert results[1].blocks.shape == (propagator.network.encoder.num_blocks,)
