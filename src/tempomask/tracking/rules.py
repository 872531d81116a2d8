"""What a rule of memories is: which of them a frame attends to, and what it does with its masks.

`selection.py`, `samurai.py`, `distractors.py` and `pathways.py` have the rules themselves; here
they meet the network's masks. N objects, M masks that compete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch.nn import functional as F

from tempomask.errors import InputError
from tempomask.models.config import SegmenterConfig
from tempomask.models.segmenter import Decoded
from tempomask.ops.boxes import mask_extents
from tempomask.ops.resumable import Resumable
from tempomask.ops.transfer import to_device
from tempomask.tracking.distractors import DistractorMemories, is_anchor, is_reliable
from tempomask.tracking.options import SamuraiConfig, TrackingOptions
from tempomask.tracking.pathways import PathwayMemories, kept_pathways
from tempomask.tracking.samurai import Choice, MotionAwareMemories, MotionChooser
from tempomask.tracking.selection import MemorySelector, RecentMemories
from tempomask.tracking.state import Output, Request, stacked_scores


class MaskRule(Resumable):
    """What a rule does with masks; this one leaves them as the network chose them (SAM 2).

    Attributes:
        presence_threshold: An object is absent unless its score is above this.
        multimask: Three masks compete on frames without a prompt, whatever the model's own rule.
    """

    presence_threshold: float = 0.0
    multimask: bool = False

    def judge(
        self, decoded: Decoded, members: Sequence[Request]
    ) -> tuple[Decoded, Sequence[Choice | None]]:
        """Look at the masks of N requests; what is returned may have several rows for each."""
        return decoded, [None] * len(members)

    def settle(self, found: Mapping[int, Sequence[Output]]) -> dict[int, Output]:
        """The result of each object, from all that were found of it on a frame."""
        return {object_id: outputs[0] for object_id, outputs in found.items()}


class MotionRule(MaskRule):
    """SAMURAI: motion chooses among the masks."""

    state_types: ClassVar = {"chooser": Resumable}

    def __init__(self, config: SamuraiConfig) -> None:
        self.chooser = MotionChooser(config)
        self.presence_threshold, self.multimask = config.presence_threshold, config.multimask

    def judge(
        self, decoded: Decoded, members: Sequence[Request]
    ) -> tuple[Decoded, Sequence[Choice | None]]:
        """Boxes are measured at the network's resolution, four times that of the logits."""
        height, width = decoded.all_logits.shape[-2:]
        size = (4 * height, 4 * width)
        masks = F.interpolate(decoded.all_logits, size, mode="bilinear", align_corners=False) > 0
        extents = mask_extents(masks).float()
        # (N, M, 5), in one transfer from the device.
        table = torch.cat([extents, decoded.all_iou[..., None].float()], dim=-1).tolist()
        choices = self.chooser.choose(
            [request.motion for request in members],
            [[tuple(row[:4]) for row in rows] for rows in table],
            [[row[4] for row in rows] for rows in table],
        )
        best = to_device([choice.mask for choice in choices], masks.device)
        rows = torch.arange(len(choices), device=masks.device)
        chosen = decoded._replace(
            logits=decoded.all_logits[rows, best][:, None],
            predicted_iou=decoded.all_iou[rows, best],
            object_pointer=decoded.all_pointers[rows, best],
        )
        return chosen, choices


class DistractorRule(MaskRule):
    """DAM4SAM: the masks that were not chosen tell whether there is a look-alike."""

    def judge(
        self, decoded: Decoded, members: Sequence[Request]
    ) -> tuple[Decoded, Sequence[Choice | None]]:
        chosen = decoded.logits[:, 0] > 0
        areas = chosen.sum(dim=(1, 2)).float()
        choices = []
        table = torch.stack([areas, decoded.predicted_iou.float()], dim=1).tolist()
        for row, (request, (area, iou)) in enumerate(zip(members, table, strict=True)):
            anchor = False
            before = [] if request.selection is None else request.selection.nearest_first
            if request.clicks is None and is_reliable(before, area, iou):
                others = decoded.proposed[row, 1:] > 0
                anchor = is_anchor(chosen[row].cpu().numpy(), others.cpu().numpy())
            choices.append(Choice(0, area=area, anchor=anchor))
        return decoded, choices


class PathwayRule(MaskRule):
    """SAM2Long: every mask of every pathway goes on, and the best are kept.

    Args:
        paths: How many are kept.
    """

    multimask = True

    def __init__(self, paths: int) -> None:
        self.paths = paths

    def judge(
        self, decoded: Decoded, members: Sequence[Request]
    ) -> tuple[Decoded, Sequence[Choice | None]]:
        """N requests with M masks become N M rows."""
        if members[0].clicks is not None:
            return super().judge(decoded, members)
        masks = decoded.all_iou.shape[1]
        flat = decoded._replace(
            logits=decoded.all_logits.flatten(0, 1)[:, None],
            predicted_iou=decoded.all_iou.flatten(),
            object_pointer=decoded.all_pointers.flatten(0, 1),
            object_score=decoded.object_score.repeat_interleave(masks),
        )
        return flat, [Choice(mask) for _ in members for mask in range(masks)]

    def settle(self, found: Mapping[int, Sequence[Output]]) -> dict[int, Output]:
        outputs = [output for rows in found.values() for output in rows]
        scores = iter(stacked_scores(outputs).T.tolist())
        settled = {}
        for object_id, rows in found.items():
            present, ious = zip(*(next(scores) for _ in rows), strict=True)
            before = [output.path_score for output in rows]
            kept = kept_pathways(before, ious, present, self.paths)
            best, *rivals = (replace(rows[i], path_score=score) for i, score in kept)
            settled[object_id] = replace(best, rivals=tuple(rivals)) if rivals else best
        return settled


def memory_rule(
    options: TrackingOptions, config: SegmenterConfig, num_frames: int | None, reverse: bool
) -> tuple[MemorySelector, MaskRule]:
    """The memories that a network attends to by options.memory, and what becomes of its masks."""
    recent = RecentMemories(
        memory_frames=config.memory_frames,
        max_pointers=config.max_pointers,
        stride=options.memory_stride,
        max_conditioning_frames=options.max_conditioning_frames,
        num_frames=num_frames,
    )
    if options.memory == "dam4sam":
        return DistractorMemories(recent), DistractorRule()
    if options.memory == "sam2long":
        return PathwayMemories(recent), PathwayRule(options.memory_paths)
    samurai = options.samurai_constants(config.name)
    if samurai is None:
        return recent, MaskRule()
    if samurai.official_quirks and reverse:
        raise InputError('memory="samurai-official" tracks forward only; use memory="samurai"')
    return MotionAwareMemories(recent, samurai), MotionRule(samurai)
