"""The front door of Cutie and XMem: `load_matcher`, then `track` or `session`, with masks given.

>>> matcher = load_matcher("cutie-base")  # doctest: +SKIP
>>> for result in matcher.track("dog.mp4", [Prompt(mask=mask)]):  # doctest: +SKIP
...     result.index, result.masks
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tempomask.devices import DTypeName, resolve_device, resolve_dtype, set_threads
from tempomask.errors import InputError
from tempomask.frames import FrameSource, Size
from tempomask.matching.options import MatchingOptions
from tempomask.matching.session import MatchingSession
from tempomask.models.matching.blocks import MatchingNetwork
from tempomask.prompts import Prompt
from tempomask.routing.options import Routing
from tempomask.tracking.passes import Direction, Results, track_in
from tempomask.tracking.tracks import Opened, Tracks
from tempomask.weights.matching import load_matching_network


def load_matcher(
    name: str | None = None,
    checkpoint: str | Path | None = None,
    short_side: int | None = None,
    device: str | int | torch.device = "auto",
    dtype: DTypeName | torch.dtype = "auto",
    threads: int | None = None,
) -> Matcher:
    """Load Cutie or XMem by name, ready to track masks.

    Args:
        name: "cutie-base", "cutie-small" or "xmem"; None for what the checkpoint holds.
        checkpoint: The official file; None for the model's own.
        short_side: Larger videos are brought to it, in pixels; None for 480, as published.
        device: Same as in `load`.
        dtype: Same as in `load`.
        threads: Same as in `load`.

    Raises:
        InputError: Same as in `load`.
    """
    set_threads(threads)
    options = MatchingOptions()
    if short_side is not None:
        options = replace(options, short_side=short_side)
    place = resolve_device(device)
    network = load_matching_network(name, checkpoint).to(place)
    return Matcher(network, resolve_dtype(dtype, place), options)


class Matcher:
    """A network on a device that tracks masks. It keeps nothing of a video.

    Args:
        network: The network.
        dtype: Of its computation, by autocast; matching is float32.
        options: The settings, unless `track` or `session` are given others.
    """

    # What models share: there is no adapter, and memories are not pooled.
    adapter, pooling = None, None

    def __init__(
        self,
        network: MatchingNetwork,
        dtype: torch.dtype = torch.float32,
        options: MatchingOptions | None = None,
    ) -> None:
        self.network, self.dtype = network.eval(), dtype
        self.options = options or MatchingOptions()

    @property
    def name(self) -> str:
        """Of the configuration, as `load_matcher` takes it."""
        return self.network.name

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.device

    @property
    def image_size(self) -> int:
        """Short side that larger videos are brought to, in pixels."""
        return self.options.short_side

    def __repr__(self) -> str:
        return f"Matcher({self.name!r}, image_size={self.image_size}, device='{self.device}')"

    def session(
        self,
        *,
        num_frames: int | None = None,
        start: int = 0,
        reverse: bool = False,
        size: Size | None = None,
        options: MatchingOptions | None = None,
        routing: Any = None,
    ) -> MatchingSession:
        """A live session: `session.prompt(mask=...)`, then `session.step(frame)` for every frame.

        Args:
            num_frames: Not needed, and only taken so that models can stand in for each other.
            start: Index of the first frame.
            reverse: Frames come in descending order.
            size: (H, W) of the video if known, so that masks are checked at once.
            options: The settings in place of those of the matcher.
            routing: None, or one that asks for nothing.

        Raises:
            InputError: For a routing: the network has no blocks to leave out.
        """
        del num_frames
        self._check(routing)
        return MatchingSession(
            self.network,
            options or self.options,
            start=start,
            reverse=reverse,
            size=size,
            dtype=self.dtype,
        )

    def track(
        self,
        source: Any,
        prompts: Prompt | Iterable[Prompt],
        *,
        direction: Direction = "forward",
        frames: range | None = None,
        options: MatchingOptions | None = None,
        routing: Any = None,
        state: bytes | None = None,
    ) -> Tracks:
        """Track masks through a video, frame by frame; arguments as in `Model.track`.

        Args:
            source: Same as in `Model.track`.
            prompts: Masks, of any objects on any frames.
            direction: Same as in `Model.track`.
            frames: Same as in `Model.track`.
            options: The settings in place of those of the matcher.
            routing: Same as in `session`.
            state: Same as in `Model.track`.

        Raises:
            InputError: For bad input, before the first frame is asked for.
        """
        self._check(routing)
        listed = [prompts] if isinstance(prompts, Prompt) else list(prompts)

        def begin(video: FrameSource, opened: Opened) -> Results:
            new_session = partial(
                MatchingSession,
                self.network,
                options or self.options,
                size=video.size,
                dtype=self.dtype,
            )
            for prompt in listed:
                new_session().check_prompt(prompt)
            return track_in(
                new_session,
                video,
                listed,
                direction=direction,
                frames=frames,
                state=state,
                opened=opened,
            )

        return Tracks(source, begin)

    def _check(self, routing: Any) -> None:
        if routing is not None and (
            not isinstance(routing, Routing) or Routing.of(routing).settings()
        ):
            raise InputError(
                f"{self.name} has no blocks that could be left out; leave out routing and budget"
            )
