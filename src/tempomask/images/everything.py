"""Everything in an image: masks of a grid of clicks, on the whole image and on crops of it.

SAM 2's automatic mask generator (Segment Anything, arXiv 2304.02643, appendix B). What is kept of
the masks is decided in `proposals.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from tempomask.frames import Size
from tempomask.images.options import EverythingOptions
from tempomask.images.proposals import (
    Box,
    Proposals,
    click_grid,
    crop_boxes,
    kept,
    without_duplicates,
    without_small_regions,
)
from tempomask.images.session import Image, ImageSession, image_sessions, opened_image
from tempomask.io.records import FrameRecord
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Segmenter
from tempomask.rle import run_lengths
from tempomask.tracking.frame_step import FED_BACK_LOGIT

# Called with the clicks that are done, and all there are.
Progress = Callable[[int, int], None]
_NONE = np.zeros((0, 0), np.float32)


@dataclass(frozen=True, eq=False)
class AutomaticMasks(FrameRecord):
    """The masks of everything in an image, ids from 1; they may overlap and contain each other.

    Attributes:
        stability: float32 (N,) in [0, 1], IoU of the mask at a higher and a lower threshold.
        points: float32 (N, 2), the click that found it: x, y in pixels.
        crops: int64 (N, 4), x0, y0, x1, y1 of the part of the image that it was found in.
    """

    stability: NDArray[np.float32] = field(default_factory=lambda: _NONE)
    points: NDArray[np.float32] = field(default_factory=lambda: _NONE)
    crops: NDArray[np.int64] = field(default_factory=lambda: _NONE.astype(np.int64))

    def label_map(self) -> NDArray[np.int32]:
        """int32 (H, W): the id of each pixel, 0 for none; of overlapping masks the smallest."""
        labels = np.zeros(self.size, dtype=np.int32)
        for row in np.argsort(-self.areas, kind="stable"):
            labels[self.masks[row]] = self.ids[row]
        return labels


def everything(
    segmenter: Segmenter,
    image: Image,
    options: EverythingOptions,
    dtype: torch.dtype = torch.float32,
    policy: Policy | None = None,
    progress: Progress = lambda _done, _all: None,
    index: int = 0,
) -> AutomaticMasks:
    """Find everything in an image; memory is bounded by `points_per_batch`.

    Args:
        segmenter: The network.
        image: A path or an (H, W, 3) uint8 RGB array.
        options: Clicks, thresholds and crops.
        dtype: Of the computation, by autocast.
        policy: Which encoder blocks run.
        progress: Told of the clicks that are done.
        index: Of the frame, if it is one.
    """
    frame = opened_image(image)
    size = (frame.shape[0], frame.shape[1])
    crops = crop_boxes(size, options)
    grids = [click_grid(options.points_of_layer(layer), crop) for crop, layer in crops]
    total, done, lots, blocks = sum(map(len, grids)), 0, [], None
    for (crop, _), grid in zip(crops, grids, strict=True):
        part = frame[crop[1] : crop[3], crop[0] : crop[2]]
        session = image_sessions(segmenter, [part], dtype, policy)[0]
        blocks = session.blocks if blocks is None else blocks
        found = []
        for clicks in grid.split(options.points_per_batch):
            found.append(_of_clicks(session, clicks, crop, size, options))
            done += len(clicks)
            progress(done, total)
        lot = Proposals.joined(found)
        lots.append(lot.chosen(without_duplicates(lot.boxes, lot.iou, options.box_nms_thresh)))
    masks = Proposals.joined(lots)
    if len(crops) > 1:
        smaller = 1 / (masks.crops[:, 2:] - masks.crops[:, :2]).prod(dim=1)
        masks = masks.chosen(without_duplicates(masks.boxes, smaller, options.crop_nms_thresh))
    if options.min_mask_region_area:
        overlap = max(options.box_nms_thresh, options.crop_nms_thresh)
        masks = without_small_regions(masks, options.min_mask_region_area, overlap)
    return _result(masks, size, blocks, index)


def _of_clicks(
    session: ImageSession,
    clicks: torch.Tensor,
    crop: Box,
    size: Size,
    options: EverythingOptions,
) -> Proposals:
    """What a batch of clicks (P, 2), in pixels of the crop, finds in it."""
    side = session.segmenter.config.image_size
    points = (clicks / torch.tensor([session.size[1], session.size[0]]) * side)[:, None]
    points = points.to(session.device)
    labels = torch.ones(len(clicks), 1, dtype=torch.long, device=session.device)
    decoded = session.decode(points, labels, multimask=options.multimask_output)
    count = decoded.all_iou.shape[1]
    logits, iou = decoded.all_logits.flatten(0, 1), decoded.all_iou.float().flatten()
    if options.use_m2m:
        fed_back = logits.float().clamp(-FED_BACK_LOGIT, FED_BACK_LOGIT)[:, None]
        rows = torch.arange(len(clicks), device=session.device).repeat_interleave(count)
        batches = zip(rows.split(len(clicks)), fed_back.split(len(clicks)), strict=True)
        again = [session.decode(points[r], labels[r], m, multimask=False) for r, m in batches]
        logits = torch.cat([one.logits[:, 0] for one in again])
        iou = torch.cat([one.predicted_iou.float() for one in again])
    limits = options.thresholds(session.segmenter.name)
    repeated = clicks.repeat_interleave(count, dim=0)
    return kept(logits, iou, repeated, crop, size, limits, options.mask_threshold)


def _result(
    masks: Proposals, size: Size, blocks: NDArray[np.bool_] | None, index: int
) -> AutomaticMasks:
    count = len(masks.encodings)
    boxes = masks.boxes.numpy().astype(np.float32)
    areas = [int(run_lengths(rle)[1::2].sum()) for rle in masks.encodings]
    # Edges, with the last ones past the last pixel; of an empty mask zeros.
    boxes[:, 2:] += np.array(areas, np.int64).reshape(-1, 1) > 0
    return AutomaticMasks(
        index=index,
        size=size,
        ids=tuple(range(1, count + 1)),
        encodings=tuple(masks.encodings),
        boxes=boxes,
        scores=masks.iou.numpy(),
        predicted_iou=masks.iou.numpy(),
        areas=np.array(areas, dtype=np.int64),
        blocks=np.zeros(0, bool) if blocks is None else blocks,
        labels=np.full(count, -1),
        stability=masks.stability.numpy(),
        points=masks.points.numpy(),
        crops=masks.crops.numpy(),
    )
