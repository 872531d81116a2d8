"""Validation in the loop, on held-out sequences of the training set.

Tracking: the first mask is given, the score is region J. Prompts: one click or box, the score is
the IoU of the mask it gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tempomask.data.clips import Clip, ClipBatch, collate
from tempomask.data.davis import Davis
from tempomask.data.sequences import MaskSequence
from tempomask.data.stills import held_out_images
from tempomask.errors import InputError
from tempomask.io.images import read_image, read_values
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Segmenter
from tempomask.ops.modes import evaluation_mode
from tempomask.ops.normalise import normalise
from tempomask.tracking.frames import resize_frame
from tempomask.training.losses import mask_iou
from tempomask.training.prompts import box_prompt, click
from tempomask.training.unroll import ClipMemory, encoded_per_object

# Every second frame of the first 48: enough to see drift, few enough to take seconds.
FRAMES, STRIDE = 48, 2
# Share of its image that an object has at least, to be prompted for.
LEAST_AREA = 0.002


class SquareVideo(NamedTuple):
    """Frames of a sequence, squeezed to squares, and the masks of all its objects as one.

    frames (T, S, S, 3) uint8; masks bool (T, S, S).
    """

    frames: Tensor
    masks: Tensor


def load_square(sequence: MaskSequence, side: int, indices: range) -> SquareVideo:
    """The frames and masks of the indices that there are, at least two, squeezed to a square."""
    if len(sequence) < 2:
        raise InputError(f"sequence {sequence.name} has {len(sequence)} frames; it needs two")
    wanted = [i for i in indices if i < len(sequence)]
    wanted = wanted if len(wanted) > 1 else [0, len(sequence) - 1]
    frames, masks = [], []
    for index, image in enumerate(sequence.frames()):
        if index > wanted[-1]:
            break
        if index in wanted:
            frames.append(resize_frame(image, side, "bicubic"))
            masks.append(square((sequence.label_map(index) > 0).astype(np.uint8), side) > 0)
    if not masks[0].any():
        raise InputError(
            f"sequence {sequence.name}: the first annotation is empty; an object must be marked"
        )
    return SquareVideo(torch.from_numpy(np.stack(frames)), torch.from_numpy(np.stack(masks)))


def square(labels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The nearest pixels of a label map (H, W) at (S, S)."""
    return np.asarray(Image.fromarray(labels).resize((side, side), Image.Resampling.NEAREST))


@torch.no_grad()
def track_sequence(
    segmenter: Segmenter,
    frames: Tensor,
    first: Tensor,
    policy: Policy | None = None,
) -> Tensor:
    """Masks bool (T - 1, S, S) of the frames after the first, tracked from its mask (S, S)."""
    memory = ClipMemory()
    masks, previous = [], None
    for index in range(len(frames)):
        frame = segmenter.encode(normalise(frames[index : index + 1]), policy, previous)
        if index == 0:
            decoded = segmenter.use_mask_as_output(frame, first[None, None])
        else:
            inputs = memory.inputs(index, segmenter.config)
            features = segmenter.attend(frame.features, inputs)
            decoded = segmenter.decode(features, frame.high_resolution)
            full = F.interpolate(decoded.logits, size=first.shape, mode="bilinear")
            masks.append(full[0, 0] > 0)
        previous = decoded.logits
        memory.remember(segmenter, frame, decoded)
    return torch.stack(masks)


def validate(segmenter: Segmenter, root: Path, names: Sequence[str]) -> dict[str, float]:
    """Mean J of each held-out sequence, and their mean under "mean"."""
    there = [name for name in names if (root / "JPEGImages" / name).is_dir()]
    scores: dict[str, float] = {}
    for sequence in Davis(root, None, there) if there else ():
        frames, masks = load_square(sequence, segmenter.config.image_size, range(0, FRAMES, STRIDE))
        with evaluation_mode(segmenter):
            predicted = track_sequence(segmenter, frames, masks[0].float())
        scores[sequence.name] = mask_iou(predicted.float(), masks[1:].float()).mean().item()
    return scores | {"mean": float(np.mean(list(scores.values())))} if scores else {}


def held_out_frames(root: Path, image_size: int) -> list[ClipBatch]:
    """Every held-out image of `coco-mini` with all its objects but the smallest, one a batch."""
    batches = []
    for still in held_out_images(root):
        ids = read_values(still.label)
        masks = [ids == number for number in np.setdiff1d(ids, [0])]
        batches.append(single_image(read_image(still.image), masks, image_size))
    return [batch for batch in batches if batch is not None]


def single_image(
    image: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], side: int
) -> ClipBatch | None:
    """A batch of an image (H, W, 3) and its masks (H, W), squeezed; None if all are too small."""
    squeezed = [square(mask.astype(np.uint8), side) for mask in masks]
    shown = [mask for mask in squeezed if mask.mean() > LEAST_AREA]
    if not shown:
        return None
    frame = resize_frame(image, side, "bicubic")
    return collate([Clip(frame[None], np.stack(shown)[:, None], "image")])


@torch.no_grad()
def validate_prompts(segmenter: Segmenter, batches: Sequence[ClipBatch]) -> dict[str, float]:
    """Mean IoU of the masks that one "click", and one exact "box", give for every object.

    batches: single frames, on the segmenter's device. After a click three masks compete, as in use;
    "click/single" is the one that does not compete, "click/oracle" the best of the three. The
    clicks are the same at every call.
    """
    generator = torch.Generator().manual_seed(0)
    ious: dict[str, list[Tensor]] = {}
    with evaluation_mode(segmenter):
        for batch in batches:
            target = batch.masks[:, 0].float()
            encoded = segmenter.encode(normalise(batch.frames[:, 0]))
            objects = encoded_per_object(encoded, batch.clip)
            features = segmenter.attend(objects.features, None)
            prompts = {
                "click": click(target, None, generator),
                "box": box_prompt(target, 0.0, generator),
            }
            for kind, (points, labels) in prompts.items():
                found = segmenter.propose(features, objects.high_resolution, points, labels)
                # The masks themselves are judged, whether or not the object was held to be there.
                full = F.interpolate(found.logits.float(), size=target.shape[-2:], mode="bilinear")
                scores = mask_iou(full, target[:, None].expand_as(full))
                chosen = 1 + found.iou[:, 1:].argmax(dim=1)
                rows = torch.arange(len(scores), device=scores.device)
                best = scores[rows, chosen] if kind == "click" else scores[:, 0]
                ious.setdefault(kind, []).append(best)
                if kind == "click":
                    ious.setdefault("click/single", []).append(scores[:, 0])
                    ious.setdefault("click/oracle", []).append(scores[:, 1:].amax(dim=1))
    return {kind: torch.cat(found).mean().item() for kind, found in ious.items() if found}
