"""Cutie and XMem beside their releases: the same random weights, the same video, both in turns.

    git clone https://github.com/hkchengrex/Cutie
    git clone https://github.com/hkchengrex/XMem
    python -m benchmarks.matching_parity --cutie Cutie --xmem XMem --out matching_parity.json

Each network gets random weights under the release's names, which are then read by our key tables.
The video has two objects from the first frame on and a third later; memories are consolidated, and
the long-term memory overflows. Compared are the probabilities of all objects at every frame. Then
whole frames are timed, in turns, with the settings of the releases. Nothing is fetched; the
checkouts are imported as they are, without their pretrained encoders.
"""

from __future__ import annotations

import argparse
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common import finish, parser
from tempomask.matching.options import MatchingOptions
from tempomask.matching.session import MatchingSession
from tempomask.models.matching.config import CUTIE, MATCHERS, XMEM
from tempomask.ops.normalise import normalise
from tempomask.weights.matching import COMPUTED, NETWORKS, build_matcher

# What random keys are multiplied by, so that pixels are neither all alike nor all apart.
KEY_SCALES = {"cutie-base": 0.1, "cutie-small": 1.0, "xmem": 0.05}
# Of the squares: where they start, as shares of height and width, and pixels a frame to the right.
PATHS = ((0.1, 0.1, 1), (0.5, 0.6, -1), (0.6, 0.1, 2))
Clip = list[tuple[NDArray[np.uint8], dict[int, NDArray[np.bool_]]]]
# Gives the probabilities (N + 1, H, W) of the next frame.
Step = Callable[[NDArray[np.uint8], dict[int, NDArray[np.bool_]]], Tensor]


class Settings(dict[str, Any]):
    """A dictionary whose keys are attributes too, in place of omegaconf's."""

    __getattr__ = dict.__getitem__


def settings(values: dict[str, Any]) -> Settings:
    """The same for dictionaries in dictionaries."""
    return Settings({k: settings(v) if isinstance(v, dict) else v for k, v in values.items()})


@contextmanager
def imported(checkout: Path, resnet: str) -> Iterator[None]:
    """A release's modules can be imported, without omegaconf and without fetching weights.

    resnet: its module of residual networks, which would load pretrained ones.
    """
    from torch.utils import model_zoo

    load_url = model_zoo.load_url
    module = types.ModuleType("omegaconf")
    module.DictConfig = Settings  # type: ignore[attr-defined]
    sys.modules.setdefault("omegaconf", module)
    sys.path.insert(0, str(checkout))
    model_zoo.load_url = lambda *_args, **_named: {}
    try:
        networks: Any = import_module(resnet)
        networks.load_weights_add_extra_dim = lambda *_args: None
        yield
    finally:
        sys.path.remove(str(checkout))
        model_zoo.load_url = load_url


def randomised(network: torch.nn.Module, key_scale: float) -> torch.nn.Module:
    """The network with statistics of norms at random too, and with keys nearer to each other.

    The releases need that: their softmax takes no maximum off, and gives 0 / 0 for pixels that are
    far from all others.
    """
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    for name, parameter in network.named_parameters():
        if name == "key_proj.key_proj.weight":
            parameter.data *= key_scale
    return network.eval()


def cutie_config(name: str, options: MatchingOptions) -> Settings:
    """The release's configuration, as its YAML files have it."""
    small = MATCHERS[name].encoder.basic
    attention = {"add_pe_to_qkv": [True, True, False]}
    model = {
        "pixel_mean": [0.485, 0.456, 0.406],
        "pixel_std": [0.229, 0.224, 0.225],
        **dict.fromkeys(["pixel_dim", "value_dim", "sensory_dim", "embed_dim"], 256),
        "key_dim": 64,
        "pixel_encoder": {
            "type": "resnet18" if small else "resnet50",
            "ms_dims": [256, 128, 64] if small else [1024, 512, 256],
        },
        "mask_encoder": {"type": "resnet18", "final_dim": 256},
        "pixel_pe_scale": 32,
        "pixel_pe_temperature": 128,
        "object_transformer": {
            "embed_dim": 256,
            "ff_dim": 2048,
            "num_heads": 8,
            "num_blocks": 3,
            "num_queries": 16,
            "read_from_pixel": {"input_norm": False, "input_add_pe": False, **attention},
            "read_from_query": {"output_norm": False, **attention},
            "query_self_attention": attention,
        },
        "object_summarizer": {"embed_dim": 256, "num_summaries": 16, "add_pe": True},
        "aux_loss": {
            "sensory": {"enabled": True, "weight": 0.01},
            "query": {"enabled": True, "weight": 0.01},
        },
        "mask_decoder": {"up_dims": [256, 128, 128]},
    }
    long_term = {
        "count_usage": True,
        "max_mem_frames": options.working_frames,
        "min_mem_frames": options.kept_frames,
        "num_prototypes": options.prototypes,
        "max_num_tokens": options.long_tokens,
        "buffer_tokens": options.spare_tokens,
    }
    return settings(
        {
            "model": model,
            "mem_every": options.memory_every,
            "stagger_updates": 5,
            "chunk_size": -1,
            "save_aux": False,
            "max_internal_size": -1,
            "flip_aug": False,
            "top_k": options.top_k,
            "use_long_term": bool(options.long_term),
            "long_term": long_term,
            "max_mem_frames": options.short_frames,
        }
    )


