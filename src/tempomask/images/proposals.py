"""Which of a click grid's many masks stay: stability, crop edges, duplicates, small regions.

The post-processing of SAM 2's automatic mask generator (`sam2/automatic_mask_generator.py`), on
plain tensors. Boxes are x0, y0, x1, y1 of the first and last pixel.

K masks, H x W the image's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tempomask.frames import Size
from tempomask.images.options import EverythingOptions, Thresholds
from tempomask.ops.boxes import mask_extents
from tempomask.rle import RLE, decode_rle, encode_rle

Box = tuple[int, int, int, int]
# Within so many pixels of a crop's inner edge a mask counts as cut off there.
EDGE = 20
# Pixels of logits that are brought to the image's size at once.
PIXELS_AT_ONCE = 2**24


@dataclass(frozen=True, eq=False)
class Proposals:
    """K masks of an image.

    Attributes:
        encodings: Run lengths, at the image's size.
        boxes: (K, 4), in the image.
        iou: (K,), predicted.
        stability: (K,).
        points: (K, 2), the clicks that they come from.
        crops: (K, 4), the parts of the image that they were found in.
    """

    encodings: list[RLE]
    boxes: Tensor
    iou: Tensor
    stability: Tensor
    points: Tensor
    crops: Tensor

    def chosen(self, rows: Tensor) -> Proposals:
        """Some of them, in this order."""
        encodings = [self.encodings[row] for row in rows.tolist()]
        parts = (self.boxes, self.iou, self.stability, self.points, self.crops)
        return Proposals(encodings, *(part[rows] for part in parts))

    @staticmethod
    def joined(parts: Sequence[Proposals]) -> Proposals:
        """All of several lots, at least one."""
        names = ("boxes", "iou", "stability", "points", "crops")
        tensors = (torch.cat([getattr(part, name) for part in parts]) for name in names)
        return Proposals([rle for part in parts for rle in part.encodings], *tensors)


def crop_boxes(size: Size, options: EverythingOptions) -> list[tuple[Box, int]]:
    """The whole image, and the overlapping crops of each layer, with their layer."""
    height, width = size
    crops = [((0, 0, width, height), 0)]
    for layer in range(1, options.crop_n_layers + 1):
        count = 2**layer
        overlap = int(options.crop_overlap_ratio * min(size) * (2 / count))
        across, down = (ceil((overlap * (count - 1) + side) / count) for side in (width, height))
        for column, row in product(range(count), repeat=2):
            x, y = column * (across - overlap), row * (down - overlap)
            crops.append(((x, y, min(x + across, width), min(y + down, height)), layer))
    return crops


def click_grid(per_side: int, crop: Box) -> Tensor:
    """Clicks (per_side^2, 2) in the middle of the cells of a grid over a crop, in its pixels."""
    middles = (np.arange(per_side) + 0.5) / per_side
    x, y = np.meshgrid(middles * (crop[2] - crop[0]), middles * (crop[3] - crop[1]))
    return torch.from_numpy(np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32))


def kept(
    logits: Tensor,
    iou: Tensor,
    points: Tensor,
    crop: Box,
    size: Size,
    limits: Thresholds,
    mask_threshold: float = 0.0,
) -> Proposals:
    """Those masks of a crop that are good, stable, and not cut off at its inner edges.

    Args:
        logits: (K, 4h, 4w), at the network's resolution, of the crop.
        iou: (K,), predicted.
        points: (K, 2), in pixels of the crop.
        crop: Its place in the image.
        size: (H, W) of the image.
        limits: What they must reach.
        mask_threshold: Logit above which a pixel is in the mask.
    """
    good = (iou > limits.pred_iou).nonzero()[:, 0]
    logits, iou, points = logits[good], iou[good].cpu(), points[good.cpu()]
    area = (crop[2] - crop[0]) * (crop[3] - crop[1])
    step = max(1, PIXELS_AT_ONCE // area)
    lots = [
        _kept_at_full_size(part, crop, size, limits, mask_threshold)
        for part in logits.split(step)
        if len(part)
    ]
    empty = torch.zeros(0)
    rows = torch.cat([lot[0] + step * k for k, lot in enumerate(lots)] or [empty.long()])
    boxes = torch.cat([lot[1] for lot in lots] or [torch.zeros(0, 4, dtype=torch.long)])
    stability = torch.cat([lot[2] for lot in lots] or [empty])
    return Proposals(
        [rle for lot in lots for rle in lot[3]],
        boxes,
        iou[rows],
        stability,
        points[rows] + torch.tensor(crop[:2]),
        torch.tensor(crop).expand(len(rows), 4),
    )


def _kept_at_full_size(
    logits: Tensor, crop: Box, size: Size, limits: Thresholds, threshold: float
) -> tuple[Tensor, Tensor, Tensor, list[RLE]]:
    """Rows that stay, with boxes in the image, stability, and masks."""
    x0, y0, x1, y1 = crop
    full = F.interpolate(
        logits.float()[:, None], (y1 - y0, x1 - x0), mode="bilinear", align_corners=False
    )[:, 0]
    inner = (full > threshold + limits.stability_offset).sum(dim=(1, 2))
    outer = (full > threshold - limits.stability_offset).sum(dim=(1, 2))
    # Nothing over nothing is not a number, and so not stable.
    stability = inner / outer
    if limits.stability_score > 0:
        rows = (stability >= limits.stability_score).nonzero()[:, 0]
    else:
        rows = torch.arange(len(full), device=full.device)
    masks = full[rows] > threshold
    boxes = mask_extents(masks) + masks.new_tensor([x0, y0, x0, y0], dtype=torch.long)
    inside = ~_cut_off(boxes, crop, size)
    rows, boxes, masks = rows[inside], boxes[inside], masks[inside].cpu().numpy()
    encodings = [encode_rle(_uncropped(mask, crop, size)) for mask in masks]
    return rows.cpu(), boxes.cpu(), stability[rows].cpu(), encodings


def _cut_off(boxes: Tensor, crop: Box, size: Size) -> Tensor:
    """Which boxes (K, 4) end near an edge of the crop that is none of the image."""
    near = (boxes - boxes.new_tensor(crop)).abs() <= EDGE
    at_border = (boxes - boxes.new_tensor([0, 0, size[1], size[0]])).abs() <= EDGE
    return (near & ~at_border).any(dim=1)


def _uncropped(mask: NDArray[np.bool_], crop: Box, size: Size) -> NDArray[np.bool_]:
    if mask.shape == size:
        return mask
    whole = np.zeros(size, dtype=bool)
    whole[crop[1] : crop[3], crop[0] : crop[2]] = mask
    return whole


def without_duplicates(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """Non-maximum suppression: rows of the boxes (K, 4) that stay, best score first.

    A box goes if a better one overlaps it by an IoU above `overlap`. Memory grows with K alone.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order].float()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    stays, kept_rows = torch.ones(len(boxes), dtype=torch.bool), []
    for row in range(len(boxes)):
        if not stays[row]:
            continue
        kept_rows.append(row)
        low = torch.maximum(boxes[row, :2], boxes[row + 1 :, :2])
        high = torch.minimum(boxes[row, 2:], boxes[row + 1 :, 2:])
        common = (high - low).clamp(min=0).prod(dim=1)
        # Boxes without any area give no number, which is not an overlap.
        iou = common / (areas[row] + areas[row + 1 :] - common)
        stays[row + 1 :] &= ~(iou > overlap)
    return order[torch.tensor(kept_rows, dtype=torch.long)]


