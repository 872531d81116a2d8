"""The front door: `load` a model by name, `track` a video with it, or open a live `session`.

>>> model = load("nano")  # doctest: +SKIP
>>> for result in model.track("dog.mp4", [Prompt(points=[(410, 260)])]):  # doctest: +SKIP
...     result.index, result.masks
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from tempomask.devices import (
    DTypeName,
    resolve_device,
    resolve_dtype,
)
from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.io.tracks import Tracks
from tempomask.models.config import SegmenterConfig
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.routing.budget import RuleName
from tempomask.routing.recurrent import Routing
from tempomask.routing.static import PLAN_A, PLAN_B, PLAN_BLOCKS, StaticPlan
from tempomask.tracking.options import Compatibility, Preset, tracking_options
from tempomask.tracking.propagate import Direction, FrameSource, Results, track
from tempomask.tracking.session import Session
from tempomask.weights import load_segmenter

if TYPE_CHECKING:
    from tempomask.adaptation.method import LoadedAdapter
    from tempomask.engine.compiled import CompiledSegmenter

Engine = Literal["fast", "plain"]


def load(
    name: str | None = None,
    checkpoint: str | Path | None = None,
    image_size: int | None = None,
    device: str | int | torch.device = "auto",
    dtype: DTypeName | torch.dtype = "auto",
    adapter: str | Path | None = None,
    engine: Engine = "fast",
    pooled_memory: bool = False,
) -> Model:
    """Load a model by name, ready to track.

    name: "nano" (bundled), "sam2.1-tiny", "efficienttam-s" ...; `tempomask models` lists them.
        None is what the checkpoint holds, or nano without a checkpoint.
    checkpoint: a file, a folder or a Hub id; None for the model's own.
    image_size: side of the square the network sees; None for the model's own.
    device: "auto" takes a CUDA GPU, else an Apple GPU, else the CPU; a number is that CUDA GPU.
    dtype: of the computation, a name or torch's. "auto" is bfloat16 where there are matrix units
        for it, else float32: NVIDIA GPUs from Ampere on (compute capability 8.0), AMD GPUs that
        torch names so, CPUs with AMX (Intel Xeon from Sapphire Rapids on).
    adapter: a folder that `tempomask adapt` wrote, or the name of a bundled one; it is merged into
        the weights of its model, and brings the router that `Model.track` then uses.
    engine: "fast" rearranges the network for speed (docs/performance.md); it then computes in
        `dtype` alone and cannot be trained. "plain" keeps it as `tempomask.models` shows it, with
        float32 weights.
    pooled_memory: attend to memories pooled 2x2, as EfficientTAM does; faster with several objects
        and less exact in models that were not trained so (docs/performance.md).

    Raises InputError for an unknown name, a checkpoint that does not fit, a size that the strides
    do not allow, a device that is not there, and an adapter of another model.
    """
    place = resolve_device(device)
    precision = resolve_dtype(dtype, place)
    if engine not in ("fast", "plain"):
        raise InputError(f"engine must be fast or plain, got {engine!r}")
    if adapter is None:
        segmenter = load_segmenter(name, checkpoint, image_size, pooled_memory).to(place)
        return Model(_engine(segmenter, precision, engine), precision)
    from tempomask.adaptation.adapter_file import attach_adapter, check_model, read_adapter
    from tempomask.baselines.methods import attach_of

    wanted = read_adapter(adapter)
    attach = attach_of(wanted)
    if name is None and checkpoint is None:
        name = wanted.model
    if name is not None:
        check_model(wanted, name)
    attached = attach_adapter(
        load_segmenter(name, checkpoint, image_size, pooled_memory).to(place), wanted, attach
    )
    segmenter = _engine(attached.segmenter.to(place), precision, engine)
    return Model(segmenter, precision, Routers(wanted.method, attached))


def _engine(segmenter: Segmenter, dtype: torch.dtype, engine: Engine) -> Segmenter:
    if engine == "plain":
        return segmenter
    from tempomask.engine import accelerate

    return accelerate(segmenter, dtype)


@dataclass(frozen=True)
class Routers:
    """What an adapter brought. method: its name, as in `router="rds"`. attached: how it is used."""

    method: str
    attached: LoadedAdapter


# Fixed choices of blocks that need no adapter, for encoders of `PLAN_BLOCKS` blocks.
STATIC_PLANS = {"plan-a": PLAN_A, "plan-b": PLAN_B}


class Model:
    """A network on a device. It keeps nothing of a video: share it between sessions freely.

    segmenter: the network. dtype: of the computation, by autocast. routers: of its adapter, if any.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        dtype: torch.dtype = torch.float32,
        routers: Routers | None = None,
    ) -> None:
        computes = getattr(segmenter.memory_attention, "dtype", dtype)
        if computes != dtype:
            raise InputError(
                f"the segmenter was accelerated for {computes}, and the model is to compute in"
                f" {dtype}; accelerate it for that, or give dtype={computes}"
            )
        self.segmenter = segmenter.eval()
        self.dtype = dtype
        self.routers = routers

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def config(self) -> SegmenterConfig:
        return self.segmenter.config

    @property
    def device(self) -> torch.device:
        return self.segmenter.no_memory.device

    def __repr__(self) -> str:
        size, dtype = self.config.image_size, str(self.dtype).removeprefix("torch.")
        return f"Model({self.name!r}, image_size={size}, device='{self.device}', dtype={dtype})"

    def warmup(
        self,
        size: Size,
        objects: int | Sequence[int] = 1,
        *,
        prompted_frames: int = 1,
        compile: bool | None = None,
        policy: Policy | None = None,
        router: str = "auto",
        **options: Any,
    ) -> float:
        """Do now what the first frames would otherwise wait for; returns the seconds it took.

        Weights are packed, tables made and kernels chosen by tracking a made-up video. On a CUDA
        GPU the network is compiled too, and its graphs recorded, which takes a minute or more:
        for frames as they come in a session opened afterwards and stepped by the same thread, with
        these numbers of objects, this router and these options. Others work as well, uncompiled.

        size: (H, W) of the video. objects: how many are tracked at once; several numbers to be
        ready for each. prompted_frames: so many frames with prompts or corrections an object may
        have. compile: None for only on CUDA with the fast engine. policy, router, options: as of
        `track`.

        Raises InputError for numbers below 1, and for compiling the plain engine.
        """
        from tempomask.tracking.warmup import (
            FEW_FRAMES,
            RUNS_TO_RECORD,
            frames_until_full,
            warm_up,
        )

        started = time.perf_counter()
        chosen = tracking_options(**options)
        if policy is None:
            policy = self.policy(router)
        counts = [objects] if isinstance(objects, int) else list(objects)
        if compile is None:
            fast = getattr(self.segmenter.memory_attention, "takes_absent", False)
            compile = self.device.type == "cuda" and fast
        for count in counts:
            few = FEW_FRAMES, min(prompted_frames, 1)
            warm_up(self.segmenter, chosen, self.dtype, policy, size, count, *few)
        if compile:
            compiled = self._compiled()
            frames = frames_until_full(compiled, chosen)
            # Slots for prompted frames come in powers of two.
            prompted = [2**i for i in range((prompted_frames - 1).bit_length() + 1)]
            with compiled.preparing():
                for count, prompts, _ in product(counts, prompted, range(RUNS_TO_RECORD)):
                    warm_up(compiled, chosen, self.dtype, policy, size, count, frames, prompts)
            self.segmenter = compiled
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started

    def _compiled(self) -> CompiledSegmenter:
        from tempomask.engine.compiled import CompiledSegmenter

        if isinstance(self.segmenter, CompiledSegmenter):
            return self.segmenter
        return CompiledSegmenter(self.segmenter, cuda_graphs=self.device.type == "cuda")

    def policy(self, router: str = "auto", routing: Routing | None = None) -> Policy | None:
        """Which encoder blocks run: a policy to pass to `track`, `session` and `evaluate`.

        router: "auto" is the adapter's, or none without one; "none" runs all blocks; "rds" and
        other names ask for an adapter of that method; "plan-a" and "plan-b" are fixed choices.
        routing: what is asked of the adapter's router.

        Raises InputError for a router that is not there, a budget that it cannot keep, and for
        wishes where no router could fulfil them.
        """
        routers = self.routers
        make = None if routers is None else routers.attached.make_policy
        if routers is not None and make is not None and router in ("auto", routers.method):
            return make(routing or Routing())
        from tempomask.baselines.methods import METHODS

        if router not in (known := ("auto", "none", *METHODS, *STATIC_PLANS)):
            raise InputError(f"unknown router {router!r}; use {', '.join(known)}")
        if replace(routing or Routing(), count_waiting=True) != Routing():
            if router == "none":
                raise InputError(
                    "router none runs all blocks, so that a budget, a rule and fps mean nothing;"
                    " leave them out, or the router"
                )
            raise InputError(
                "a budget, a rule and fps need a router: load the model with an adapter, as"
                " tempomask adapt makes them (nano-rds comes with the package, for nano)"
            )
        if router in STATIC_PLANS:
            encoder = self.segmenter.encoder
            if encoder.num_blocks != PLAN_BLOCKS:
                raise InputError(
                    f"{router} is for encoders of {PLAN_BLOCKS} blocks (SAM 2's large one); this"
                    f" one has {encoder.num_blocks}: use an adapter, or router none"
                )
            return StaticPlan(STATIC_PLANS[router], encoder)
        if router in ("auto", "none") or (routers is not None and router == routers.method):
            return None
        has = "no adapter" if routers is None else f"an adapter of {routers.method}"
        raise InputError(
            f"router {router!r} needs an adapter of that method, and the model has {has}; use auto,"
            f" none, {', '.join(STATIC_PLANS)}, or load it with adapter=..."
        )

    def track(
        self,
        source: Any,
        prompts: Prompt | Iterable[Prompt],
        *,
        direction: Direction = "forward",
        start: int | None = None,
        end: int | None = None,
        num_frames: int | None = None,
        preset: Preset = "evaluation",
        compatibility: Compatibility = "official",
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
        """Track the prompted objects through a video, frame by frame.

        source: a path to a video or a folder of images, a list of images' paths, a camera
            index, a stream URL, an iterable of (H, W, 3) uint8 RGB arrays or of PyAV's frames, an
            open `Video`, or your own `FrameSource`.
        prompts: of any objects on any frames; several on one frame act one after the other.
        direction: "forward" from `start` (default: the first prompted frame) to before `end`;
            "backward" from `start` (default: the last prompted frame) down to `end` (default 0);
            "both": every frame in ascending order, in two passes.
        num_frames: of the video, where the source does not tell. SAM 2 scales distances in time by
            it in videos of fewer than 16 frames, whose masks therefore differ a little between a
            list of frames and a generator of the same ones, unless this is given.
        preset, compatibility, options: as of `tracking_options`, for instance lookahead=True.
        router, budget, rule, fps, adaptive, threshold, routing_seed: which encoder blocks run, see
            `Model.policy` and `routing.recurrent.Routing`; fps counts reading and writing where
            frames need not be waited for. policy: in place of them, any policy of your own.

        Bad input raises InputError at once, before the first frame is asked for. A video opened
        here is closed after the last result, or by the results' `close`.
        """
        chosen = tracking_options(preset, compatibility, **options)

        def begin(frames: FrameSource) -> Results:
            waits = frames.seekable
            wishes = Routing(
                budget, rule, threshold, routing_seed, adaptive, fps, count_waiting=waits
            )
            return track(
                self.segmenter,
                frames,
                prompts,
                direction=direction,
                start=start,
                end=end,
                num_frames=num_frames,
                options=chosen,
                dtype=self.dtype,
                policy=self.policy(router, wishes) if policy is None else policy,
            )

        return Tracks(source, begin)

    def session(
        self,
        *,
        num_frames: int | None = None,
        start: int = 0,
        reverse: bool = False,
        size: Size | None = None,
        preset: Preset = "evaluation",
        compatibility: Compatibility = "official",
        policy: Policy | None = None,
        router: str = "auto",
        budget: float | None = None,
        rule: RuleName = "top-k",
        fps: float | None = None,
        adaptive: bool = False,
        threshold: float | None = None,
        routing_seed: int | None = None,
        **options: Any,
    ) -> Session:
        """A live session: `session.prompt(...)`, then `session.step(frame)` for every frame.

        Arguments as of `Session`; router to routing_seed as of `track`; options as of
        `tracking_options`, for instance keep=30.
        """
        chosen = tracking_options(preset, compatibility, **options)
        if chosen.lookahead:
            raise InputError("a session cannot look ahead; use track, or session.condition")
        if policy is None:
            wishes = Routing(
                budget, rule, threshold, routing_seed, adaptive, fps, count_waiting=False
            )
            policy = self.policy(router, wishes)
        return Session(
            self.segmenter,
            chosen,
            num_frames=num_frames,
            start=start,
            reverse=reverse,
            size=size,
            dtype=self.dtype,
            policy=policy,
        )
