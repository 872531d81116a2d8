"""Time, memory and masks beside transformers' Sam2VideoModel: same weights, same frames, one run.

    python -m benchmarks.speed.against_transformers --data DAVIS --model sam2.1-tiny --out tiny.json
    python -m benchmarks.speed.against_transformers --data DAVIS --model efficienttam-s-2 \
        --sides plain:float32,fast:bfloat16

Weights are random (the released ones give the same times), drawn once and copied through the
converter. Each side runs in a process of its own, so that its peak memory can be told. A frame's
time is taken up to its low-resolution masks, with all memories full: ours from the image at video
size, transformers' from the resized one. `pipeline_share.py` measures decoding and writing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.common import FULL_FROM, autocast, finish, parser, randomised
from benchmarks.official import official_predictor, tracked
from tempomask.devices import DTypeName, resolve_dtype
from tempomask.engine import accelerate
from tempomask.model import Model
from tempomask.models.config import HieraConfig, MemoryForm, segmenter_config
from tempomask.models.encoder import Encoder, always_on_blocks
from tempomask.models.segmenter import Segmenter
from tempomask.routing.budget import block_count
from tempomask.routing.static import StaticPlan
from tempomask.tracking.frames import network_input, resize_frame
from tempomask.tracking.options import TrackingOptions
from tempomask.weights import to_official, to_transformers

# A logit counts as clear of 0 from this share of the logits' standard deviation on.
CLEAR = 0.25


@dataclass(frozen=True)
class Task:
    """What one process runs: a side, its type, and where things lie.

    side: "official", "transformers", or ours as "fast" or "plain" engine. pooled: memories.
    memory_budget: see `Routing`. blocks: share of the encoder's that run. release: a checkout, for
    "official".
    """

    side: str
    dtype: str
    model: str
    sequence: str
    data: Path
    frames: int
    objects: int
    weights: Path
    logits: Path
    pooled: bool = False
    memory_budget: float = 1.0
    blocks: float = 1.0
    release: Path | None = None


# Seconds and low-resolution logits (N, h, w) of each frame.
Steps = Iterator[tuple[float, Tensor]]


def images(task: Task) -> Iterator[NDArray[np.uint8]]:
    """The first frames of the sequence, RGB at their own size."""
    folder = task.data / "JPEGImages" / "480p" / task.sequence
    for path in sorted(folder.glob("*.jpg"))[: task.frames]:
        yield np.array(Image.open(path).convert("RGB"))


def first_masks(task: Task) -> list[NDArray[np.bool_]]:
    """The annotated mask, and for further objects the same mask moved about."""
    path = task.data / "Annotations" / "480p" / task.sequence / "00000.png"
    mask = np.asarray(Image.open(path)) > 0
    height, width = mask.shape
    shifts = [(0, 0)] + [(i * height // 7, i * width // 5) for i in range(1, task.objects)]
    return [np.roll(mask, shift, axis=(0, 1)) for shift in shifts]


def run_ours(task: Task) -> Steps:
    """Ours: seconds and low-resolution logits (N, h, w) of each frame."""
    config = segmenter_config(task.model)
    segmenter = Segmenter(config.with_memory(MemoryForm()) if task.pooled else config)
    segmenter.load_state_dict(torch.load(task.weights, weights_only=True))
    dtype = resolve_dtype(cast(DTypeName, task.dtype), torch.device("cpu"))
    model = Model(segmenter if task.side == "plain" else accelerate(segmenter, dtype), dtype)
    policy = StaticPlan(kept_blocks(segmenter.encoder, task.blocks), segmenter.encoder)
    policy.memory_budget = task.memory_budget
    session = model.session(options=TrackingOptions.transformers(), routing=policy)
    for number, mask in enumerate(first_masks(task), start=1):
        session.prompt(object_id=number, mask=mask)
    for image in images(task):
        started = time.perf_counter()
        result = session.step(image)
        seconds = time.perf_counter() - started
        yield seconds, torch.from_numpy(result.low_res_logits).float()


def kept_blocks(encoder: Encoder, budget: float) -> list[int]:
    """As many blocks as a budget lets run, those that always run first; which does not matter."""
    always = always_on_blocks(encoder)
    others = [index for index in range(encoder.num_blocks) if index not in always]
    return [*always, *others][: block_count(budget, encoder.num_blocks, always)]


def their_model(task: Task) -> Any:
    """transformers' model with the task's weights."""
    import transformers

    config = segmenter_config(task.model)
    encoder = config.encoder
    if not isinstance(encoder, HieraConfig):
        raise SystemExit(f"transformers has no {task.model}; use a SAM 2 model")
    channels = [encoder.embed_dim * 2**i for i in range(4)]
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=encoder.embed_dim,
        num_attention_heads=encoder.num_heads,
        blocks_per_stage=list(encoder.stages),
        embed_dim_per_stage=channels,
        num_attention_heads_per_stage=[encoder.num_heads * 2**i for i in range(4)],
        window_size_per_stage=list(encoder.window_sizes),
        window_positional_embedding_background_size=list(encoder.position_size),
        global_attention_blocks=list(encoder.global_attention_blocks),
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=channels[::-1]
    )
    video = transformers.Sam2VideoConfig(
        vision_config=vision,
        enable_occlusion_spatial_embedding=config.occlusion_embedding,
        enable_temporal_pos_encoding_for_object_pointers=config.pointer_temporal_encoding,
    )
    model = transformers.Sam2VideoModel(video).eval()
    state = to_transformers(torch.load(task.weights, weights_only=True))
    missing, unexpected = model.load_state_dict(state, strict=False)
    unexplained = [k for k in missing if "no_memory_positional" not in k]
    if unexplained or unexpected:
        raise SystemExit(f"weights do not fit transformers: {unexplained[:3]} {unexpected[:3]}")
    return model.to(torch.bfloat16 if task.dtype == "bfloat16" else torch.float32)


def run_transformers(task: Task) -> Steps:
    """Theirs, as `run_ours`."""
    import transformers
    from transformers.models.sam2_video import modeling_sam2_video as modeling

    model = their_model(task)
    dtype = next(model.parameters()).dtype
    frames = list(images(task))
    session = modeling.Sam2VideoInferenceSession(
        video=torch.stack(
            [
                network_input(resize_frame(f, 1024, "bilinear"), torch.device("cpu"))[0]
                for f in frames
            ]
        ),
        video_height=frames[0].shape[0],
        video_width=frames[0].shape[1],
        dtype=dtype,
    )
    processor = object.__new__(transformers.Sam2VideoProcessor)
    processor.target_size, processor.point_pad_value = 1024, -10
    masks = first_masks(task)
    processor.add_inputs_to_inference_session(
        session, frame_idx=0, obj_ids=list(range(1, len(masks) + 1)), input_masks=masks
    )
    for index in range(len(frames)):
        # Not around the yield: another side may take its turn there.
        with torch.inference_mode():
            started = time.perf_counter()
            output = model(session, frame_idx=index)
            seconds = time.perf_counter() - started
            logits = output.pred_masks[:, 0].float().clone()
        yield seconds, logits


def run_official(task: Task) -> Steps:
    """The release's own code, as `run_ours`; its images are resized beforehand."""
    if task.release is None:
        raise SystemExit("the side official needs --release, a checkout of the release")
    weights = to_official(torch.load(task.weights, weights_only=True))
    predictor = official_predictor(task.release, task.model, weights)
    dtype = torch.bfloat16 if task.dtype == "bfloat16" else torch.float32
    source = task.data / "JPEGImages" / "480p" / task.sequence
    with tempfile.TemporaryDirectory() as name:
        for path in sorted(source.glob("*.jpg"))[: task.frames]:
            (Path(name) / path.name).symlink_to(path.resolve())
        frames = tracked(predictor, Path(name), first_masks(task))
        for _ in range(task.frames):
            # Not around the yield: another side may take its turn there.
            with autocast(torch.device("cpu"), dtype):
                started = time.perf_counter()
                logits = next(frames)
                seconds = time.perf_counter() - started
            yield seconds, logits