def without_small_regions(found: Proposals, area: int, overlap: float) -> Proposals:
    """Holes and islands of fewer than `area` pixels removed, then duplicates; unchanged ones stay.

    Args:
        found: At the image's size.
        area: In pixels.
        overlap: Same as in `without_duplicates`.
    """
    encodings, boxes, unchanged = [], [], []
    for rle in found.encodings:
        mask, holes = _clean(decode_rle(rle), area, holes=True)
        mask, islands = _clean(mask, area, holes=False)
        changed = holes or islands
        encodings.append(encode_rle(mask) if changed else rle)
        boxes.append(mask_extents(torch.from_numpy(mask)))
        unchanged.append(float(not changed))
    if not encodings:
        return found
    cleaned = replace(found, encodings=encodings, boxes=torch.stack(boxes))
    return cleaned.chosen(without_duplicates(cleaned.boxes, torch.tensor(unchanged), overlap))


def _clean(mask: NDArray[np.bool_], area: int, holes: bool) -> tuple[NDArray[np.bool_], bool]:
    """The mask without its small holes or islands (8-connected), and whether it had any."""
    from scipy import ndimage

    regions = np.zeros(mask.shape, dtype=np.int32)
    ndimage.label(mask ^ holes, structure=np.ones((3, 3)), output=regions)
    areas = np.bincount(regions.ravel())
    small = areas < area
    small[0] = False
    if not small.any():
        return mask, False
    if holes:
        return mask | small[regions], True
    if small[1:].all():  # of nothing but islands the largest stays
        small[1 + int(areas[1:].argmax())] = False
    return mask & ~small[regions], True
