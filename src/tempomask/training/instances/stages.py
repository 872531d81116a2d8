"""What each stage of training computes: clips in, losses out.

B clips, T frames, M decoder layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tempomask.instances.query_routing import TemporalQueryRouter
from tempomask.models.instances.dvis import Referred, ReferringState, ReferringTracker
from tempomask.models.instances.minvis import in_order
from tempomask.models.instances.pixel_decoder import PixelFeatures
from tempomask.models.instances.query_decoder import Decoded, Predictions
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.ops.normalise import normalise
from tempomask.training.instances.losses import SetLoss, contrastive_loss, set_loss
from tempomask.training.instances.matching import (
    ClipBatch,
    ClipTargets,
    FrameTargets,
    Match,
    assign,
    match_clip,
    match_costs,
)
from tempomask.training.instances.recipe import InstanceRecipe


class StageLoss(NamedTuple):
    """total: to minimise. terms: for the log, by name."""

    total: Tensor
    terms: dict[str, Tensor]


class StageModel(nn.Module):
    """A segmenter, a router if the stage trains one, and the losses of the recipe's stage."""

    def __init__(
        self,
        segmenter: InstanceSegmenter,
        router: TemporalQueryRouter | None,
        recipe: InstanceRecipe,
    ) -> None:
        super().__init__()
        self.segmenter, self.router, self.recipe = segmenter, router, recipe
        network = segmenter.network
        if recipe.stage == "tar":
            network.backbone.requires_grad_(False)
            network.pixel_decoder.requires_grad_(False)
        elif recipe.tracks:
            network.requires_grad_(False)
        tracker = segmenter.tracker
        self.learns_reid = (
            isinstance(tracker, ReferringTracker)
            and tracker.reid_head is not None
            and all(parameter.requires_grad for parameter in tracker.reid_head.parameters())
        )

    def forward(self, batch: ClipBatch, progress: float) -> StageLoss:
        """progress: share of the steps that are done, in [0, 1]."""
        if self.recipe.stage == "minvis":
            return self._images(batch)
        if self.recipe.stage == "tar":
            return self._routed_frames(batch)
        return self._tracked_clips(batch, guided=progress < self.recipe.guided_share)

    def _images(self, batch: ClipBatch) -> StageLoss:
        """Every frame by itself (MinVIS)."""
        features = self._encode(batch, frozen=False)
        decoded = self.segmenter.network.decode(features)
        times = batch.frames.shape[1]
        targets = [target.image(t) for target in batch.targets for t in range(times)]
        loss = set_loss(self._levels(decoded, features), targets, self.recipe.losses)
        return StageLoss(loss.total, named(loss))

    def _routed_frames(self, batch: ClipBatch) -> StageLoss:
        """Frames in turn, each decoded from the queries of the one before (TAR on MinVIS)."""
        features = self._encode(batch, frozen=True)
        times = batch.frames.shape[1]
        previous, losses, shares = None, [], []
        for frame in range(times):
            own = of_frame(features, frame, times)
            decoded = self.segmenter.network.decode(own, self.router, previous)
            targets = [target.image(frame) for target in batch.targets]
            losses.append(set_loss(self._levels(decoded, own), targets, self.recipe.losses))
            if previous is not None:
                shares.append(decoded.ran.mean())
            previous = decoded.queries
        total = SetLoss(*(torch.stack(terms).sum() for terms in zip(*losses, strict=True)))
        return self._with_layers(total.total, shares, named(total))

    def _tracked_clips(self, batch: ClipBatch, guided: bool) -> StageLoss:
        """DVIS++'s tracker over clips; with a router, TAR on DVIS++."""
        tracker, recipe = self.segmenter.tracker, self.recipe
        assert isinstance(tracker, ReferringTracker)
        features = self._encode(batch, frozen=True)
        times = batch.frames.shape[1]
        noise = partial(add_noise, recipe.noise_ratio) if self.training else None
        state: ReferringState | None = None
        frames: list[tuple[Decoded, Referred]] = []
        for decoded in self._decode_in_turn(features, times):
            referred, state = tracker.refer(decoded, state, noise)
            frames.append((decoded, referred))
        masks = tracker.mask_projection(features.mask_features)
        masks = masks.unflatten(0, (-1, times))
        levels = [
            [
                tracker.predict(referred.outputs[layer], referred.reference, masks[:, frame])
                for frame, (_, referred) in enumerate(frames)
            ]
            for layer in range(len(tracker.layers))
        ]
        final = levels[-1]
        if guided:  # the segmenter's predictions in the order of the tracks
            final = [
                Predictions(*(in_order(x, referred.order) for x in decoded.predictions))
                for decoded, referred in frames
            ]
        matches = [
            match_clip([of_clip(frame, clip) for frame in final], target, recipe.losses)
            for clip, target in enumerate(batch.targets)
        ]
        loss = self._clip_loss(levels, matches, batch.targets)
        reid = self._reid(frames, matches, batch.targets)
        shares = [decoded.ran.mean() for decoded, _ in frames[1:]] if self.router else []
        total = loss.total + reid.total
        return self._with_layers(total, shares, named(loss) | reid.terms)

    def _decode_in_turn(self, features: PixelFeatures, times: int) -> list[Decoded]:
        network = self.segmenter.network
        if self.router is None:
            with torch.no_grad():
                return [network.decode(of_frame(features, t, times)) for t in range(times)]
        decoded: list[Decoded] = []
        for frame in range(times):
            previous = decoded[-1].queries if decoded else None
            decoded.append(network.decode(of_frame(features, frame, times), self.router, previous))
        return decoded

    def _clip_loss(
        self,
        levels: Sequence[Sequence[Predictions]],
        matches: Sequence[Match],
        targets: Sequence[ClipTargets],
    ) -> SetLoss:
        """The set loss with one match for all frames of a clip and all layers."""
        times = len(levels[0])
        # Frame after frame, all clips of each: an instance that is absent has an empty mask.
        images = [
            FrameTargets(target.labels, target.masks[t]) for t in range(times) for target in targets
        ]
        stacked = [
            Predictions(*(torch.cat(parts) for parts in zip(*level, strict=True)))
            for level in levels
        ]
        spread = [match for _ in range(times) for match in matches]
        return set_loss(stacked, images, self.recipe.losses, [spread] * len(levels))

    def _reid(
        self,
        frames: Sequence[tuple[Decoded, Referred]],
        matches: Sequence[Match],
        targets: Sequence[ClipTargets],
    ) -> StageLoss:
        """Contrast of the references (DVIS++), and of the re-identification head by true matches.

        The head learns only where it did not come, trained, from CTVIS.
        """
        weights, tracker = self.recipe.losses, self.segmenter.tracker
        assert isinstance(tracker, ReferringTracker) and tracker.reid_head is not None
        references = torch.stack([referred.reference for _, referred in frames], 1)
        heads = torch.stack([tracker.reid_head(decoded.embeddings) for decoded, _ in frames], 1)
        entropy, cosine = references.sum() * 0, references.sum() * 0
        for clip, (match, target) in enumerate(zip(matches, targets, strict=True)):
            pairs = [(references[clip], match.queries.expand(len(frames), -1))]
            if self.learns_reid:
                own = self._true_queries([decoded for decoded, _ in frames], clip, target)
                pairs.append((heads[clip], own))
            for embeddings, queries in pairs:
                loss = contrastive_loss(embeddings.float(), queries)
                entropy, cosine = entropy + loss.cross_entropy, cosine + loss.cosine
        entropy, cosine = entropy / len(targets), cosine / len(targets)
        total = weights.reid * entropy + weights.reid_cosine * cosine
        return StageLoss(total, {"reid": entropy.detach()})

    def _true_queries(self, frames: Sequence[Decoded], clip: int, target: ClipTargets) -> Tensor:
        """(T, N): the segmenter's query for each instance on each frame, -1 where it is absent."""
        queries = torch.full_like(target.present, -1, dtype=torch.int64)
        for frame, decoded in enumerate(frames):
            predictions = of_clip(decoded.predictions, clip)
            costs = match_costs(predictions, target.image(frame), self.recipe.losses)
            match = assign(costs[0])
            there = target.present[frame].nonzero()[:, 0]
            queries[frame, there[match.instances]] = match.queries
        return queries

    def _encode(self, batch: ClipBatch, frozen: bool) -> PixelFeatures:
        """Of all frames, clip after clip: (B * T, ..)."""
        image = normalise(batch.frames.flatten(0, 1))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return self.segmenter.network.encode(image)

    def _levels(self, decoded: Decoded, features: PixelFeatures) -> list[Predictions]:
        """Predictions before the first layer and after each layer: M + 1."""
        decoder = self.segmenter.network.query_decoder
        return [decoder.predict(x, features.mask_features) for x in decoded.intermediate]

    def _with_layers(
        self, total: Tensor, shares: list[Tensor], terms: dict[str, Tensor]
    ) -> StageLoss:
        if not shares:
            return StageLoss(total, terms)
        share = torch.stack(shares).mean()
        layers = self.segmenter.config.query_decoder.layers
        terms = terms | {"layers": share.detach() * layers}
        return StageLoss(total + self.recipe.losses.layers * share, terms)