def steps(task: Task) -> Steps:
    """One side, frame by frame."""
    others = {"official": run_official, "transformers": run_transformers}
    return others.get(task.side, run_ours)(task)


def run(task: Task) -> dict[str, Any]:
    """One side in this process: median seconds a frame with full memory, and peak memory."""
    times, logits = zip(*steps(task), strict=True)
    np.save(task.logits, torch.stack(logits).numpy())
    full = times[FULL_FROM:]
    return {
        "side": task.side,
        "dtype": task.dtype,
        "seconds": round(float(np.median(full)), 4),
        "slowest": round(max(full), 4),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def agreement(ours: Path, theirs: Path) -> dict[str, float]:
    """Share of equal signs among their logits clear of 0, and the IoU of the masks."""
    a, b = np.load(ours)[1:], np.load(theirs)[1:]
    clear = np.abs(b) > CLEAR * b.std()
    either, both = ((a > 0) | (b > 0)).sum(), ((a > 0) & (b > 0)).sum()
    return {
        "same_sign_where_clear": round(float(((a > 0) == (b > 0))[clear].mean()), 5),
        "share_clear": round(float(clear.mean()), 4),
        "mask_iou": round(float(both / max(1, either)), 5),
    }


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """All runs of one model; the others refer to the first."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "weights.pt"
        torch.save(randomised(arguments.model).state_dict(), weights)
        sides = [side.split(":") for side in arguments.sides.split(",")]
        for side, dtype in sides:
            task = Task(
                side,
                dtype,
                arguments.model,
                arguments.sequence,
                arguments.data,
                arguments.frames,
                arguments.objects,
                weights,
                folder / f"{side}-{dtype}.npy",
            )
            # A fresh interpreter, so that neither side inherits memory or threads of the other.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = pool.apply(run, (task,))
            reference = folder / "{}-{}.npy".format(*sides[0])
            if rows:
                row["speedup"] = round(rows[0]["seconds"] / row["seconds"], 2)
                row |= agreement(task.logits, reference)
            rows.append(row)
            print(json.dumps(row), flush=True)
    return {
        "model": arguments.model,
        "objects": arguments.objects,
        "frames": arguments.frames,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": rows,
    }


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--data", type=Path, required=True, help="a folder in the DAVIS layout")
    command.add_argument("--sequence", default="dog")
    command.add_argument("--model", default="sam2.1-tiny")
    command.add_argument("--frames", type=int, default=16)
    command.add_argument("--objects", type=int, default=1)
    command.add_argument(
        "--sides", default="transformers:float32,transformers:bfloat16,fast:float32,fast:bfloat16"
    )
    arguments = command.parse_args()
    report = compare(arguments)
    finish(report, arguments.out)


if __name__ == "__main__":
    main()
