"""The front door: `load` a model by name, `track` a video with it, or open a live `session`.

>>> model = load("nano")  # doctest: +SKIP
>>> for result in model.track("dog.mp4", [Prompt(points=[(410, 260)])]):  # doctest: +SKIP
...     result.index, result.masks
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from tempomask.devices import DTypeName, resolve_device, resolve_dtype, set_threads
from tempomask.errors import InputError, check_choice
from tempomask.export.folder import is_export
from tempomask.frames import Size
from tempomask.image_model import ImageModel
from tempomask.models.config import MemoryForm
from tempomask.models.segmenter import Segmenter, as_segmenter
from tempomask.prompts import Prompt
from tempomask.routed_model import RoutingChoice
from tempomask.tracking.arrivals import Arrivals, Find, Found, follow
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.passes import Direction, FrameSource, Results, track
from tempomask.tracking.session import Session
from tempomask.tracking.tracks import Opened, Tracks
from tempomask.weights import load_segmenter

if TYPE_CHECKING:
    pass

Engine = Literal["fast", "plain", "onnx"]


def load(
    name: str | None = None,
    checkpoint: str | Path | None = None,
    image_size: int | None = None,
    device: str | int | torch.device = "auto",
    dtype: DTypeName | torch.dtype = "auto",
    adapter: str | Path | None = None,
    engine: Engine = "fast",
    pooled_memory: bool | MemoryForm = False,
    threads: int | None = None,
) -> Model:
    """Load a model by name, ready to track.

    Args:
        name: "nano" (bundled), "sam2.1-tiny", "efficienttam-s" ...; `tempomask models` lists them.
            None is what the checkpoint holds, or nano without a checkpoint. Or a folder that
            `tempomask export` wrote, of which the other arguments but `device` and `threads` are
            left out.
        checkpoint: A file, a folder or a Hub id; None for the model's own.
        image_size: Side of the square the network sees, in pixels; None for the model's own.
        device: "auto" takes a CUDA GPU, else an Apple GPU, else the CPU; a number is that CUDA GPU.
        dtype: Of the computation, a name or torch's. "auto" is bfloat16 where it is multiplied
            fast, else float32: NVIDIA GPUs from Ampere on (compute capability 8.0), AMD GPUs that
            torch names so, CPUs with AMX (Intel Xeon from Sapphire Rapids on) or AVX-512's bfloat16
            (AMD from Zen 4 on).
        adapter: A folder that `tempomask adapt` wrote, or the name of a bundled one; it is merged
            into the weights of its model, and brings the router that `Model.track` then uses.
        engine: "fast" rearranges the network for speed (docs/performance.md); it then computes in
            `dtype` alone and cannot be trained. "plain" keeps it as `tempomask.models` shows it,
            with float32 weights. "onnx" is that of an exported folder: ONNX Runtime.
        pooled_memory: Attend to memories pooled 2x2, as EfficientTAM does; faster with several
            objects and less exact in models that were not trained so. A `MemoryForm` says how else
            to attend to them: other windows, without object pointers, linearly.
        threads: With how many the whole process computes from now on; None leaves that to torch,
            which takes all cores: too many where others are at work on them.

    Raises:
        InputError: For an unknown name, a checkpoint that does not fit, a size that the strides do
            not allow, a device that is not there, and an adapter of another model.
    """
    set_threads(threads)
    check_choice("engine", engine, Engine)
    if engine == "onnx" or (name is not None and is_export(name)):
        given = {"checkpoint": checkpoint, "image_size": image_size, "adapter": adapter}
        return _load_export(name, str(device), dtype, **given, pooled_memory=pooled_memory or None)
    place = resolve_device(device)
    precision = resolve_dtype(dtype, place)

    def build(name: str | None) -> Segmenter:
        return load_segmenter(name, checkpoint, image_size, pooled_memory).to(place)

    attached = None
    if adapter is None:
        segmenter = build(name)
    else:
        from tempomask.baselines.methods import load_adapted

        attached = load_adapted(build, name, adapter, any_name=checkpoint is None)
        segmenter = as_segmenter(attached.network).to(place)
    if engine == "fast":
        from tempomask.engine import accelerate

        segmenter = accelerate(segmenter, precision)
    return Model(segmenter, precision, attached)


def _load_export(
    folder: str | None, device: str, dtype: DTypeName | torch.dtype, **given: Any
) -> Model:
    """A model of exported graphs, which are made for what they were exported with."""
    from tempomask.export.runtime import OnnxSegmenter, providers_for

    if dtype not in ("auto", "float32", torch.float32):
        given["dtype"] = dtype
    for option, value in given.items():
        if value is not None:
            raise InputError(
                f"{folder} is an export, which is made for one {option}: leave it out here, and"
                " give it to tempomask export"
            )
    if folder is None:
        raise InputError(
            'engine="onnx" runs an export: give the folder that tempomask export wrote'
        )
    segmenter = OnnxSegmenter(folder, providers_for(device))
    return Model(segmenter, torch.float32, segmenter.router(Path(folder)))


class Model(ImageModel):
    """A segmenter on a device. It keeps nothing of a video: share it between sessions freely.

    Args:
        segmenter: The network.
        dtype: Of the computation, by autocast.
        adapter: What was loaded with it, if anything.

    Raises:
        InputError: For a segmenter that was accelerated for another dtype.
    """

    def warmup(
        self,
        size: Size,
        objects: int | Sequence[int] = 1,
        *,
        options: TrackingOptions | None = None,
        routing: RoutingChoice = None,
    ) -> float:
        """Do now what the first frames would otherwise wait for, by tracking a made-up video.

        Weights are packed, tables made and kernels chosen.

        Args:
            size: (H, W) of the video.
            objects: How many are tracked at once; several numbers to be ready for each.
            options: Same as in `track`.
            routing: Same as in `track`.

        Returns:
            The seconds it took.

        Raises:
            InputError: For numbers below 1.
        """
        from tempomask.tracking.warmup import FEW_FRAMES, warm_up

        started = time.perf_counter()
        policy, chosen = self.policy(routing), options or TrackingOptions()
        for count in [objects] if isinstance(objects, int) else objects:
            warm_up(self.segmenter, chosen, self.dtype, policy, size, count, FEW_FRAMES)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started

    def compile(
        self,
        size: Size,
        objects: int | Sequence[int] = 1,
        *,
        prompted_frames: int = 1,
        options: TrackingOptions | None = None,
        routing: RoutingChoice = None,
        backend: str = "inductor",
    ) -> Model:
        """A model of the same weights whose network is compiled; this one stays as it is.

        On a CUDA GPU its graphs are recorded too, which takes a minute or more. They serve frames
        as they come in a session opened afterwards and stepped by the same thread, with these
        numbers of objects, this routing and these options. Others work as well, uncompiled.

        Args:
            size: Same as in `warmup`.
            objects: Same as in `warmup`.
            prompted_frames: How many frames with prompts or corrections an object may have.
            options: Same as in `track`.
            routing: Same as in `track`.
            backend: Of `torch.compile`.

        Raises:
            InputError: For numbers below 1, and for the plain engine.
        """
        from tempomask.engine.compiled import CompiledSegmenter
        from tempomask.tracking.warmup import RUNS_TO_RECORD, frames_until_full, warm_up

        compiled = self.segmenter
        if not isinstance(compiled, CompiledSegmenter):
            compiled = CompiledSegmenter(compiled, backend, self.device.type == "cuda")
        self.warmup(size, objects, options=options, routing=routing)
        policy, chosen = self.policy(routing), options or TrackingOptions()
        frames = frames_until_full(compiled, chosen)
        counts = [objects] if isinstance(objects, int) else objects
        # Slots for prompted frames come in powers of two.
        slots = [2**i for i in range((prompted_frames - 1).bit_length() + 1)]
        with compiled.preparing():
            for count, prompted, _ in product(counts, slots, range(RUNS_TO_RECORD)):
                warm_up(compiled, chosen, self.dtype, policy, size, count, frames, prompted)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return Model(compiled, self.dtype, self.adapter)

    def track(
        self,
        source: Any,
        prompts: Prompt | Iterable[Prompt] = (),
        *,
        detections: Arrivals | Find | Mapping[int, Found] | Sequence[Found] | None = None,
        direction: Direction = "forward",
        frames: range | None = None,
        options: TrackingOptions | None = None,
        routing: RoutingChoice = None,
        state: bytes | None = None,
    ) -> Tracks:
        """Track the prompted objects through a video, frame by frame.

        Args:
            source: A path to a video or a folder of images, a list of images' paths, a camera
                index, a stream URL, an iterable of (H, W, 3) uint8 RGB arrays or of PyAV's frames,
                an open `Video`, or your own `FrameSource`.
            prompts: Of any objects on any frames; several on one frame act one after the other.
            detections: What starts objects besides prompts: `supervision.Detections`, boxes or
                masks of each frame, by frame, or a function of index and frame; each begins an
                object unless a live one overlaps it (`Arrivals`). Forward only.
            direction: "forward", "backward", or "both": every frame in ascending order, in two
                passes.
            frames: Which frames are tracked, as one range with step 1 or -1; it may go beyond the
                end. None: forward from the first prompted frame, backward from the last prompted
                one down to 0, and in both directions all.
            options: How the video is tracked; None for SAM 2's evaluation settings.
            routing: Which encoder blocks run: a `Routing`, a number that is a budget, or a policy
                of your own. None leaves it to the model's adapter.
            state: From `Tracks.state` of the same call, to go on where that one was.

        Returns:
            An iterator of one `FrameResult` a frame. A video opened here is closed after the last
            result, or by the iterator's `close`.

        Raises:
            InputError: For bad input, before the first frame is asked for.

        Example:
            >>> options = TrackingOptions(lookahead=True)
            >>> tracks = model.track(
            ...     "dog.mp4", prompt, frames=range(100), options=options, routing=0.6
            ... )  # doctest: +SKIP
        """

        def begin(video: FrameSource, opened: Opened) -> Results:
            shared: dict[str, Any] = {
                "frames": frames,
                "options": options,
                "dtype": self.dtype,
                # Reading and writing cost time where frames need not be waited for.
                "policy": self.policy(routing, count_waiting=video.seekable),
                "state": state,
                "opened": opened,
            }
            if detections is None:
                return track(self.segmenter, video, prompts, direction=direction, **shared)
            if direction != "forward":
                raise InputError(f"detections are followed forward, got direction {direction!r}")
            given = detections if isinstance(detections, Arrivals) else Arrivals(detections)
            return follow(self.segmenter, video, given, prompts, **shared)

        return Tracks(source, begin)

    def session(
        self,
        *,
        num_frames: int | None = None,
        start: int = 0,
        reverse: bool = False,
        size: Size | None = None,
        options: TrackingOptions | None = None,
        routing: RoutingChoice = None,
    ) -> Session:
        """A live session: `session.prompt(...)`, then `session.step(frame)` for every frame.

        Args:
            num_frames: Of the video if known, see `Session`.
            start: Index of the first frame.
            reverse: Frames come in descending order.
            size: (H, W) of the video if known, so that prompts are checked before the first frame.
            options: Same as in `track`.
            routing: Same as in `track`.

        Raises:
            InputError: For options that need the whole video, and as `policy` does.
        """
        if options is not None and options.lookahead:
            raise InputError("a session cannot look ahead; use track, or session.condition")
        return Session(
            self.segmenter,
            options,
            num_frames=num_frames,
            start=start,
            reverse=reverse,
            size=size,
            dtype=self.dtype,
            policy=self.policy(routing, count_waiting=False),
        )