def named(loss: SetLoss) -> dict[str, Tensor]:
    """The terms of a set loss for the log."""
    return {name: getattr(loss, name).detach() for name in ("classes", "mask", "dice")}


def of_frame(features: PixelFeatures, frame: int, times: int) -> PixelFeatures:
    """One frame of every clip from features of all frames (B * T, ..)."""
    masks, levels = features
    return PixelFeatures(masks[frame::times], tuple(level[frame::times] for level in levels))


def of_clip(predictions: Predictions, clip: int) -> Predictions:
    """Of one clip the predictions of a frame, (1, Q, ..)."""
    return Predictions(*(x[clip : clip + 1] for x in predictions))


def add_noise(ratio: float, queries: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """DVIS++'s training noise: tracks begin as weighted averages of two queries (mode "wa").

    With probability `ratio`, every track of a video starts from a mixture instead of its match.

    Args:
        ratio: In [0, 1].
        queries: (B, Q, D), as the segmenter gave them.
        order: (B, Q), as they were matched.

    Returns:
        Tracks (B, Q, D), and their order: the query that weighs more in each.
    """
    noisy = [
        mixture(q) if torch.rand(()) < ratio else (q[o], o)
        for q, o in zip(queries, order, strict=True)
    ]
    tracks, orders = zip(*noisy, strict=True)
    return torch.stack(tracks), torch.stack(orders)


def mixture(queries: Tensor) -> tuple[Tensor, Tensor]:
    """Each query (Q, D) averaged with another by a random weight, and which of them prevails."""
    number = len(queries)
    other = torch.randperm(number, device=queries.device)
    own_share = torch.rand(number, 1, device=queries.device)
    mixed = queries * own_share + queries[other] * (1 - own_share)
    own = torch.arange(number, device=queries.device)
    return mixed, torch.where(own_share[:, 0] < 0.5, other, own)
