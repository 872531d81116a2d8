"""Objects through memory attention, mask decoder and memory encoder in batches, never padded.

Objects whose memories have the same layout attend together; objects with the same number of points
decode together. C hidden_dim, h x w the stride-16 grid, S the network's image side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.errors import InputError
from tempomask.models.segmenter import (
    MASK_PROMPT_BIAS,
    MASK_PROMPT_SCALE,
    Decoded,
    Encoded,
    MemoryInputs,
    Segmenter,
)
from tempomask.ops.boxes import mask_extents
from tempomask.ops.transfer import to_device
from tempomask.tracking.cleanup import fill_holes, without_overlap
from tempomask.tracking.objects import Clicks, Output
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.samurai import Choice, Motion, MotionChooser
from tempomask.tracking.selection import Selection
from tempomask.tracking.static_memory import is_lone, static_inputs

# Logits fed back with a further prompt are held within these bounds, as the official code does.
FED_BACK_LOGIT = 32.0

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Request:
    """One object to be segmented on one frame.

    selection: its memories; None on an initial conditioning frame and for mask prompts.
    initial: whether this is an initial conditioning frame. clicks: all so far on this frame.
    previous: (4h, 4w) logits so far on this frame. mask: (S, S) mask prompt, in place of all these.
    motion: of the object up to the frame before, for a choice by motion.
    """

    initial: bool = False
    selection: Selection | None = None
    clicks: Clicks | None = None
    previous: Tensor | None = None
    mask: Tensor | None = None
    motion: Motion | None = None

    @property
    def num_points(self) -> int:
        return 0 if self.clicks is None else len(self.clicks.labels)


class ObjectBatcher:
    """Runs the network for several objects on one frame.

    chooser: lets motion choose among the masks that compete; None leaves that to the network.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        options: TrackingOptions,
        chooser: MotionChooser | None = None,
    ) -> None:
        self.segmenter = segmenter
        self.config = segmenter.config
        self.options = options
        self.chooser = chooser
        self.presence_threshold = 0.0 if chooser is None else chooser.config.presence_threshold
        attention = segmenter.memory_attention
        compiled = getattr(segmenter, "compiled", False)
        self.static = compiled if options.static_memory is None else options.static_memory
        if self.static and not getattr(attention, "takes_absent", False):
            raise InputError(
                'static_memory needs the fast engine; load the model with engine="fast"'
            )

    def segment(
        self, encoded: Encoded, requests: Sequence[Request], images: Mapping[int, Tensor]
    ) -> list[Output]:
        """Outputs of the requests, in their order.

        images: raw features (C, h, w) by frame; needed when the network's memory keys see them.
        """
        rows: dict[int, Output] = {}
        conditioned = self._attend(encoded, requests, images)
        for group in self._groups(requests, self._decode_layout):
            members = [requests[i] for i in group]
            choices: Sequence[Choice | None] = [None] * len(group)
            if members[0].mask is not None:
                decoded = self._use_masks(encoded, members)
            else:
                features = torch.cat([conditioned[i] for i in group])
                multimask = self._several_masks(members[0])
                decoded = self._decode(features, encoded, members, multimask)
                if self.chooser is not None and (multimask or members[0].clicks is None):
                    decoded, choices = self._choose(self.chooser, decoded, members)
            rows.update(zip(group, self._outputs(decoded, members, choices), strict=True))
        return [rows[i] for i in range(len(requests))]

    def _groups(
        self, items: Sequence[T], layout: Callable[[T], Hashable | None]
    ) -> Iterator[list[int]]:
        """Indices of items with equal layout, objects_per_batch at a time; None is left out."""
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for i, item in enumerate(items):
            key = layout(item)
            if key is not None:
                groups[key].append(i)
        for group in groups.values():
            step = self.options.objects_per_batch or len(group)
            for start in range(0, len(group), step):
                yield group[start : start + step]

    def _decode_layout(self, request: Request) -> Hashable:
        return request.mask is not None, request.num_points, request.previous is not None

    def _memory_layout(self, request: Request) -> Hashable | None:
        """Equal for requests that can attend together; None for mask prompts, which do not."""
        if request.mask is not None:
            return None
        if request.selection is None:
            return "initial"
        if self.static:
            return "lone" if is_lone(request.selection, self.config) else "several"
        return request.selection.temporal_index, len(request.selection.distances)

    def _attend(
        self, encoded: Encoded, requests: Sequence[Request], images: Mapping[int, Tensor]
    ) -> dict[int, Tensor]:
        """Conditioned features (1, C, h, w) by request."""
        conditioned: dict[int, Tensor] = {}
        for group in self._groups(requests, self._memory_layout):
            selections = [s for i in group if (s := requests[i].selection) is not None]
            memory = self._memory_inputs(selections, images, encoded) if selections else None
            features = self.segmenter.attend(encoded.features, memory).expand(
                len(group), -1, -1, -1
            )
            conditioned.update(zip(group, features.split(1), strict=True))
        return conditioned

    def _memory_inputs(
        self, selections: Sequence[Selection], images: Mapping[int, Tensor], encoded: Encoded
    ) -> MemoryInputs:
        """The memories of objects with one layout; what they share is given once."""
        if self.static:
            return static_inputs(selections, images, encoded.features, self.config)
        dtype, device = encoded.features.dtype, encoded.features.device
        no_pointers = encoded.features.new_zeros(0, self.config.hidden_dim)
        # (N, T, memory_dim, h, w)
        spatial = torch.stack(
            [
                torch.stack([m.features for m in s.spatial if m.features is not None])
                for s in selections
            ]
        )
        pointers = torch.stack(
            [
                torch.stack([m.pointer for m in s.pointers]) if s.pointers else no_pointers
                for s in selections
            ]
        )
        distances = to_device(_shared([s.distances for s in selections]), device)
        remembered = None
        if self.config.memory_attention.image_keys:
            frames = _shared([tuple(m.frame for m in s.spatial) for s in selections])
            # (1 or N, T, C, h, w)
            remembered = torch.stack([torch.stack([images[t] for t in row]) for row in frames])
            remembered = remembered.to(dtype)
        return MemoryInputs(
            spatial=spatial.to(dtype),
            images=remembered,
            temporal_index=to_device(np.array(selections[0].temporal_index, dtype=int), device),
            pointers=pointers,
            pointer_distance=distances[0] if len(distances) == 1 else distances,
        )

    def _several_masks(self, request: Request) -> bool:
        """Whether masks compete for this object on this frame."""
        if self.chooser is not None and request.clicks is None and self.chooser.config.multimask:
            return True
        least, most = self.config.multimask_min_points, self.config.multimask_max_points
        return least <= request.num_points <= most

    def _decode(
        self, features: Tensor, encoded: Encoded, members: Sequence[Request], multimask: bool
    ) -> Decoded:
        points = labels = previous = None
        clicks = [r.clicks for r in members if r.clicks is not None]
        if clicks:
            points = to_device(np.stack([c.points for c in clicks]), features.device)
            labels = to_device(np.stack([c.labels for c in clicks]), features.device)
        fed_back = [r.previous for r in members if r.previous is not None]
        if fed_back:
            previous = torch.stack(fed_back)[:, None].clamp(-FED_BACK_LOGIT, FED_BACK_LOGIT)
        return self.segmenter.decode(
            features,
            encoded.high_resolution,
            points,
            labels,
            previous,
            multimask=multimask,
            dynamic_multimask=self.options.dynamic_multimask,
            presence_threshold=self.presence_threshold,
        )

    def _choose(
        self, chooser: MotionChooser, decoded: Decoded, members: Sequence[Request]
    ) -> tuple[Decoded, list[Choice]]:
        """Let motion choose: boxes are measured at the network's resolution (N, M, S, S)."""
        size = (self.config.image_size, self.config.image_size)
        masks = F.interpolate(decoded.all_logits, size=size, mode="bilinear", align_corners=False)
        extents = mask_extents(masks > 0).float()
        # (N, M, 5), in one transfer from the device.
        table = torch.cat([extents, decoded.all_iou[..., None].float()], dim=-1).tolist()
        choices = chooser.choose(
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

    def _use_masks(self, encoded: Encoded, members: Sequence[Request]) -> Decoded:
        masks = torch.stack([r.mask for r in members if r.mask is not None])[:, None]
        return self.segmenter.use_mask_as_output(
            encoded,
            masks,
            multimask=self.options.multimask_mask_pointer,
            presence_threshold=self.presence_threshold,
        )

    def _outputs(
        self, decoded: Decoded, members: Sequence[Request], choices: Sequence[Choice | None]
    ) -> Iterator[Output]:
        logits = shown = decoded.logits[:, 0].float()
        if self.options.fill_holes:
            shown = fill_holes(logits, self.options.fill_holes)
        for row, (request, choice) in enumerate(zip(members, choices, strict=True)):
            prompted = request.mask is not None or request.clicks is not None
            yield Output(
                # As in the official predictor, what a person has seen is what is memorised.
                logits=shown[row] if prompted else logits[row],
                shown=shown[row],
                object_score=decoded.object_score[row].float(),
                predicted_iou=decoded.predicted_iou[row].float(),
                pointer=decoded.object_pointer[row].clone(),
                full_mask=request.mask if self.options.memory_from_full_mask else None,
                prompted=prompted,
                initial=request.initial,
                motion=None if choice is None else choice.motion,
                motion_score=None if choice is None else choice.score,
            )

    def encode_memory(self, features: Tensor, outputs: Sequence[Output]) -> list[Tensor]:
        """Memories (memory_dim, h, w) of the outputs on a frame of raw features (1, C, h, w)."""
        memories: dict[int, Tensor] = {}
        dtype = getattr(torch, self.options.memory_dtype)
        logits = self._memory_logits(outputs)
        prompted = [output.prompted for output in outputs]
        harden = self.options.binarise_prompted_masks
        if harden == "frame":
            prompted = [any(prompted)] * len(outputs)
        layouts = [
            (tuple(logit.shape), bool(harden) and p)
            for logit, p in zip(logits, prompted, strict=True)
        ]
        for group in self._groups(layouts, lambda layout: layout):
            memory = self.segmenter.encode_memory(
                features,
                torch.stack([logits[i] for i in group])[:, None],
                torch.stack([outputs[i].object_score for i in group]),
                binarise=layouts[group[0]][1],
            )
            # Copies, so that no long-lived memory holds on to those of the other objects.
            rows = [row.to(dtype, copy=True) for row in memory]
            memories.update(zip(group, rows, strict=True))
        return [memories[i] for i in range(len(outputs))]

    def _memory_logits(self, outputs: Sequence[Output]) -> list[Tensor]:
        """What the memory encoder sees of each output: (4h, 4w), or (S, S) if asked for."""
        logits = [
            output.logits
            if output.full_mask is None
            else output.full_mask * MASK_PROMPT_SCALE + MASK_PROMPT_BIAS
            for output in outputs
        ]
        if not self.options.non_overlapping_memory:
            return logits
        size = (self.config.image_size, self.config.image_size)
        full = [
            F.interpolate(logit[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
            for logit in logits
        ]
        return list(without_overlap(torch.stack(full)))


def _shared(rows: list[tuple[T, ...]]) -> list[tuple[T, ...]]:
    """One row if all are equal, else all of them."""
    return rows[:1] if all(row == rows[0] for row in rows) else rows