def release_of_cutie(
    checkout: Path, name: str, options: MatchingOptions, state: dict[str, Tensor] | None
) -> tuple[Step, dict[str, Tensor]]:
    """The release's step by step tracker, and its state."""
    with imported(checkout, "cutie.model.utils.resnet"):
        from cutie.inference.inference_core import (  # pyright: ignore[reportMissingImports]
            InferenceCore,
        )
        from cutie.model.cutie import CUTIE as Network  # pyright: ignore[reportMissingImports]

        config = cutie_config(name, options)
        config["model"]["get"] = lambda _key: None
        network = randomised(Network(config), KEY_SCALES[name])
    if state is not None:
        network.load_state_dict(state)
    core = InferenceCore(network, config)

    def step(frame: NDArray[np.uint8], masks: dict[int, NDArray[np.bool_]]) -> Tensor:
        image = torch.from_numpy(frame).permute(2, 0, 1).float() / 255
        if not masks:
            return core.step(image)
        labels = np.zeros(frame.shape[:2], np.int64)
        for object_id, mask in masks.items():
            labels[mask] = object_id
        return core.step(image, torch.from_numpy(labels), objects=list(masks))

    return step, dict(network.state_dict())


def release_of_xmem(
    checkout: Path, options: MatchingOptions, state: dict[str, Tensor] | None
) -> tuple[Step, dict[str, Tensor]]:
    """The same for XMem."""
    config = {
        "mem_every": options.memory_every,
        "deep_update_every": -1,
        "enable_long_term": bool(options.long_term),
        "enable_long_term_count_usage": True,
        "max_mid_term_frames": options.working_frames,
        "min_mid_term_frames": options.kept_frames,
        "num_prototypes": options.prototypes,
        "max_long_term_elements": options.long_tokens,
        "top_k": options.top_k,
    }
    with imported(checkout, "model.resnet"):
        from inference.inference_core import (  # pyright: ignore[reportMissingImports]
            InferenceCore,
        )
        from model.network import XMem as Network  # pyright: ignore[reportMissingImports]

        network = randomised(Network(config), KEY_SCALES[XMEM.name])
    if state is not None:
        network.load_state_dict(state)
    core = InferenceCore(network, config)
    known: list[int] = []

    def step(frame: NDArray[np.uint8], masks: dict[int, NDArray[np.bool_]]) -> Tensor:
        image = normalise(torch.from_numpy(frame)[None])[0]
        if not masks:
            return core.step(image)
        known.extend(one for one in masks if one not in known)
        core.set_all_labels(list(range(1, len(known) + 1)))
        given = torch.zeros(len(known), *frame.shape[:2])
        for object_id, mask in masks.items():
            given[known.index(object_id)] = torch.from_numpy(mask)
        return core.step(image, given, [known.index(one) + 1 for one in masks])

    return step, dict(network.state_dict())


def ours(
    name: str, state: dict[str, Tensor], options: MatchingOptions
) -> tuple[Step, MatchingSession]:
    """Our session with a release's weights, read by our key table."""
    config = MATCHERS[name]
    network = build_matcher(config).eval()
    read = {key: x for key, x in state.items() if not key.endswith(COMPUTED)}
    network.load_state_dict(NETWORKS[config.kind][1].to_ours(read))
    session = MatchingSession(network, options)

    def step(frame: NDArray[np.uint8], masks: dict[int, NDArray[np.bool_]]) -> Tensor:
        for object_id, mask in masks.items():
            session.prompt(object_id=object_id, mask=mask)
        session.step(frame)
        assert session._last is not None
        size = frame.shape[0], frame.shape[1]
        return session._at_video_size(session._last.probabilities, size)

    return step, session


