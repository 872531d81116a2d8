"""The front door of label propagation: `load_propagator`, then `track` or `session` as of a model.

>>> propagator = load_propagator("dinov3-vits16")  # doctest: +SKIP
>>> for result in propagator.track("dog.mp4", [Prompt(mask=mask)]):  # doctest: +SKIP
...     result.index, result.masks
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from tempomask.devices import DTypeName, resolve_device, resolve_dtype
from tempomask.errors import InputError, unknown_name
from tempomask.frames import Size
from tempomask.io.tracks import Tracks
from tempomask.model import Model, Routers, load
from tempomask.models.config import SEGMENTERS
from tempomask.models.encoder import Encoder, Policy
from tempomask.prompts import Prompt
from tempomask.propagation.labels import PropagationOptions
from tempomask.propagation.network import PatchEncoder
from tempomask.propagation.session import PropagationSession
from tempomask.routing.budget import RuleName
from tempomask.routing.recurrent import Routing
from tempomask.tracking.propagate import Direction, FrameSource, Results, check_end
from tempomask.weights.dinov3 import load_dinov3
from tempomask.weights.names import unknown_model
from tempomask.weights.zoo import DINOV3_MODELS


def load_propagator(
    name: str = "nano",
    checkpoint: str | Path | None = None,
    short_side: int | None = None,
    device: str = "auto",
    dtype: DTypeName = "auto",
    adapter: str | Path | None = None,
) -> Propagator:
    """Load an encoder by name, ready to propagate masks.

    name: "dinov3-vits16" and its larger kin, which need the extra `dinov3` and weights behind a
        licence; or any model of `load`, of which the image encoder serves.
    checkpoint, device, dtype: as of `load`.
    short_side: of the images the encoder sees; None for 960, as published.
    adapter: as of `load`, for the models that `load` knows; its router then chooses the blocks.

    Raises InputError as `load` does.
    """
    config = PropagationOptions()
    if short_side is not None:
        config = replace(config, short_side=short_side)
    if name in SEGMENTERS:
        model = load(name, checkpoint, device=device, dtype=dtype, adapter=adapter)
        return Propagator(model.segmenter.encoder, name, config, model.dtype, model)
    if name in DINOV3_MODELS:
        if adapter is not None:
            raise InputError(f"adapter {adapter} is for a segmenter; {name} takes none")
        place = resolve_device(device)
        precision = resolve_dtype(dtype, place)
        return Propagator(load_dinov3(name, checkpoint).to(place), name, config, precision)
    names = [*SEGMENTERS, *DINOV3_MODELS]
    raise unknown_model(name, names)


class Propagator:
    """An encoder on a device that propagates masks. It keeps nothing of a video.

    config: the settings unless `track` or `session` are given others. dtype: of the encoder's
    computation; similarities are float32. model: that the encoder is part of, for its router.
    """

    def __init__(
        self,
        encoder: Encoder,
        name: str = "encoder",
        config: PropagationOptions | None = None,
        dtype: torch.dtype = torch.float32,
        model: Model | None = None,
    ) -> None:
        self.network = PatchEncoder(encoder, name).eval()
        self.name, self.dtype, self._model = name, dtype, model
        self.config = config or PropagationOptions()

    @property
    def encoder(self) -> Encoder:
        return self.network.encoder

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def routers(self) -> Routers | None:
        """Of the model's adapter, None without one."""
        return None if self._model is None else self._model.routers

    def policy(self, router: str = "auto", routing: Routing | None = None) -> Policy | None:
        """As of `Model.policy`. Encoders without a model have no router; pass a policy instead."""
        if self._model is not None:
            return self._model.policy(router, routing)
        wishes = replace(routing or Routing(), count_waiting=True)
        if router not in ("auto", "none") or wishes != Routing():
            raise InputError(f"{self.name} has no router; leave router, budget, rule and fps out")
        return None

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"Propagator({self.name!r}, short_side={self.config.short_side},"
            f" device='{self.device}', dtype={dtype})"
        )

    def session(
        self,
        *,
        num_frames: int | None = None,
        start: int = 0,
        reverse: bool = False,
        size: Size | None = None,
        policy: Policy | None = None,
        router: str = "auto",
        budget: float | None = None,
        rule: RuleName = "top-k",
        fps: float | None = None,
        adaptive: bool = False,
        threshold: float | None = None,
        routing_seed: int | None = None,
        **options: Any,
    ) -> PropagationSession:
        """A live session: `session.prompt(mask=...)`, then `session.step(frame)` for every frame.

        num_frames is not needed and only taken so that models and propagators can stand in for each
        other. options: fields of `PropagationOptions`, for instance radius=20. router to
        routing_seed: as of `Model.session`. The other arguments are those of `PropagationSession`.
        """
        del num_frames
        if policy is None:
            wishes = Routing(
                budget, rule, threshold, routing_seed, adaptive, fps, count_waiting=False
            )
            policy = self.policy(router, wishes)
        return PropagationSession(
            self.network,
            self._configured(options),
            start=start,
            reverse=reverse,
            size=size,
            dtype=self.dtype,
            policy=policy,
        )

    def track(
        self,
        source: Any,
        prompts: Prompt | Iterable[Prompt],
        *,
        direction: Direction = "forward",
        start: int | None = None,
        end: int | None = None,
        policy: Policy | None = None,
        router: str = "auto",
        budget: float | None = None,
        rule: RuleName = "top-k",
        fps: float | None = None,
        adaptive: bool = False,
        threshold: float | None = None,
        routing_seed: int | None = None,
        **options: Any,
    ) -> Tracks:
        """Propagate the masks of one frame through a video, frame by frame.

        source: as of `Model.track`. prompts: masks, all on the frame where propagation starts.
        direction: "forward" to before `end` (default: the last frame and all) or "backward" down to
        `end` (default 0). start may be left out. policy to routing_seed: as of `Model.track`.
        options: as of `session`.

        Bad input raises InputError at once, before the first frame is asked for. Videos are closed
        as by `Model.track`.
        """

        def begin(frames: FrameSource) -> Results:
            listed = [prompts] if isinstance(prompts, Prompt) else list(prompts)
            if not listed:
                raise InputError("no prompt given; give the mask of an object on the first frame")
            first = listed[0].frame if start is None else start
            _check_range(frames, direction, first, end)
            waits = frames.seekable
            wishes = Routing(
                budget, rule, threshold, routing_seed, adaptive, fps, count_waiting=waits
            )
            session = PropagationSession(
                self.network,
                self._configured(options),
                start=first,
                reverse=direction == "backward",
                size=frames.size,
                dtype=self.dtype,
                policy=self.policy(router, wishes) if policy is None else policy,
            )
            for prompt in listed:
                session.add(prompt)
            return _results(session, frames, first, end, direction == "backward")

        return Tracks(source, begin)

    def _configured(self, options: dict[str, Any]) -> PropagationOptions:
        names = [field.name for field in fields(PropagationOptions)]
        for name in options:
            if name not in names:
                raise unknown_name(f"label propagation has no option {name!r}", name, names)
        return replace(self.config, **options)


def _check_range(frames: FrameSource, direction: str, first: int, end: int | None) -> None:
    if direction not in ("forward", "backward"):
        raise InputError(
            f'label propagation runs in direction "forward" or "backward", got {direction!r}'
        )
    if direction == "backward" and not frames.seekable:
        raise InputError("backward needs a source that can be read in any order, such as a file")
    if frames.num_frames is not None and first >= frames.num_frames:
        raise InputError(
            f"prompt on frame {first}, but the video has {frames.num_frames} frames"
            f" (0 to {frames.num_frames - 1})"
        )
    check_end(direction, first, end)
    low, high = (end or 0, first + 1) if direction == "backward" else (first, end)
    if low < 0 or (high is not None and high <= low):
        last = "the end" if high is None else str(high - 1)
        raise InputError(f"there are no frames from {low} to {last}; check start and end")


def _results(
    session: PropagationSession, source: FrameSource, first: int, end: int | None, backward: bool
) -> Results:
    frames = source.reversed_frames(first, end or 0) if backward else source.frames(first, end)
    for index, frame in frames:
        yield session.step(frame, index)
