"""What a session knows of its video, and what happens on one frame: prompt, track, remember.

`session.py` decides which frame and which prompts come when; this file carries it out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Segmenter
from tempomask.ops.transfer import waits_for_now
from tempomask.prompts import Prompt
from tempomask.results import DeliveredArrays, FrameResult
from tempomask.tracking.batching import ObjectBatcher, Request
from tempomask.tracking.frames import FrameStore
from tempomask.tracking.memory_bank import Memory
from tempomask.tracking.objects import Clicks, Output, TrackedObject, network_mask
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.samurai import Motion, MotionChooser
from tempomask.tracking.selection import MemorySelector, reads_scores


class VideoState:
    """Objects and frames of one video.

    objects: by id, in the order in which they came. reverse: the direction of tracking.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        options: TrackingOptions,
        selector: MemorySelector,
        policy: Policy | None,
        reverse: bool,
        chooser: MotionChooser | None = None,
    ) -> None:
        self.segmenter, self.options, self.reverse = segmenter, options, reverse
        self.objects: dict[int, TrackedObject] = {}
        self.frames = FrameStore(
            segmenter, options.resize, policy, getattr(torch, options.memory_dtype)
        )
        self._selector = selector
        self._batcher = ObjectBatcher(segmenter, options, chooser)
        # Results whose memory is still to be encoded: object ids on one frame.
        self._unmemorised: tuple[int, set[int]] | None = None
        # For the policy: the frame that tracking has come to, and the union (1, 1, h, w) of all
        # objects' masks on the frame before it, see `_before`.
        self._arrived: tuple[int, Tensor | None] | None = None

    def advance(self, index: int | None, following: int) -> None:
        """From frame `index` to the next: its results become memories, its prompts are history."""
        self._memorise()
        self._arrived = (following, self._union(self._before(index, following)))
        for tracked in self.objects.values():
            tracked.merge_staged()
            if index in tracked.outputs:
                tracked.outputs[index] = replace(tracked.outputs[index], initial=False)

    def _before(self, index: int | None, following: int) -> int | None:
        """The frame before `following` in the direction of tracking that has results, if any.

        It need not be `index`, the one last stepped, where tracking went back or turned.
        """
        sign = -1 if self.reverse else 1
        neighbour = following - sign
        if any(neighbour in tracked.outputs for tracked in self.objects.values()):
            return neighbour
        return index if index is not None and sign * index < sign * following else None

    def _union(self, index: int | None) -> Tensor | None:
        """The greatest logit of all objects on a frame (1, 1, h, w); None without a mask."""
        shown = [o.outputs[index].shown for o in self.objects.values() if index in o.outputs]
        if self.frames.policy is None or not shown:
            return None
        return torch.stack(shown).amax(dim=0)[None, None]

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """Put objects and frames back as they were if what is done within fails."""
        objects = {i: tracked.copy() for i, tracked in self.objects.items()}
        frames, arrived, unmemorised = self.frames.copy(), self._arrived, self._unmemorised
        if unmemorised is not None:
            unmemorised = unmemorised[0], set(unmemorised[1])
        try:
            yield
        except BaseException:
            self.objects, self.frames = objects, frames
            self._arrived, self._unmemorised = arrived, unmemorised
            raise

    def focus(self, index: int) -> None:
        """Turn to a frame; first remember another one while its features are at hand."""
        if self._unmemorised is not None and self._unmemorised[0] != index:
            self._memorise()

    def apply(self, index: int, prompts: Sequence[Prompt]) -> set[int]:
        """Run prompts on a stored frame, those of one object in turn, those of several together.

        Returns the ids of the prompted objects. An object that is new here was in no earlier mask,
        so that the policy gets none and runs all blocks.
        """
        if any(prompt.object_id not in self.objects for prompt in prompts):
            self._arrived = None
        queues: dict[int, list[Prompt]] = {}
        for prompt in prompts:
            queues.setdefault(prompt.object_id, []).append(prompt)
        ids = set(queues)
        while turn := [queue.pop(0) for queue in queues.values() if queue]:
            for prompt in turn:
                self.objects.setdefault(prompt.object_id, TrackedObject(prompt.object_id))
            objects = [self.objects[prompt.object_id] for prompt in turn]
            self._find_what_is_taken_from(index, turn, objects)
            requests = [self._request(p, o) for p, o in zip(turn, objects, strict=True)]
            self._segment(index, objects, requests)
        return ids

    def _find_what_is_taken_from(
        self, index: int, prompts: Sequence[Prompt], objects: Sequence[TrackedObject]
    ) -> None:
        """Track objects to a frame where clicks only take away from them.

        A first click on a frame segments without memories, as in the official code; clicks off the
        object would then leave nothing of it.
        """
        self._follow(
            index,
            [
                tracked
                for prompt, tracked in zip(prompts, objects, strict=True)
                if prompt.is_negative_only
                and index not in tracked.outputs
                and tracked.bank.frames()
            ],
        )

    def _request(self, prompt: Prompt, tracked: TrackedObject) -> Request:
        """One interaction: the clicks so far on the frame, its logits so far, and the memories."""
        index, side = prompt.frame, self.segmenter.config.image_size
        output = tracked.outputs.get(index)
        initial = output is None or output.initial
        if prompt.mask is not None:
            tracked.clicks.pop(index, None)
            mask = network_mask(prompt, side, self.segmenter.no_memory.device)
            return Request(initial=initial, mask=mask)
        clicks = Clicks.of(prompt, self._size(), side).after(tracked.clicks.get(index))
        tracked.clicks[index] = clicks
        if output is None:
            return Request(initial=True, clicks=clicks)
        return Request(
            initial=initial,
            selection=None
            if initial
            else self._selector.select(tracked.bank, index, output.reverse),
            clicks=clicks,
            previous=output.shown if self.options.feed_previous_logits else None,
        )

    def track(self, index: int, prompted: set[int]) -> None:
        """Find every object that was not prompted on this frame, now or in advance."""
        objects = []
        for object_id, tracked in self.objects.items():
            if index in tracked.bank.conditioning and index in tracked.outputs:
                tracked.outputs[index] = replace(tracked.outputs[index], reverse=self.reverse)
            elif object_id not in prompted:
                objects.append(tracked)
        self._follow(index, objects)

    def _follow(self, index: int, objects: Sequence[TrackedObject]) -> None:
        """Find objects by their memories alone."""
        requests = [
            Request(
                selection=self._selector.select(tracked.bank, index, self.reverse),
                motion=self._motion(tracked, index),
            )
            for tracked in objects
        ]
        self._segment(index, objects, requests)

    def _motion(self, tracked: TrackedObject, index: int) -> Motion | None:
        """Motion up to the frame just before; a gap in the frames or a turn ends it."""
        before = tracked.outputs.get(index + (1 if self.reverse else -1))
        return before.motion if before is not None and before.reverse == self.reverse else None

    def _segment(
        self, index: int, objects: Sequence[TrackedObject], requests: Sequence[Request]
    ) -> None:
        if not objects:
            return
        # Frames out of turn (conditioned in advance, corrected later) have no frame before them.
        arrived = self._arrived is not None and self._arrived[0] == index
        previous = self._arrived[1] if self._arrived is not None and arrived else None
        encoded = self.frames.encoded(index, previous)
        outputs = self._batcher.segment(encoded, requests, self.frames.images)
        for tracked, output in zip(objects, outputs, strict=True):
            tracked.outputs[index] = replace(output, reverse=self.reverse)
        if self._unmemorised is None:
            self._unmemorised = (index, set())
        self._unmemorised[1].update(tracked.object_id for tracked in objects)

    def _memorise(self) -> None:
        """Encode the memories of fresh results; they are staged until tracking goes on."""
        if self._unmemorised is None:
            return
        index, object_ids = self._unmemorised
        self._unmemorised = None
        objects = [tracked for i, tracked in self.objects.items() if i in object_ids]
        if not objects:
            return
        outputs = [tracked.outputs[index] for tracked in objects]
        memories = self._batcher.encode_memory(self.frames.encoded(index).features, outputs)
        rows = zip(objects, outputs, memories, self._scores(outputs), strict=True)
        for tracked, output, features, (object_score, predicted_iou) in rows:
            memory = Memory(
                index,
                features,
                output.pointer,
                object_score,
                predicted_iou,
                output.motion_score,
            )
            corrected = output.prompted and self.options.corrections_condition
            tracked.staged[index] = (memory, output.initial or corrected)

    def _scores(self, outputs: Sequence[Output]) -> list[list[float]]:
        """Object score and predicted IoU of each output, for a selector that reads them."""
        if not reads_scores(self._selector):
            return [[math.nan, math.nan]] * len(outputs)
        scores = [torch.stack([o.object_score, o.predicted_iou]) for o in outputs]
        return torch.stack(scores).tolist()

    def forget_prompts(self, object_id: int, index: int) -> None:
        """Make a prompted frame of an object an ordinary one.

        A mask that tracking has not gone on from is forgotten; another is kept until the frame is
        tracked again.
        """
        tracked = self.objects.get(object_id)
        if tracked is None:
            return
        tracked.clicks.pop(index, None)
        output = tracked.outputs.get(index)
        if output is None or not output.prompted:
            return
        fresh = tracked.staged.pop(index, None) is not None
        if self._unmemorised is not None and self._unmemorised[0] == index:
            fresh |= object_id in self._unmemorised[1]
            self._unmemorised[1].discard(object_id)
        if fresh:
            del tracked.outputs[index]
        else:
            tracked.outputs[index] = replace(output, prompted=False, initial=True)
        memory = tracked.bank.conditioning.pop(index, None)
        if memory is not None:
            tracked.bank.recent[index] = memory

    def forget(self, index: int | None, following: int) -> None:
        """Drop everything that no later step and no allowed correction can reach.

        index: the frame last stepped, None before the first; following: the next one.
        """
        keep = self.options.keep
        if keep == "all":
            return
        sign = -1 if self.reverse else 1
        oldest = following if index is None else index - sign * keep
        window = set() if index is None else set(range(oldest, index + sign, sign))
        # Results that are still to be memorised are needed wherever they lie.
        fresh = set() if self._unmemorised is None else {self._unmemorised[0]}
        recorded, images = set(window), window | fresh
        for tracked in self.objects.values():
            tracked.bank.retain(self._selector.reach(tracked.bank, oldest, following, self.reverse))
            ahead = {t for t in tracked.outputs if sign * t >= sign * following}
            tracked.forget_outputs(window | ahead | fresh)
            recorded |= ahead
            images |= ahead | set(tracked.bank.frames()) | set(tracked.staged)
        self.frames.retain(window, recorded, images)

    def _size(self) -> Size:
        if self.frames.size is None:
            raise InputError("the size of the video is not known yet; step its first frame")
        return self.frames.size

    def result(self, index: int) -> FrameResult:
        """The result of a frame, of all objects that have one there."""
        rows = {i: o.outputs[index] for i, o in self.objects.items() if index in o.outputs}
        side = self.segmenter.config.image_size // 4
        logits, scores = torch.zeros(0, side, side), torch.zeros(2, 0)
        if rows:
            logits = torch.stack([o.shown for o in rows.values()])
            both = [torch.stack([o.object_score, o.predicted_iou]) for o in rows.values()]
            scores = torch.stack(both, dim=1)
        wait = waits_for_now(logits.device)

        def deliver() -> DeliveredArrays:
            # Whoever reads may do so on another stream than the one that computes.
            wait()
            object_scores, predicted_iou = scores.cpu().numpy()
            return logits.cpu().numpy(), object_scores, predicted_iou

        return FrameResult.deferred(
            deliver,
            index=index,
            size=self._size(),
            object_ids=tuple(rows),
            blocks=self.frames.blocks(index if rows else None),
            non_overlapping=self.options.non_overlapping,
        )