def clip(frames: int, height: int, width: int, later: int | None) -> Clip:
    """Squares that move over noise: objects 1 and 2 from the first frame on, 3 later."""
    rng = np.random.default_rng(0)
    background = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    made: Clip = []
    for t in range(frames):
        frame, masks = background.copy(), {}
        for object_id, (y, x, speed) in enumerate(PATHS, 1):
            mask = np.zeros((height, width), bool)
            top, left = int(y * height), int(x * width) + speed * t
            mask[top : top + height // 4, max(left, 0) : left + width // 5] = True
            frame[mask] = (60 * object_id, 200 - 50 * object_id, 90)
            masks[object_id] = mask
        first = {0: (1, 2), later: (3,)}.get(t, ())
        made.append((frame, {one: masks[one] for one in first}))
    return made


def compare(one: Step, other: Step, video: Clip) -> dict[str, Any]:
    """Largest difference of probabilities over all frames, and how many pixels change hands."""
    difference, changed, areas = 0.0, 0, []
    for frame, masks in video:
        found, expected = one(frame, masks), other(frame, masks)
        difference = max(difference, float((found - expected).abs().max()))
        changed += int((found.argmax(0) != expected.argmax(0)).sum())
        areas.append((expected.argmax(0) > 0).float().mean())
        assert expected.isfinite().all(), "the release has diverged"
    return {
        "frames": len(video),
        "largest_difference": difference,
        "pixels_that_change_hands": changed,
        "mean_foreground": round(float(torch.stack(areas).mean()), 3),
    }


def times(one: Step, other: Step, video: Clip, fill: int) -> dict[str, float]:
    """Median milliseconds of a frame, both in turns, after the first ones."""
    rows = []
    for frame, masks in video:
        row = []
        for step in (one, other):
            started = time.perf_counter()
            step(frame, masks)
            row.append(1000 * (time.perf_counter() - started))
        rows.append(row)
    ours_ms, release_ms = np.median(np.array(rows[fill:]), axis=0)
    ratios = [release / own for own, release in rows[fill:]]
    return {
        "frame_ms": round(float(ours_ms), 1),
        "release_frame_ms": round(float(release_ms), 1),
        "times_as_fast": round(float(np.median(ratios)), 2),
    }


def measure(name: str, checkout: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Parity with and without long-term memory, then time and memory."""

    def pair(options: MatchingOptions) -> tuple[Step, Step, MatchingSession]:
        torch.manual_seed(0)
        if MATCHERS[name].kind == CUTIE.kind:
            release, state = release_of_cutie(checkout, name, options, None)
        else:
            release, state = release_of_xmem(checkout, options, None)
        step, session = ours(name, state, options)
        return step, release, session

    height, width, frames = arguments.height, arguments.width, arguments.frames
    cutie = MATCHERS[name].kind == CUTIE.kind
    often = {"memory_every": 2, "prototypes": 16, "long_tokens": 90, "working_frames": 6}
    long = MatchingOptions(**often, long_term=True, kept_frames=3, spare_tokens=20 if cutie else 0)
    report: dict[str, Any] = {"parameters_millions": None}
    kinds = {"long_term": (long, None)}
    if cutie:  # XMem keeps everything without it, and ours stays bounded
        kinds["later_object"] = (long, 5)
        kinds["short_term"] = (MatchingOptions(memory_every=2, long_term=False), 5)
    else:
        unlimited = MatchingOptions(memory_every=2, long_term=True, working_frames=99)
        kinds["later_object"] = (unlimited, 5)
    for kind, (options, later) in kinds.items():
        step, release, session = pair(options)
        count = sum(p.numel() for p in session.network.parameters())
        report["parameters_millions"] = round(count / 1e6, 1)
        report[kind] = compare(step, release, clip(frames, height, width, later))
        print(name, kind, report[kind], flush=True)
    defaults = MatchingOptions(long_term=session.network.long_term)
    step, release, session = pair(defaults)
    video = clip(arguments.timed, arguments.timed_height, arguments.timed_width, None)
    report["time"] = times(step, release, video, arguments.timed // 2)
    report["time"]["memory_bytes"] = session.memory_bytes()
    print(name, report["time"], flush=True)
    return report


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--cutie", type=Path, help="checkout of hkchengrex/Cutie")
    arguments.add_argument("--xmem", type=Path, help="checkout of hkchengrex/XMem")
    arguments.add_argument("--models", default=",".join(MATCHERS))
    arguments.add_argument("--frames", type=int, default=60)
    arguments.add_argument("--height", type=int, default=100)
    arguments.add_argument("--width", type=int, default=150)
    arguments.add_argument("--timed", type=int, default=20, help="frames that are timed")
    arguments.add_argument("--timed-height", type=int, default=480)
    arguments.add_argument("--timed-width", type=int, default=854)
    given = arguments.parse_args()
    warnings.filterwarnings("ignore")
    report = {}
    with torch.inference_mode():
        for name in given.models.split(","):
            checkout = given.xmem if name == XMEM.name else given.cutie
            if checkout is not None:
                report[name] = measure(name, checkout, given)
    finish(report, given.out)


if __name__ == "__main__":
    main()
