"""Where the time of an instance segmenter goes at true size, and what its fused parts give.

    python -m benchmarks.speed.instances --out docs/results/instances/speed.json
    python -m benchmarks.speed.instances --models dvis-plus-r50-ytvis19 --dtypes float32 ...

Random weights (trained ones give the same times), frames of 480 x 854 pixels at 480 pixels, about
ten instances shown. Shares of backbone, pixel decoder, query decoder and tracker, as the paper's
Figure 1, with all decoder layers, a fixed number, and a router of TAR that runs as many; then what
each fused part gives, as its Table 4. All variants of a model take turns; medians over all frames.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import HEIGHT, WIDTH, Clock, timed_calls
from tempomask.devices import DTypeName, resolve_device, resolve_dtype
from tempomask.files import make_folder, replacing
from tempomask.instances.fast import accelerate_instances
from tempomask.instances.model import InstanceModel
from tempomask.instances.options import PROTOCOL, InstanceOptions
from tempomask.instances.query_routing import (
    RUN,
    FixedLayers,
    QueryRouterConfig,
    TemporalQueryRouter,
)
from tempomask.instances.session import InstanceSession
from tempomask.models.instances.config import InstanceConfig, instance_config
from tempomask.models.instances.deformable_attention import sample_grids
from tempomask.models.instances.pixel_decoder import PixelFeatures
from tempomask.models.instances.query_decoder import Level, QueryDecoder, QueryRouter
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.ops.position import grid_sine

SHORT_SIDE = 480
MODELS = ("minvis-r50-ytvis19", "minvis-swin-large-ytvis19", "dvis-plus-r50-ytvis19")
FEW_LAYERS = 3
SHOWN = 10
PARTS = ("backbone", "pixel decoder", "query decoder", "tracker")
# The paper's Figure 1: MinVIS R50 on an RTX 3090.
PAPER = {"backbone": 0.17, "pixel decoder": 0.28, "query decoder": 0.52, "tracker": 0.03}
MODULE = "tempomask.models.instances"


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Attention with its scores in memory."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return (scores if mask is None else scores + mask).softmax(-1).to(value.dtype) @ value


def plain_levels(self: QueryDecoder, features: PixelFeatures) -> list[Level]:
    """As `QueryDecoder._levels`, with the mask features left as large as they are."""
    levels = []
    for x, embedding in zip(features.levels, self.level_embedding, strict=True):
        height, width = x.shape[-2:]
        value = x.flatten(2).transpose(1, 2) + embedding
        position = grid_sine(height, width, x.shape[1], x.device).flatten(1).T
        masks = (features.mask_features, (height, width))
        levels.append(Level(value + position, value, masks))  # type: ignore[arg-type]
    return levels


def plain_attention_mask(
    self: QueryDecoder, queries: Tensor, masks: tuple[Tensor, tuple[int, int]]
) -> Tensor:
    """As Mask2Former has it: classes and masks of every layer in full, the masks then resized."""
    mask_features, size = masks
    logits = self.predict(queries, mask_features).mask_logits
    small = F.interpolate(logits, size, mode="bilinear").flatten(2)
    blocked = small.sigmoid() < 0.5
    blocked &= ~blocked.all(-1, keepdim=True)
    return torch.zeros_like(small).masked_fill_(blocked, float("-inf"))[:, None]


# What stands in for each fused part.
PLAIN: dict[str, list[tuple[str, Any]]] = {
    "attention": [
        (f"{MODULE}.attention.multi_head_attention", plain_attention),
        (f"{MODULE}.swin.multi_head_attention", plain_attention),
    ],
    "masks": [
        (f"{MODULE}.query_decoder.QueryDecoder._levels", plain_levels),
        (f"{MODULE}.query_decoder.QueryDecoder._attention_mask", plain_attention_mask),
    ],
    "points": [(f"{MODULE}.deformable_attention.sample_rows", sample_grids)],
}


@contextmanager
def without(parts: Sequence[str]) -> Iterator[None]:
    """The networks with some of their fused parts exchanged for plain ones."""
    with ExitStack() as stack:
        for part in parts:
            for name, value in PLAIN[part]:
                stack.enter_context(patch(name, value))
        yield


@dataclass
class Candidate:
    """One variant. plain: parts that are not fused. times: a row a frame, all and each of PARTS."""

    name: str
    model: InstanceModel
    plain: tuple[str, ...] = ()
    times: list[list[float]] = field(default_factory=list)


def forced_router(config: InstanceConfig, count: int) -> TemporalQueryRouter:
    """A router of TAR with random weights whose scores choose the first `count` layers."""
    layers = config.query_decoder.layers
    router = TemporalQueryRouter(QueryRouterConfig(dim=config.hidden_dim, layers=layers)).eval()
    with torch.no_grad():
        for index, module in enumerate(router.routers, router.config.warmup_layers):
            sign = 1.0 if index < count else -1.0
            cast(nn.Linear, module.score).weight.zero_()
            cast(nn.Linear, module.score).bias.fill_(-sign)[RUN] = sign
    return router


def candidates(config: InstanceConfig, device: torch.device, dtype: torch.dtype) -> list[Candidate]:
    """All variants of a model; the first is the whole of it."""
    torch.manual_seed(0)
    plain = InstanceSegmenter(config).eval()
    fast = accelerate_instances(deepcopy(plain), dtype).to(device)
    plain = plain.requires_grad_(False).to(device)
    layers = config.query_decoder.layers

    def of(segmenter: InstanceSegmenter, router: QueryRouter | None = None) -> InstanceModel:
        return InstanceModel(segmenter, router, dtype)

    few = min(FEW_LAYERS, layers - 1)
    routed = forced_router(config, few).to(device)
    everything = tuple(PLAIN)
    return [
        Candidate(f"all {layers} layers", of(fast)),
        Candidate(f"first {few} layers", of(fast, FixedLayers(few, layers))),
        Candidate(f"TAR, {few} layers", of(fast, routed)),
        Candidate("nothing fused", of(plain), everything),
        *(
            Candidate(f"fused {part} alone", of(plain), tuple(p for p in PLAIN if p != part))
            for part in PLAIN
        ),
        Candidate("folded and packed alone", of(fast), everything),
        Candidate("TAR alone", of(plain, routed), everything),
    ]


def time_frames(
    candidate: Candidate, frames: Sequence[NDArray[np.uint8]], options: InstanceOptions
) -> None:
    """Run the frames as one video and note the times of all but the first."""
    model = candidate.model
    network, tracker = model.segmenter.network, model.segmenter.tracker
    clocks = {part: Clock(model.device) for part in PARTS}
    modules = (network.backbone, network.pixel_decoder, network.query_decoder)
    step = tracker.step

    def timed_step(*arguments: Any) -> Any:
        with clocks["tracker"].span():
            return step(*arguments)

    session = InstanceSession(model.segmenter, model.router, options, dtype=model.dtype)
    with ExitStack() as stack:
        stack.enter_context(without(candidate.plain))
        stack.enter_context(patch.object(tracker, "step", timed_step))
        for part, module in zip(PARTS, modules, strict=False):
            stack.enter_context(timed_calls(clocks[part], [module]))
        for index, frame in enumerate(frames):
            started = time.perf_counter()
            session.step(frame)  # its masks come to the host, so that the GPU is done
            seconds = time.perf_counter() - started
            inside = [clocks[part].seconds() for part in PARTS]
            if index:
                candidate.times.append([seconds, *inside])


def shown_options(model: InstanceModel, frame: NDArray[np.uint8]) -> InstanceOptions:
    """Options that show about as many instances as a real video has."""
    session = InstanceSession(model.segmenter, options=PROTOCOL, dtype=model.dtype)
    scores = np.sort(session.step(frame).scores)[::-1]
    return InstanceOptions(min_score=float(scores[min(SHOWN, len(scores)) - 1]))


def row_of(candidate: Candidate, whole: Candidate) -> dict[str, Any]:
    medians = np.median(np.array(candidate.times), axis=0)
    reference = np.median(np.array(whole.times), axis=0)
    frame, *inside = (1000 * medians).tolist()
    parts = dict(zip(PARTS, inside, strict=True))
    return {
        "name": candidate.name,
        "frame_ms": round(frame, 2),
        **{f"{part}_ms": round(value, 2) for part, value in parts.items()},
        # Resizing of images and masks, and the results.
        "rest_ms": round(frame - sum(inside), 2),
        "network_share": {part: round(v / sum(inside), 4) for part, v in parts.items()},
        "frame_to_whole": round(float(medians[0] / reference[0]), 4),
    }


def measure(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    side: int,
    timed: int,
    rounds: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """All variants of one model in one type."""
    config = instance_config(name).with_short_side(side)
    rng = np.random.default_rng(0)
    size = (side, side * WIDTH // HEIGHT, 3)
    frames = [rng.integers(0, 256, size).astype(np.uint8) for _ in range(timed + 1)]
    compared = candidates(config, device, dtype)
    options = shown_options(compared[0].model, frames[0])
    for turn in range(rounds + 1):
        for candidate in compared if turn % 2 else compared[::-1]:
            time_frames(candidate, frames if turn else frames[:2], options)
            if not turn:
                candidate.times.clear()
        say(f"{name}, {dtype}: round {turn} of {rounds}")
    rows = [row_of(candidate, compared[0]) for candidate in compared]
    return {
        "model": name,
        "dtype": str(dtype).removeprefix("torch."),
        "short_side": side,
        "parameters": sum(p.numel() for p in compared[3].model.segmenter.parameters()),
        "rows": rows,
    }


def markdown(report: dict[str, Any]) -> str:
    lines = [
        "# Instance segmentation at true size",
        "",
        "Written by `benchmarks/speed/instances.py`: random weights, medians over"
        f" {report['frames']} frames in {report['rounds']} rounds of all variants in turn, on"
        f" {report['device']}, {report['threads']} threads. Milliseconds; in brackets the share of"
        " backbone, pixel decoder, query decoder and tracker together. The paper's shares, MinVIS"
        f" R50 on an RTX 3090: {', '.join(f'{k} {v:.0%}' for k, v in PAPER.items())}.",
    ]
    for model in report["models"]:
        lines += [
            "",
            f"## {model['model']}, {model['dtype']}, {model['short_side']} pixels",
            "",
            "| variant | frame | of the first | backbone | pixel decoder | query decoder |"
            " tracker | rest |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in model["rows"]:
            shares = [
                f"{row[f'{part}_ms']:.1f} ({row['network_share'][part]:.0%})" for part in PARTS
            ]
            cells = [row["name"], f"{row['frame_ms']:.0f}", f"{row['frame_to_whole']:.2f}"]
            lines.append(f"| {' | '.join([*cells, *shares])} | {row['rest_ms']:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--short-side", type=int, default=SHORT_SIDE)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--timed", type=int, default=3, help="frames a variant and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="JSON; a .md is written beside it")
    given = parser.parse_args()
    place = resolve_device(given.device)
    models = []
    for name in given.models.split(","):
        for dtype in given.dtypes.split(","):
            chosen = resolve_dtype(cast(DTypeName, dtype), place)
            models.append(
                measure(
                    name, place, chosen, given.short_side, given.timed, given.rounds,
                    say=lambda line: print(line, flush=True),
                )
            )  # fmt: skip
    report = {
        "device": torch.cuda.get_device_name() if place.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "frames": given.timed * given.rounds,
        "rounds": given.rounds,
        "models": models,
    }
    make_folder(given.out.parent)
    for path, text in (
        (given.out, json.dumps(report, indent=2)),
        (given.out.with_suffix(".md"), markdown(report)),
    ):
        with replacing(path) as part:
            part.write_text(text + "\n", encoding="utf-8")
    print(markdown(report))


if __name__ == "__main__":
    main()
