"""The front door of instance segmentation: `load_instances`, then `track` a video.

>>> model = load_instances("nano-vis")  # doctest: +SKIP
>>> tracks = model.track("street.mp4")  # doctest: +SKIP
>>> for result in tracks:  # doctest: +SKIP
...     result.track_ids, result.names, result.masks
>>> tracks.summary().tracks  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from tempomask.devices import DTypeName, resolve_device, resolve_dtype, set_threads
from tempomask.errors import InputError, check_choice
from tempomask.files import read_json, read_text
from tempomask.frames import FrameSource
from tempomask.instances.fast import accelerate_instances
from tempomask.instances.offline import OfflineSession
from tempomask.instances.options import InstanceOptions
from tempomask.instances.query_routing import FixedLayers, QueryRouterConfig, TemporalQueryRouter
from tempomask.instances.session import InstanceSession
from tempomask.model import Engine
from tempomask.models.instances.config import InstanceConfig
from tempomask.models.instances.query_decoder import QueryRouter
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.results import InstanceResult, InstanceSummary
from tempomask.tracking.passes import check_frames
from tempomask.tracking.tracks import Opened, Tracks
from tempomask.weights.files import check_weights
from tempomask.weights.instances import load_instance_segmenter
from tempomask.weights.own import RouterWeights

RouterName = Literal["auto", "tar", "none"]


def load_instances(
    name: str | None = None,
    checkpoint: str | Path | None = None,
    router: RouterName | int = "auto",
    classes: str | Path | Sequence[str] | None = None,
    image_size: int | None = None,
    device: str = "auto",
    dtype: DTypeName = "auto",
    engine: Engine = "fast",
    threads: int | None = None,
) -> InstanceModel:
    """Load an instance segmenter by name.

    Args:
        name: "nano-vis" (bundled), "minvis-r50-ytvis19", "dvis-plus-r50-ovis" ...; None is what the
            checkpoint holds, or nano-vis without one.
        checkpoint: A file, a folder or a Hub id; None for the model's own.
        router: "tar" routes decoder layers by the model's TAR weights, "none" runs all of them,
            "auto" takes TAR where the file has it; a number runs so many layers on every frame.
        classes: Other names for the classes: a list, a text file with one name a line, or a JSON
            file with a list or with YouTube-VIS categories. As many as the model has.
        image_size: Pixels of the shorter side as the network sees it; None for the model's own.
        device: Same as in `tempomask.load`.
        dtype: Same as in `tempomask.load`.
        engine: Same as in `tempomask.load`.
        threads: Same as in `tempomask.load`.

    Raises:
        InputError: For an unknown name, a checkpoint that does not fit or is of another stage, a
            router that is not there, and classes that do not match the head.
    """
    if isinstance(router, str) and router not in ("auto", "tar", "none"):
        raise InputError(f"unknown router {router!r}; use auto, tar, none or a number of layers")
    check_choice("engine", engine, Engine)
    set_threads(threads)
    place = resolve_device(device)
    precision = resolve_dtype(dtype, place)
    loaded = load_instance_segmenter(name, checkpoint, with_router=router == "tar")
    segmenter = loaded.segmenter
    config = segmenter.config
    if image_size is not None:
        config = config.with_short_side(image_size)
    if classes is not None:
        config = replace(config, classes=class_names(classes, config))
    segmenter.config = config
    routing = _build_router(router, loaded.router, config)
    if isinstance(routing, TemporalQueryRouter):
        routing = routing.to(place)
    segmenter = segmenter.to(place)
    if engine == "fast":
        segmenter = accelerate_instances(segmenter, precision)
    return InstanceModel(segmenter, routing, precision)


def _build_router(
    router: RouterName | int, weights: RouterWeights | None, config: InstanceConfig
) -> QueryRouter | None:
    if isinstance(router, int):
        return FixedLayers(router, config.query_decoder.layers)
    if router == "tar" and weights is None:
        raise InputError(
            f"this checkpoint of {config.name} has no TAR weights; use router none, or train them"
        )
    if router == "none" or weights is None:
        return None
    return restore_router(weights)


def restore_router(weights: RouterWeights) -> TemporalQueryRouter:
    """TAR's router from its stored form; InputError if the tensors do not fit."""
    module = TemporalQueryRouter(QueryRouterConfig.from_json(weights.config))
    expected = module.state_dict()
    shapes = {name: tensor.shape for name, tensor in weights.state.items()}
    if shapes != {name: tensor.shape for name, tensor in expected.items()}:
        raise InputError("the checkpoint's router does not fit its configuration; train it again")
    check_weights(weights.state, "the checkpoint's router is damaged, or its training has diverged")
    module.load_state_dict(weights.state)
    return module.eval()


