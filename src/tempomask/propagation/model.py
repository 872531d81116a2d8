"""The front door of label propagation: `load_propagator`, then `track` or `session` as of a model.

>>> propagator = load_propagator("dinov3-vits16")  # doctest: +SKIP
>>> for result in propagator.track("dog.mp4", [Prompt(mask=mask)]):  # doctest: +SKIP
...     result.index, result.masks
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tempomask.devices import DTypeName, resolve_device, resolve_dtype
from tempomask.errors import InputError
from tempomask.frames import FrameSource, Size
from tempomask.model import Model, RoutingChoice, as_routing, load
from tempomask.models.config import SEGMENTERS
from tempomask.models.encoder import Encoder, Policy
from tempomask.prompts import Prompt
from tempomask.propagation.network import PatchEncoder
from tempomask.propagation.options import PropagationOptions
from tempomask.propagation.session import PropagationSession
from tempomask.routing.options import Routing
from tempomask.tracking.passes import (
    Direction,
    Results,
    TrackingPasses,
    check_frames,
    plan_passes,
)
from tempomask.tracking.tracks import Tracks
from tempomask.weights.dinov3 import load_dinov3
from tempomask.weights.names import unknown_model
from tempomask.weights.zoo import DINOV3_MODELS

if TYPE_CHECKING:
    from tempomask.adaptation.method import LoadedAdapter


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
    def adapter(self) -> LoadedAdapter | None:
        """The model's, None without one."""
        return None if self._model is None else self._model.adapter

    def policy(
        self, routing: RoutingChoice = None, *, count_waiting: bool | None = None
    ) -> Policy | None:
        """Same as `Model.policy`. Encoders without a model have no router, but take a policy."""
        if self._model is not None:
            return self._model.policy(routing, count_waiting=count_waiting)
        if isinstance(routing, Policy):
            return routing
        asked = replace(as_routing(routing), count_waiting=None)
        if asked not in (Routing(), Routing(router="none")):
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
        options: PropagationOptions | None = None,
        routing: RoutingChoice = None,
    ) -> PropagationSession:
        """A live session: `session.prompt(mask=...)`, then `session.step(frame)` for every frame.

        Args:
            num_frames: Not needed, and only taken so that models and propagators can stand in for
                each other.
            start: Index of the first frame, which has the masks.
            reverse: Frames come in descending order.
            size: (H, W) of the video if known, so that masks are checked at once.
            options: The settings in place of `config`.
            routing: Same as in `Model.track`.
        """
        del num_frames
        return PropagationSession(
            self.network,
            options or self.config,
            start=start,
            reverse=reverse,
            size=size,
            dtype=self.dtype,
            policy=self.policy(routing, count_waiting=False),
        )

    def track(
        self,
        source: Any,
        prompts: Prompt | Iterable[Prompt],
        *,
        direction: Direction = "forward",
        frames: range | None = None,
        options: PropagationOptions | None = None,
        routing: RoutingChoice = None,
    ) -> Tracks:
        """Propagate the masks of one frame through a video, frame by frame.

        Args:
            source: Same as in `Model.track`.
            prompts: Masks, all on the frame where propagation starts.
            direction: "forward" or "backward".
            frames: Same as in `Model.track`; its first frame, backward its last, has the masks.
            options: The settings in place of `config`.
            routing: Same as in `Model.track`.

        Returns:
            An iterator of results, which closes the video as that of `Model.track` does.

        Raises:
            InputError: For bad input, before the first frame is asked for.
        """

        def begin(video: FrameSource) -> Results:
            listed = [prompts] if isinstance(prompts, Prompt) else list(prompts)
            if not listed:
                raise InputError("no prompt given; give the mask of an object on the first frame")
            passes = _one_pass(listed, direction, frames, video)
            backward = direction == "backward"
            session = PropagationSession(
                self.network,
                options or self.config,
                start=passes.backward[0] if backward else passes.forward[0],
                reverse=backward,
                size=video.size,
                dtype=self.dtype,
                policy=self.policy(routing, count_waiting=video.seekable),
            )
            for prompt in listed:
                session.add(prompt)
            return _results(session, video, passes)

        return Tracks(source, begin)


def _one_pass(
    prompts: list[Prompt], direction: Direction, frames: range | None, video: FrameSource
) -> TrackingPasses:
    """The pass through the video; InputError for a direction or frames that it does not allow."""
    if direction not in ("forward", "backward"):
        raise InputError(
            f'label propagation runs in direction "forward" or "backward", got {direction!r}'
        )
    if direction == "backward" and not video.seekable:
        raise InputError("backward needs a source that can be read in any order, such as a file")
    first = prompts[0].frame
    if video.num_frames is not None and first >= video.num_frames:
        raise InputError(
            f"prompt on frame {first}, but the video has {video.num_frames} frames"
            f" (0 to {video.num_frames - 1})"
        )
    return plan_passes(prompts[:1], direction, check_frames(frames, video.num_frames))


def _results(session: PropagationSession, source: FrameSource, passes: TrackingPasses) -> Results:
    if passes.backward:
        frames = source.reversed_frames(passes.backward[0], passes.backward[-1])
    else:
        frames = source.frames(*passes.forward)
    for index, frame in frames:
        yield session.step(frame, index)
