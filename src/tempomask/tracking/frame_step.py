"""One frame's step for all objects: attend to memories, decode masks, encode memories.

SAM 2's `track_step` (arXiv 2408.00714, section 4). `session.py` says which frame and which prompts
come when; the network is `models/segmenter.py`. Objects whose memories have the same layout attend
together, objects with the same number of points decode together; nothing is padded.

N objects, M masks that compete, C hidden_dim, h x w the stride-16 grid, S the network's image side.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import ClassVar, TypeVar

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
    Segmenter,
)
from tempomask.ops.resumable import Resumable
from tempomask.ops.transfer import to_device
from tempomask.prompts import Prompt
from tempomask.routing.memory import MemoryRouter, together
from tempomask.tracking.cleanup import fill_holes, without_overlap
from tempomask.tracking.doubt import agreement, warn_of_doubt
from tempomask.tracking.memory_inputs import is_lone, memory_inputs, memory_slots
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.rules import MaskRule
from tempomask.tracking.samurai import Choice
from tempomask.tracking.selection import MemorySelector
from tempomask.tracking.state import (
    Clicks,
    Output,
    Request,
    TrackedObject,
    VideoState,
    network_mask,
    stacked_scores,
)

# Logits fed back with a further prompt are held within these bounds, as the official code does.
FED_BACK_LOGIT = 32.0

T = TypeVar("T")


class FrameStep(Resumable):
    """Runs the network for the objects of a video. All state is in the `VideoState` it is given.

    Args:
        segmenter: The network.
        options: How the video is tracked.
        selector: Which memories are attended to.
        masks: What the rule of memories does with the masks that compete.
        memory_budget: Same as in `models.encoder.Policy`.
    """

    state_types: ClassVar = {"masks": Resumable | None}

    def __init__(
        self,
        segmenter: Segmenter,
        options: TrackingOptions,
        selector: MemorySelector,
        masks: MaskRule | None = None,
        memory_budget: float = 1.0,
    ) -> None:
        self.segmenter, self.config, self.options = segmenter, segmenter.config, options
        self.selector, self.masks = selector, masks or MaskRule()
        side = self.config.image_size // 16
        self.router = None if memory_budget == 1 else MemoryRouter(memory_budget, (side, side))
        self.memory_dtype: torch.dtype = getattr(torch, options.memory_dtype)
        wanted = options.static_memory
        self.static = segmenter.compiled if wanted is None else wanted
        if self.static and not segmenter.fast:
            raise InputError('static_memory needs the fast engine; load with engine="fast"')

    def prompt(self, state: VideoState, index: int, prompts: Sequence[Prompt]) -> set[int]:
        """Run prompts on a stored frame, those of one object in turn, those of several together.

        Returns the ids of the prompted objects. An object that is new here was in no earlier mask,
        so that the policy gets none and runs all blocks.
        """
        if any(prompt.object_id not in state.objects for prompt in prompts):
            state.arrived = None
        queues: dict[int, list[Prompt]] = {}
        for prompt in prompts:
            queues.setdefault(prompt.object_id, []).append(prompt)
        while turn := [queue.pop(0) for queue in queues.values() if queue]:
            for prompt in turn:
                state.objects.setdefault(prompt.object_id, TrackedObject(prompt.object_id))
            pairs = [(prompt, state.objects[prompt.object_id]) for prompt in turn]
            # A first click on a frame segments without memories, as in the official code. Clicks
            # off the object would then leave nothing of it, so that it is tracked there first.
            lacking = [o for p, o in pairs if p.is_negative_only and index not in o.outputs]
            self._track(state, index, [o for o in lacking if o.bank.frames()])
            requests = [self._request(state, prompt, tracked) for prompt, tracked in pairs]
            self._segment(state, index, [tracked for _, tracked in pairs], requests)
            warn_of_doubt(turn, [tracked.outputs[index] for _, tracked in pairs])
        return set(queues)

    def track(self, state: VideoState, index: int, prompted: set[int]) -> None:
        """Find every object that was not prompted on this frame, now or in advance."""
        objects = []
        for object_id, tracked in state.objects.items():
            if index in tracked.bank.conditioning and index in tracked.outputs:
                tracked.outputs[index] = replace(tracked.outputs[index], reverse=state.reverse)
            elif object_id not in prompted:
                objects.append(tracked)
        self._track(state, index, objects)

    def remember(self, state: VideoState) -> None:
        """Encode the memories of fresh results; they are staged until tracking goes on."""
        if state.fresh is None:
            return
        (index, ids), state.fresh = state.fresh, None
        objects = [tracked for i, tracked in state.objects.items() if i in ids]
        if not objects:
            return
        outputs = [tracked.outputs[index] for tracked in objects]
        everyone = [one for output in outputs for one in (output, *output.rivals)]
        memories = self.encode_memory(state.frames.encoded(index).features, everyone)
        rows = zip(everyone, memories, self._scores(everyone), strict=True)
        made = iter([output.remembered(index, memory, *scores) for output, memory, scores in rows])
        for tracked, output in zip(objects, outputs, strict=True):
            memory, *rivals = islice(made, 1 + len(output.rivals))
            corrected = output.prompted and self.options.corrections_condition
            staged = replace(memory, rivals=tuple(rivals)) if rivals else memory
            tracked.staged[index] = (staged, output.initial or corrected)

    def _request(self, state: VideoState, prompt: Prompt, tracked: TrackedObject) -> Request:
        """One interaction: the clicks so far on the frame, its logits so far, and the memories."""
        index, side, size = prompt.frame, self.config.image_size, state.frames.size
        output = tracked.outputs.get(index)
        initial = output is None or output.initial
        if prompt.mask is not None:
            tracked.clicks.pop(index, None)
            return Request(initial, mask=network_mask(prompt, side, self.segmenter.device))
        assert size is not None, "the frame is stored"
        clicks = Clicks.of(prompt, size, side).after(tracked.clicks.get(index))
        tracked.clicks[index] = clicks
        if output is None:
            return Request(initial, clicks=clicks)
        selection = None if initial else self.selector.select(tracked.bank, index, output.reverse)
        previous = output.shown if self.options.feed_previous_logits else None
        return Request(initial, selection, clicks, previous)

    def _track(self, state: VideoState, index: int, objects: Sequence[TrackedObject]) -> None:
        """Find objects by their memories alone."""
        requests, known, owners = [], {}, list[TrackedObject]()
        for tracked in objects:
            # A gap in the frames or a turn ends motion, and all pathways but the one shown.
            before = tracked.outputs.get(index + (1 if state.reverse else -1))
            if before is not None and before.reverse != state.reverse:
                before = None
            ends = (None,) if before is None else (before, *before.rivals)
            for path, (bank, end) in enumerate(zip(tracked.banks, ends, strict=False)):
                request = Request(selection=self.selector.select(bank, index, state.reverse))
                if end is not None:
                    known[len(requests)] = end
                    request = replace(
                        request, motion=end.motion, path=path, path_score=end.path_score
                    )
                requests.append(request)
                owners.append(tracked)
        if self.router is not None and known:
            outputs = list(known.values())
            logits = torch.stack([output.logits for output in outputs])
            earlier = [output.focus for output in outputs]
            routed = self.router.route(earlier, logits, *stacked_scores(outputs))
            for row, focus in zip(known, routed, strict=True):
                requests[row] = replace(requests[row], focus=focus)
        self._segment(state, index, owners, requests)

    def _segment(
        self,
        state: VideoState,
        index: int,
        objects: Sequence[TrackedObject],
        requests: Sequence[Request],
    ) -> None:
        """Segment objects on a stored frame and note their results.

        objects: of each request; one with several pathways has one for each.
        """
        if not objects:
            return
        # Frames out of turn (conditioned in advance, corrected later) have no frame before them.
        arrived = state.arrived
        previous = arrived[1] if arrived is not None and arrived[0] == index else None
        encoded = state.frames.encoded(index, previous)
        outputs = self.segment(encoded, requests, state.frames.images)
        found: dict[int, list[Output]] = defaultdict(list)
        for tracked, candidates in zip(objects, outputs, strict=True):
            found[tracked.object_id] += candidates
        for object_id, output in self.masks.settle(found).items():
            state.objects[object_id].outputs[index] = replace(output, reverse=state.reverse)
        fresh, earlier = state.fresh or (index, frozenset())
        state.fresh = fresh, earlier | {tracked.object_id for tracked in objects}

    def segment(
        self, encoded: Encoded, requests: Sequence[Request], images: Mapping[int, Tensor]
    ) -> list[list[Output]]:
        """Outputs of the requests, in their order: one each, unless the rule keeps several.

        images: raw features (C, h, w) by frame; needed when the network's memory keys see them.
        """
        rows: dict[int, list[Output]] = {}
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
                if multimask or members[0].clicks is None:
                    decoded, choices = self.masks.judge(decoded, members)
            each = len(choices) // len(group)
            found = self._outputs(decoded, [m for m in members for _ in range(each)], choices)
            rows.update((i, list(islice(found, each))) for i in group)
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

    def _memory_layout(self, request: Request) -> Hashable | None:
        """Equal for requests that can attend together; None for mask prompts, which do not."""
        if request.mask is not None:
            return None
        if request.selection is None:
            return "initial"
        routed = request.focus is not None and request.focus.routed
        if self.static:
            return is_lone(request.selection, self.config), routed
        return request.selection.temporal_index, len(request.selection.distances), routed

    def _attend(
        self, encoded: Encoded, requests: Sequence[Request], images: Mapping[int, Tensor]
    ) -> dict[int, Tensor]:
        """Conditioned features (1, C, h, w) by request."""
        conditioned: dict[int, Tensor] = {}
        build = memory_slots if self.static else memory_inputs
        for group in self._groups(requests, self._memory_layout):
            selections = [s for i in group if (s := requests[i].selection) is not None]
            memory = None
            if selections:
                memory = build(selections, images, encoded.features, self.config)
                memory = memory._replace(chosen=together([requests[i].focus for i in group]))
            features = self.segmenter.attend(encoded.features, memory)
            features = features.expand(len(group), -1, -1, -1)
            conditioned.update(zip(group, features.split(1), strict=True))
        return conditioned

    def _decode_layout(self, request: Request) -> Hashable:
        return request.mask is not None, request.num_points, request.previous is not None

    def _several_masks(self, request: Request) -> bool:
        """Whether masks compete for this object on this frame."""
        if self.masks.multimask and request.clicks is None:
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
            presence_threshold=self.masks.presence_threshold,
        )

    def _use_masks(self, encoded: Encoded, members: Sequence[Request]) -> Decoded:
        masks = torch.stack([r.mask for r in members if r.mask is not None])[:, None]
        return self.segmenter.use_mask_as_output(
            encoded,
            masks,
            multimask=self.options.multimask_mask_pointer,
            presence_threshold=self.masks.presence_threshold,
        )

    def _outputs(
        self, decoded: Decoded, members: Sequence[Request], choices: Sequence[Choice | None]
    ) -> Iterator[Output]:
        logits = shown = decoded.logits[:, 0].float()
        if self.options.fill_holes:
            shown = fill_holes(logits, self.options.fill_holes)
        for row, (request, choice) in enumerate(zip(members, choices, strict=True)):
            prompted = request.mask is not None or request.clicks is not None
            single = request.num_points == 1 and self.options.warn_of_clicks
            yield Output(
                # As in the official predictor, what a person has seen is what is remembered.
                logits=shown[row] if prompted else logits[row],
                shown=shown[row],
                object_score=decoded.object_score[row].float(),
                predicted_iou=decoded.predicted_iou[row].float(),
                pointer=decoded.object_pointer[row].clone(),
                full_mask=request.mask if self.options.memory_from_full_mask else None,
                prompted=prompted,
                initial=request.initial,
                agreement=agreement(decoded, row) if single else None,
                motion=None if choice is None else choice.motion,
                motion_score=None if choice is None else choice.score,
                area=None if choice is None else choice.area,
                anchor=choice is not None and choice.anchor,
                path=request.path,
                path_score=request.path_score,
                focus=request.focus,
            )

    def _scores(self, outputs: Sequence[Output]) -> list[list[float]]:
        """Object score and predicted IoU of each output, for a selector that reads them."""
        if not self.selector.reads_scores:
            return [[math.nan, math.nan]] * len(outputs)
        return stacked_scores(outputs).T.tolist()

    def encode_memory(self, features: Tensor, outputs: Sequence[Output]) -> list[Tensor]:
        """The memory of each output, on a frame of raw features (1, C, h, w)."""
        memories: dict[int, Tensor] = {}
        logits = self._memory_logits(outputs)
        prompted, harden = [o.prompted for o in outputs], self.options.binarise_prompted_masks
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
            rows = [row.to(self.memory_dtype, copy=True) for row in memory]
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
        size, how = (self.config.image_size,) * 2, "bilinear"
        full = [F.interpolate(x[None, None], size, mode=how, align_corners=False) for x in logits]
        return list(without_overlap(torch.cat(full)[:, 0]))