def class_names(classes: str | Path | Sequence[str], config: InstanceConfig) -> tuple[str, ...]:
    """Names from a list or a file; InputError unless there is one for each class of the head."""
    where = "classes"
    if isinstance(classes, (str, Path)):
        where = str(classes)
        names = _read_classes(Path(classes))
    else:
        names = tuple(classes)
    if len(names) != config.num_classes:
        raise InputError(
            f"{where} has {len(names)} names, but {config.name} knows {config.num_classes} classes"
            f" ({', '.join(config.classes[:4])} ...); give one name for each"
        )
    return names


def _read_classes(path: Path) -> tuple[str, ...]:
    if path.suffix != ".json":
        lines = read_text(path, "the classes file").splitlines()
        return tuple(line.strip() for line in lines if line.strip())
    categories = {"categories": [{"id": int, "name": str}]}
    values = read_json(path, "the classes file", ([str], categories))
    if isinstance(values, dict):
        rows = sorted(values["categories"], key=lambda row: row["id"])
        values = [row["name"] for row in rows]
    return tuple(values)


class InstanceModel:
    """A segmenter on a device, and its router. It keeps nothing of a video: share it freely."""

    def __init__(
        self,
        segmenter: InstanceSegmenter,
        router: QueryRouter | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.segmenter, self.router, self.dtype = segmenter.eval(), router, dtype

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def config(self) -> InstanceConfig:
        return self.segmenter.config

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of `InstanceResult.labels`."""
        return self.config.classes

    @property
    def device(self) -> torch.device:
        return self.segmenter.network.query_decoder.query_features.device

    def __repr__(self) -> str:
        router = "none" if self.router is None else type(self.router).__name__
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"InstanceModel({self.name!r}, {len(self.classes)} classes, router={router},"
            f" device='{self.device}', dtype={dtype})"
        )

    def session(self, *, start: int = 0, options: InstanceOptions | None = None) -> InstanceSession:
        """A live session: `session.step(frame)` for every frame.

        Args:
            start: Index of the first frame.
            options: Which tracks are shown.

        Raises:
            InputError: For an offline model, which answers only after the last frame.
        """
        if self.config.refiner is not None:
            raise InputError(
                f"{self.name} answers only after the last frame of a video: use track in Python, or"
                " the model without -offline"
            )
        return InstanceSession(self.segmenter, self.router, options, start=start, dtype=self.dtype)

    def offline_session(
        self, *, start: int = 0, options: InstanceOptions | None = None
    ) -> OfflineSession:
        """Of an offline model: `take` every frame, then read `results`; see `session`."""
        return OfflineSession(self.segmenter, self.router, options, start=start, dtype=self.dtype)

    def track(
        self,
        source: Any,
        *,
        frames: range | None = None,
        options: InstanceOptions | None = None,
        state: bytes | None = None,
    ) -> InstanceTracks:
        """Find and follow all instances of a video, frame by frame; offline, it sees all first.

        Args:
            source: Same as in `tempomask.Model.track`.
            frames: Which frames, in ascending order; None for all.
            options: Which tracks are shown.
            state: Same as in `tempomask.Model.track`.

        Returns:
            An iterator of one `InstanceResult` a frame, which also has the video's `summary`.

        Raises:
            InputError: For bad input, before the first frame is asked for.
        """
        begin = self.session if self.config.refiner is None else self.offline_session
        return InstanceTracks(
            source, lambda start: begin(start=start, options=options), frames, state
        )


class InstanceTracks(Tracks[InstanceResult]):
    """The results of a video, one a frame, in order; `summary` tells the tracks so far.

    Attributes:
        session: Which the frames go through.
    """

    session: InstanceSession

    def __init__(
        self,
        source: Any,
        new_session: Callable[[int], InstanceSession],
        frames: range | None = None,
        state: bytes | None = None,
    ) -> None:
        def begin(video: FrameSource, opened: Opened) -> Generator[InstanceResult, None, None]:
            chosen = check_frames(frames, video.num_frames)
            self.session = new_session(chosen.start if chosen else 0)
            if state is not None:
                self.session.restore(state)
            opened(self.session)
            taken = video.frames(self.session.next_index, chosen.stop if chosen else None)
            results = self.session.follow(frame for _, frame in taken)
            return (result for result in results)

        super().__init__(source, begin)

    def summary(self) -> InstanceSummary:
        """The tracks of all frames taken so far."""
        return self.session.summary()
