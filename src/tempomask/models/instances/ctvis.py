"""CTVIS's tracker (arXiv 2307.12616): detections join tracks by what a memory bank holds of them.

On each frame the sure queries that do not overlap better ones are detections. Greedily, the best
first, each joins the track whose remembered embedding answers it in both directions, or begins one.
What a track remembers moves towards a new embedding by how much that is like the ones before
(similarity-guided fusion). A track that was not seen for long is forgotten.

B videos side by side, Q queries, S slots of tracks, L kept embeddings, C hidden_dim, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.instances.config import InstanceConfig, MemoryTrackerConfig
from tempomask.models.instances.pixel_decoder import PixelFeatures
from tempomask.models.instances.query_decoder import Decoded, Predictions
from tempomask.ops.layers import MLP


class MemoryState(NamedTuple):
    """The memory bank by slot.

    fused: (B, S, C), what a detection is compared with. kept: (B, S, L, C), the newest embeddings,
    newest last, those before the first are zeros. seen: (B, S), frames that show the track, 0 for a
    free slot; age: (B, S), frames since the last of them.
    """

    fused: Tensor
    kept: Tensor
    seen: Tensor
    age: Tensor


class Presence(NamedTuple):
    """Of a frame, by slot, bool (B, S): tracks that are on it, and those that begin there."""

    present: Tensor
    born: Tensor


class MemoryTracker(nn.Module):
    """The re-identification head, and the rules of the bank."""

    def __init__(self, config: InstanceConfig, rules: MemoryTrackerConfig) -> None:
        super().__init__()
        self.rules, hidden = rules, config.hidden_dim
        self.reid_head = MLP(hidden, rules.reid_dim, hidden, layers=3)

    def step(
        self, decoded: Decoded, features: PixelFeatures, state: MemoryState | None
    ) -> tuple[Predictions, MemoryState]:
        """Predictions by slot, zeros where no track is, and the bank after the frame."""
        embeddings = self.reid_head(decoded.embeddings)
        count, _, dim = embeddings.shape
        if state is None:
            state = self._empty(count, dim, embeddings)
        # Updated in place: what was given stays as it is.
        state = MemoryState(*(x.clone() for x in state))
        classes, masks = (
            x.new_zeros(count, self.rules.slots, *x.shape[2:]) for x in decoded.predictions
        )
        for video in range(count):
            found = Predictions(*(x[video] for x in decoded.predictions))
            queries, sure = self._detections(found)
            bank = MemoryState(*(x[video] for x in state))
            seen = embeddings[video, queries].float()
            slots = self._join(seen, bank)
            begins = (slots < 0) & sure
            slots[begins] = self._places(slots, int(begins.sum()), bank)
            placed = slots >= 0
            slots = slots[placed]
            self._remember(seen[placed], slots, begins[placed], bank)
            classes[video, slots] = found.class_logits[queries[placed]]
            masks[video, slots] = found.mask_logits[queries[placed]]
        return Predictions(classes, masks), state

    def presence(self, state: MemoryState) -> Presence:
        """Which slots hold a track of the frame that left this state."""
        present = (state.seen > 0) & (state.age == 0)
        return Presence(present, present & (state.seen == 1))

    def _empty(self, count: int, dim: int, like: Tensor) -> MemoryState:
        slots, kept = self.rules.slots, self.rules.kept
        numbers = torch.zeros(count, slots, dtype=torch.long, device=like.device)
        return MemoryState(
            torch.zeros(count, slots, dim, device=like.device),
            torch.zeros(count, slots, kept, dim, device=like.device),
            numbers,
            numbers.clone(),
        )

    def _detections(self, found: Predictions) -> tuple[Tensor, Tensor]:
        """Queries (D,) that count, the best first, at least one; whether they may begin a track."""
        scores = found.class_logits.float().softmax(-1)[:, :-1].amax(1)
        order = scores.argsort(descending=True, stable=True)
        order = order[: max(1, int((scores > self.rules.least_score).sum()))]
        areas = (found.mask_logits[order] > 0).flatten(1).float()
        overlap = areas @ areas.T
        sizes = overlap.diagonal()
        iou = overlap / (sizes[:, None] + sizes[None] - overlap).clamp(min=1)
        covered, free = (iou > self.rules.max_overlap).tolist(), list[int]()
        for place in range(len(order)):
            if not any(covered[better][place] for better in free):
                free.append(place)
        order = order[torch.tensor(free, device=order.device)]
        return order, scores[order] > self.rules.least_score

    def _join(self, embeddings: Tensor, bank: MemoryState) -> Tensor:
        """The slot of the track that each detection (D, C) joins, -1 for none."""
        alive = bank.seen.nonzero()[:, 0]
        slots = torch.full((len(embeddings),), -1, device=embeddings.device)
        if len(alive):
            likeness = embeddings @ bank.fused[alive].T
            match = (likeness.softmax(0) + likeness.softmax(1)) / 2
            frames = bank.seen[alive].float()
            for row in range(len(match)):
                column = self._best(match[row], frames)
                if column is not None:
                    slots[row] = alive[column]
                    # Nobody else may join this track.
                    match[row + 1 :, column] = 0
        return slots

    def _places(self, taken: Tensor, count: int, bank: MemoryState) -> Tensor:
        """Slots (count,) for tracks that begin: free ones, then of those unseen for longest.

        -1 where every slot is of a track on this frame.
        """
        unseen = torch.where(bank.seen > 0, bank.age, self.rules.patience + 1)
        unseen[taken[taken >= 0]] = -1
        places = unseen.argsort(descending=True, stable=True)[:count]
        places = torch.where(unseen[places] >= 0, places, -1)
        return F.pad(places, (0, count - len(places)), value=-1)

    def _best(self, row: Tensor, frames: Tensor) -> int | None:
        """The track that a detection joins; of several that would do, seen longer counts more."""
        valid = row > self.rules.least_match
        if valid.sum() > 1:
            row = row * torch.where(valid, frames, frames[valid].mean())
        score, column = row.max(0)
        return int(column) if score > self.rules.least_match else None

    def _remember(
        self, embeddings: Tensor, slots: Tensor, begins: Tensor, bank: MemoryState
    ) -> None:
        """Put the embeddings (N, C) of this frame into their slots; forget what is too old."""
        bank.age.add_(1)
        for slot, new, embedding in zip(slots.tolist(), begins.tolist(), embeddings, strict=True):
            if new:
                bank.seen[slot], bank.kept[slot], bank.fused[slot] = 0, 0, embedding
            else:
                before = bank.kept[slot, -min(int(bank.seen[slot]), self.rules.kept) :]
                share = F.cosine_similarity(before, embedding[None]).mean().clamp(min=0)
                bank.fused[slot] = (1 - share) * bank.fused[slot] + share * embedding
            bank.kept[slot] = torch.cat([bank.kept[slot, 1:], embedding[None]])
            bank.seen[slot] += 1
            bank.age[slot] = 0
        bank.seen[bank.age > self.rules.patience] = 0
