"""The front door: loading, devices, and sources of every kind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tempomask
from tempomask import InputError, Model, Prompt, TrackingOptions, load
from tempomask.devices import cpu_multiplies_bfloat16, resolve_device, resolve_dtype
from tempomask.io.video import Video, open_video
from tempomask.models.config import (
    HybridConfig,
    MaskDecoderConfig,
    MemoryAttentionConfig,
    SegmenterConfig,
)
from tempomask.models.segmenter import Segmenter
from tempomask.propagation.model import Propagator
from tempomask.propagation.network import PatchEncoder
from tempomask.propagation.options import PropagationOptions
from tempomask.tracking.passes import Direction
from tempomask.weights import save_segmenter

PROMPT = Prompt(1, 3, points=[(20, 10)])


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    config = SegmenterConfig(
        name="nano",
        encoder=HybridConfig(dim=32, num_heads=2, depth=2),
        image_size=64,
        hidden_dim=32,
        memory_dim=16,
        memory_attention=MemoryAttentionConfig(layers=1, feedforward_dim=32),
        mask_decoder=MaskDecoderConfig(num_heads=4, feedforward_dim=32, iou_hidden_dim=16),
    )
    return Segmenter(config).eval()


@pytest.fixture(scope="module")
def model(segmenter: Segmenter) -> Model:
    return Model(segmenter)


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (24, 40, 3), dtype=np.uint8) for _ in range(4)]


def test_load_gives_a_model_that_tracks(
    segmenter: Segmenter, frames: list[np.ndarray], tmp_path: Path
) -> None:
    save_segmenter(segmenter, tmp_path / "small.safetensors")
    model = load(checkpoint=tmp_path / "small.safetensors", device="cpu", dtype="float32")
    assert (model.name, model.device.type, model.dtype) == ("nano", "cpu", torch.float32)
    assert repr(model) == "Model('nano', image_size=64, device='cpu', dtype=float32)"
    loaded, expected = model.track(frames, PROMPT), Model(segmenter).track(frames, PROMPT)
    for result, other in zip(loaded, expected, strict=True):
        assert np.array_equal(result.low_res_logits, other.low_res_logits)
    larger = load("nano", tmp_path / "small.safetensors", image_size=96, device="cpu")
    assert larger.config.image_size == 96


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "nanno"}, "unknown model 'nanno'; did you mean nano"),
        ({"name": "sam2.1-huge"}, "unknown model 'sam2.1-huge'; did you mean sam2.1-"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"device": "meta"}, "device 'meta' is not supported"),
        ({"device": "cuda:99"}, "device 'cuda:99' asked for, but [0-9]+ CUDA GPUs are there"),
        ({"device": 99}, "device 'cuda:99' asked for, but [0-9]+ CUDA GPUs are there"),
        ({"image_size": (384, 384)}, r"image_size must be one whole number.* got \(384, 384\)"),
        ({"dtype": torch.int8}, "unknown dtype 'int8'; use auto, float32, bfloat16, float16"),
        ({"dtype": "int8"}, "unknown dtype 'int8'; use auto, float32, bfloat16, float16"),
        ({"dtype": "float16", "device": "cpu"}, "float16 does not run on a CPU; use auto"),
        ({"checkpoint": "no/such/file.pt"}, "no/such/file.pt"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_line(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(**arguments)
    assert "\n" not in str(caught.value)


def test_devices_and_precisions_are_chosen_by_what_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    for has_cuda, has_mps, expected in [(1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=has_cuda: bool(there))
        monkeypatch.setattr(torch.cuda, "device_count", lambda there=has_cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=has_mps: bool(there))
        assert resolve_device("auto").type == expected
    with pytest.raises(InputError, match="'cuda'"):
        resolve_device("cuda")
    with pytest.raises(InputError, match="mps"):
        resolve_device("mps")
    for units, expected_dtype in [(True, torch.bfloat16), (False, torch.float32)]:
        monkeypatch.setattr("tempomask.devices.cpu_multiplies_bfloat16", lambda there=units: there)
        assert resolve_dtype("auto", cpu) == expected_dtype
    assert resolve_dtype("auto", torch.device("mps")) == torch.float32
    assert resolve_dtype(torch.bfloat16, cpu) == torch.bfloat16
    for capability in [(7, 5), (8, 0), (9, 0)]:
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda _, x=capability: x)
        fast = torch.float32 if capability < (8, 0) else torch.bfloat16
        assert resolve_dtype("auto", cuda) == fast
    # On AMD's GPUs such numbers mean something else.
    monkeypatch.setattr("torch.version.hip", "6.3")
    for supported, expected_dtype in [(True, torch.bfloat16), (False, torch.float32)]:
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda there=supported: there)
        assert resolve_dtype("auto", cuda) == expected_dtype
    assert resolve_dtype("float16", cuda) == torch.float16


@pytest.mark.parametrize("has", [(), ("amx_bf16",), ("avx512_bf16",), ("avx512_f", "avx512_vnni")])
def test_a_cpu_multiplies_bfloat16_by_amx_or_avx512(
    has: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    found = dict.fromkeys(has, True)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: found, raising=False)
    assert cpu_multiplies_bfloat16() == bool({"amx_bf16", "avx512_bf16"} & set(has))


@pytest.mark.parametrize("has_units", [True, False])
def test_older_torch_is_asked_for_matrix_units_otherwise(
    has_units: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    monkeypatch.delattr("torch.cpu.get_capabilities", raising=False)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: has_units, raising=False)
    assert cpu_multiplies_bfloat16() == has_units
    with monkeypatch.context() as kept:
        kept.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
        assert not cpu_multiplies_bfloat16()
    monkeypatch.delattr("torch.cpu._is_amx_tile_supported")
    assert not cpu_multiplies_bfloat16()


def test_every_kind_of_source_gives_the_same_results(
    model: Model, frames: list[np.ndarray], tmp_path: Path
) -> None:
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame {t}.png")
    expected = [r.low_res_logits for r in model.track(frames, PROMPT)]
    assert len(expected) == 3
    with open_video(tmp_path) as video:
        for source in (tmp_path, str(tmp_path), np.stack(frames), video):
            results = [r.low_res_logits for r in model.track(source, [PROMPT])]
            assert all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True))
        assert next(video.frames())[0] == 0  # an open video is left open
    streamed = list(model.track(iter(frames), PROMPT))
    session = model.session(start=1)
    session.add(PROMPT)
    for result, frame in zip(streamed, frames[1:], strict=True):
        assert np.array_equal(result.low_res_logits, session.step(frame).low_res_logits)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"prompts": None}, "prompts must be Prompt objects, got NoneType"),
        ({"frames": (0, 2)}, r"frames must be a range with step 1 or -1, got \(0, 2\)"),
        ({"frames": range(0, 4, 2)}, r"with step 1 or -1, got range\(0, 4, 2\)"),
        ({"frames": range(2, 2)}, r"there are no frames in range\(2, 2\)"),
        ({"frames": range(-1, 2)}, r"there are no frames in range\(-1, 2\)"),
        ({"frames": range(4, 9)}, "frame 4 lies beyond the video's 4 frames"),
        ({"routing": "rds"}, "routing must be a budget, a Routing or a policy, got 'rds'"),
        ({"routing": True}, "routing must be a budget, a Routing or a policy, got True"),
    ],
)
def test_bad_arguments_are_refused_at_once(
    arguments: dict[str, Any], message: str, model: Model, frames: list[np.ndarray]
) -> None:
    with pytest.raises(InputError, match=message):
        model.track(frames, **{"prompts": PROMPT, **arguments})


def test_a_generator_of_known_length_tracks_as_a_list(
    model: Model, frames: list[np.ndarray]
) -> None:
    expected = [r.low_res_logits for r in model.track(frames, PROMPT)]
    video = open_video(iter(frames), num_frames=4)
    assert np.array_equal([r.low_res_logits for r in model.track(video, PROMPT)], expected)
    with pytest.raises(InputError, match="got 0"):
        open_video(iter(frames), num_frames=0)


def test_frames_run_in_either_order_and_may_go_beyond_the_end(
    model: Model, frames: list[np.ndarray]
) -> None:
    def indices(frames_: range, direction: Direction = "forward") -> list[int]:
        tracks = model.track(frames, PROMPT, direction=direction, frames=frames_)
        return [result.index for result in tracks]

    assert indices(range(1, sys.maxsize)) == [1, 2, 3]
    assert indices(range(3)) == [0, 1, 2]
    assert indices(range(3), "backward") == indices(range(2, -1, -1), "backward") == [2, 1, 0]
    assert indices(range(1, 99), "backward") == [3, 2, 1]
    assert indices(range(1, 3), "both") == [1, 2]


@pytest.fixture(params=["model", "propagator"])
def tracked(request: pytest.FixtureRequest, model: Model) -> tuple[Any, Prompt]:
    """A `track` method and a prompt for it."""
    if request.param == "model":
        return model.track, PROMPT
    propagator = Propagator(
        PatchEncoder(model.segmenter.encoder), options=PropagationOptions(short_side=32)
    )
    return propagator.track, Prompt(mask=np.ones((24, 40), bool))


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[Video]:
    """The videos that were closed."""
    closed: list[Video] = []
    monkeypatch.setattr(Video, "close", lambda video: closed.append(video))
    return closed


@pytest.mark.parametrize("taken", [0, 1])
def test_a_video_that_track_opened_is_closed_again(
    tracked: tuple[Any, Prompt], taken: int, frames: list[np.ndarray], closed: list[Video]
) -> None:
    track, prompt = tracked
    results = track(frames, prompt)
    for _ in range(taken):
        next(results)
    assert closed == []
    results.close()
    assert len(closed) == 1 and list(results) == []
    dropped = track(frames, prompt)
    for _ in range(taken):
        next(dropped)
    closed.clear()
    del dropped
    assert len(closed) == 1
    whole = track(frames, prompt)
    closed.clear()
    assert len(list(whole)) > 2 and len(closed) == 1
    with open_video(frames) as video:
        closed.clear()
        list(track(video, prompt))
        assert closed == []


def test_a_video_that_track_opened_is_closed_by_errors(
    tracked: tuple[Any, Prompt], frames: list[np.ndarray], closed: list[Video]
) -> None:
    track, prompt = tracked
    with pytest.raises(InputError, match="no prompt given"):
        track(frames, [])
    assert len(closed) == 1

    def interrupted() -> Iterator[Prompt]:
        yield prompt
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        track(frames, interrupted())
    assert len(closed) == 2
    results = track((f for f in [*frames, frames[0][:, :10]]), prompt)
    next(results)
    with pytest.raises(InputError, match="10 x 24"):
        list(results)
    assert len(closed) == 3


def test_options_reach_the_session(model: Model, frames: list[np.ndarray]) -> None:
    session = model.session(options=TrackingOptions.transformers(keep=5))
    assert (session.options.keep, session.options.resize) == (5, "bilinear")
    options = TrackingOptions(non_overlapping=True)
    results = list(model.track(frames, PROMPT, direction="both", options=options))
    assert [r.index for r in results] == [0, 1, 2, 3]
    assert all(r.non_overlapping for r in results)
    with pytest.raises(InputError, match="look ahead"):
        model.session(options=TrackingOptions(lookahead=True))


def test_the_package_has_its_names_and_nothing_more() -> None:
    for name in tempomask.__all__:
        assert getattr(tempomask, name) is not None
    assert set(tempomask.__all__) <= set(dir(tempomask))
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        tempomask.train  # noqa: B018


def test_importing_the_package_is_cheap() -> None:
    """Neither torch nor any decoder is imported before something is used."""
    heavy = "torch", "numpy", "av", "PIL", "scipy", "matplotlib", "transformers", "cv2"
    code = "import sys, tempomask; tempomask.TrackingOptions(), tempomask.Routing();"
    code += f"print([m for m in {heavy} if m in sys.modules])"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "[]"
