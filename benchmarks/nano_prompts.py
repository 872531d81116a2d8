"""Do nano's clicks and boxes choose? The numbers of the second training stage in docs/nano.md.

    python benchmarks/nano_prompts.py --data DATA --out nano_prompts.json
    python benchmarks/nano_prompts.py --data DATA --checkpoint run/model.safetensors

DATA holds `davis16-train-256`, as for `tempomask train nano`. On the four sequences that training
holds out: the IoU of one click and of one box on composed images with several objects, by the
function that training validates with; J of tracking from a mask, a box and a click; what attention
scores say about the place that is clicked; and how well the frozen features alone would find it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tempomask import Model, load
from tempomask.data.scenes import SceneBatch, collate_scenes, validation_scenes
from tempomask.evaluation.prompts import PromptKind, first_frame_prompts
from tempomask.files import write_json
from tempomask.models.prompt_encoder import POSITIVE
from tempomask.models.segmenter import Segmenter
from tempomask.ops.normalise import normalise
from tempomask.training.loop import davis_folder
from tempomask.training.prompting import PromptRecipe
from tempomask.training.prompts import click
from tempomask.training.unroll import encoded_per_object
from tempomask.training.validation import validate_prompts
from tempomask.weights import load_segmenter

KINDS: tuple[PromptKind, ...] = ("mask", "box", "click")
BATCH = 8
# What a place loses for its distance to the click, at one side of the image, in cosines.
DISTANCE_WEIGHT = 1.0
THRESHOLDS = 64


def tracking(model: Model, root: Path, names: tuple[str, ...], frames: int) -> dict[str, Any]:
    """Mean J in percent over the frames after the first, by kind of prompt and by sequence."""
    scores: dict[str, Any] = {}
    for kind in KINDS:
        rows = {}
        for name in names:
            images = sorted((root / "JPEGImages" / name).glob("*.jpg"))[:frames]
            labels = [root / "Annotations" / name / f"{path.stem}.png" for path in images]
            masks = [np.asarray(Image.open(path)) > 0 for path in labels]
            prompts = first_frame_prompts(masks[0].astype(np.uint8), (1,), kind, 0)
            video = (np.array(Image.open(path).convert("RGB")) for path in images)
            found = [result.masks[0] for result in model.track(video, prompts)]
            pairs = list(zip(found, masks, strict=True))[1:]
            ious = [(a & b).sum() / max(1, (a | b).sum()) for a, b in pairs]
            rows[name] = round(100 * float(np.mean(ious)), 1)
        scores[kind] = {"J": round(float(np.mean(list(rows.values()))), 1), "sequences": rows}
        print(kind, scores[kind], flush=True)
    return scores


@torch.no_grad()
def position_scores(segmenter: Segmenter) -> dict[str, float]:
    """What the decoder's attention from a click's token makes of the position of the click.

    clicked: score of the clicked place less the mean over all places; deviation: of the scores over
    all places. Of positions alone, for a click on every place, over all heads and layers.
    """
    side = segmenter.config.image_size // 16
    encoder, transformer = segmenter.prompt_encoder, segmenter.mask_decoder.transformer
    places = encoder.grid_position(side, side)[0].flatten(1).T
    tokens = places + encoder.point_embeddings[POSITIVE]
    clicked, deviation = [], []
    for layer in (
        *(block.token_to_image for block in transformer.blocks),
        transformer.final_attention,
    ):
        query, key = (
            part(x).unflatten(1, (layer.num_heads, -1)).transpose(0, 1)
            for part, x in ((layer.query, tokens), (layer.key, places))
        )
        scores = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
        clicked.append((scores.diagonal(dim1=1, dim2=2) - scores.mean(dim=2)).mean())
        deviation.append(scores.std(dim=2).mean())
    return {
        "clicked": round(torch.stack(clicked).mean().item(), 3),
        "deviation": round(torch.stack(deviation).mean().item(), 3),
    }


@torch.no_grad()
def likeness(segmenter: Segmenter, batches: list[SceneBatch]) -> float:
    """Mean IoU of the objects found by the encoder's features alone, at each one's best threshold.

    A place counts by the cosine of its feature with the clicked one's, less its distance.
    """
    generator = torch.Generator().manual_seed(0)
    ious = []
    for batch in batches:
        target = batch.masks.float()
        encoded = encoded_per_object(segmenter.encode(normalise(batch.frames)), batch.scene)
        points, _ = click(target, None, generator)
        score = _clicked_likeness(F.normalize(encoded.features, dim=1), points, target.shape[-1])
        score = F.interpolate(score[:, None], size=target.shape[-2:], mode="bilinear")[:, 0]
        ious.append(_best_iou(score, target > 0.5))
    return round(100 * torch.cat(ious).mean().item(), 1)


def _clicked_likeness(features: Tensor, points: Tensor, size: int) -> Tensor:
    """(N, h, w) of unit features (N, C, h, w) and clicks (N, 1, 2) in pixels of S."""
    side = features.shape[-1]
    position = (points[:, 0] + 0.5) / size
    clicked = F.grid_sample(
        features, 2 * position[:, None, None] - 1, padding_mode="border", align_corners=False
    )[..., 0, 0]
    alike = torch.einsum("nchw,nc->nhw", features, F.normalize(clicked, dim=1))
    centre = (torch.arange(side) + 0.5) / side
    across = (centre[None, None] - position[:, 0, None, None]).square()
    down = (centre[None, :, None] - position[:, 1, None, None]).square()
    return alike - DISTANCE_WEIGHT * (across + down).sqrt()


def _best_iou(score: Tensor, wanted: Tensor) -> Tensor:
    """(N,): the highest IoU of score (N, S, S) above any threshold with wanted (N, S, S)."""
    low, high = score.amin(dim=(1, 2)), score.amax(dim=(1, 2))
    best = torch.zeros(len(score))
    for step in range(1, THRESHOLDS):
        found = score > (low + (high - low) * step / THRESHOLDS)[:, None, None]
        overlap = (found & wanted).sum(dim=(1, 2))
        best = torch.maximum(best, overlap / (found | wanted).sum(dim=(1, 2)))
    return best


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    recipe = PromptRecipe()
    names = recipe.validation
    scenes = validation_scenes(arguments.data, names, recipe.image_size, arguments.images)
    batches = [
        collate_scenes(scenes[first : first + BATCH]) for first in range(0, len(scenes), BATCH)
    ]
    segmenter = load_segmenter(
        None if arguments.checkpoint else "nano", arguments.checkpoint, recipe.image_size
    ).eval()
    chosen = {k: round(100 * v, 1) for k, v in validate_prompts(segmenter, batches).items()}
    print(chosen, flush=True)
    segmenter.eval()
    report: dict[str, Any] = {
        "checkpoint": arguments.checkpoint.name if arguments.checkpoint else "bundled",
        "images": len(scenes),
        "objects": sum(len(batch.masks) for batch in batches),
        "iou": chosen,
        "position_scores": position_scores(segmenter),
        "likeness_iou": likeness(segmenter, batches),
        "frames": arguments.frames,
        "image_size": arguments.image_size,
    }
    model = load(
        None if arguments.checkpoint else "nano",
        checkpoint=arguments.checkpoint,
        image_size=arguments.image_size,
        device="cpu",
        dtype=arguments.dtype,
    )
    report["dtype"] = str(model.dtype).removeprefix("torch.")
    root = davis_folder(arguments.data)
    return report | {"tracking": tracking(model, root, names, arguments.frames)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, help="other weights than the bundled ones")
    parser.add_argument("--image-size", type=int, default=384, help="of tracking")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report = measure(arguments)
    print(json.dumps(report, indent=2))
    if arguments.out:
        write_json(arguments.out, report)


if __name__ == "__main__":
    main()
