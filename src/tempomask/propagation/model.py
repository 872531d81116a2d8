"""The front door of label propagation: `load_propagator`, then `track` or `session`.

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

from tempomask.adaptation.adapter_file import read_adapter
from tempomask.baselines.methods import load_adapted
from tempomask.devices import DTypeName, resolve_device, resolve_dtype, set_threads
from tempomask.errors import InputError
from tempomask.frames import FrameSource, Size
from tempomask.model import load
from tempomask.models.config import SEGMENTERS
from tempomask.prompts import Prompt
from tempomask.propagation.network import PatchEncoder, as_patch_encoder
from tempomask.propagation.options import PropagationOptions
from tempomask.propagation.session import PropagationSession
from tempomask.routed_model import RoutedModel, RoutingChoice
from tempomask.tracking.passes import (
    Direction,
    Results,
    TrackingPasses,
    backward_frames,
    check_direction,
    check_frames,
    checked_prompts,
    plan_passes,
)
from tempomask.tracking.tracks import Opened, Tracks
from tempomask.weights.dinov3 import load_dinov3
from tempomask.weights.zoo import DINOV3_MODELS, unknown_model

if TYPE_CHECKING:
    from tempomask.adaptation.method import LoadedAdapter


def load_propagator(
    name: str | None = None,
    checkpoint: str | Path | None = None,
    short_side: int | None = None,
    device: str | int | torch.device = "auto",
    dtype: DTypeName | torch.dtype = "auto",
    adapter: str | Path | None = None,
    threads: int | None = None,
) -> Propagator:
    """Load an encoder by name, ready to propagate masks.

    Args:
        name: "dinov3-vits16" and its larger kin, which need the extra `dinov3` and weights behind a
            licence; or any model of `load`, of which the image encoder serves. None for what the
            adapter was made for, what the checkpoint holds, or nano.
        checkpoint: Same as in `load`; that of a DINOv3 needs its name too.
        short_side: Of the images that the encoder sees, in pixels; None for 960, as published.
        device: Same as in `load`.
        dtype: Same as in `load`.
        adapter: Same as in `load`: it is merged into the weights, and its router then chooses the
            blocks.
        threads: Same as in `load`.

    Raises:
        InputError: Same as in `load`.
    """
    set_threads(threads)
    options = PropagationOptions()
    if short_side is not None:
        options = replace(options, short_side=short_side)
    if name is None and checkpoint is None and adapter is not None:
        name = read_adapter(adapter).model
    if name is not None and name not in (known := [*SEGMENTERS, *DINOV3_MODELS]):
        raise unknown_model(name, known)
    if name not in DINOV3_MODELS:
        model = load(name, checkpoint, device=device, dtype=dtype, adapter=adapter)
        network = PatchEncoder(model.segmenter.encoder, model.name)
        return Propagator(network, model.dtype, model.adapter, options)
    place = resolve_device(device)
    precision = resolve_dtype(dtype, place)

    def build(name: str | None) -> PatchEncoder:
        return PatchEncoder(load_dinov3(name, checkpoint).to(place), name or "dinov3")

    if adapter is None:
        return Propagator(build(name), precision, options=options)
    attached = load_adapted(build, name, adapter)
    return Propagator(as_patch_encoder(attached.network), precision, attached, options)


class Propagator(RoutedModel):
    """An encoder on a device that propagates masks. It keeps nothing of a video.

    Args:
        network: The encoder.
        dtype: Of its computation, by autocast; similarities are float32.
        adapter: What was loaded with it, if anything.
        options: The settings, unless `track` or `session` are given others.
    """

    def __init__(
        self,
        network: PatchEncoder,
        dtype: torch.dtype = torch.float32,
        adapter: LoadedAdapter | None = None,
        options: PropagationOptions | None = None,
    ) -> None:
        super().__init__(network, dtype, adapter)
        self.network: PatchEncoder = network
        self.options = options or PropagationOptions()

    @property
    def image_size(self) -> int:
        """Short side of the images that the network sees, in pixels."""
        return self.options.short_side

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
            options: The settings in place of those of the propagator.
            routing: Same as in `Model.track`.
        """
        del num_frames
        return PropagationSession(
            self.network,
            options or self.options,
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
        state: bytes | None = None,
    ) -> Tracks:
        """Propagate the masks of one frame through a video, frame by frame.

        Args:
            source: Same as in `Model.track`.
            prompts: Masks, all on the frame where propagation starts.
            direction: "forward" or "backward".
            frames: Same as in `Model.track`; its first frame, backward its last, has the masks.
            options: The settings in place of those of the propagator.
            routing: Same as in `Model.track`.
            state: Same as in `Model.track`.

        Returns:
            An iterator of results, which closes the video as that of `Model.track` does.

        Raises:
            InputError: For bad input, before the first frame is asked for.
        """

        def begin(video: FrameSource, opened: Opened) -> Results:
            listed = checked_prompts(prompts, video)
            if direction == "both":
                raise InputError('labels are propagated in direction "forward" or "backward"')
            check_direction(direction, video)
            checked = check_frames(frames, video.num_frames)
            passes = plan_passes(listed[:1], direction, checked)
            backward = direction == "backward"
            session = PropagationSession(
                self.network,
                options or self.options,
                start=passes.backward[0] if backward else passes.forward[0],
                reverse=backward,
                size=video.size,
                dtype=self.dtype,
                policy=self.policy(routing, count_waiting=video.seekable),
            )
            if state is None:
                for prompt in listed:
                    session.add(prompt)
            else:
                session.restore(state)
                passes = passes.after(session.next_index)
            opened(session)
            return _results(session, video, passes)

        return Tracks(source, begin)


def _results(session: PropagationSession, source: FrameSource, passes: TrackingPasses) -> Results:
    first, end = passes.forward
    backward = backward_frames(source, passes.backward)
    frames = backward if first == end else source.frames(first, end)
    for index, frame in frames:
        yield session.step(frame, index)
