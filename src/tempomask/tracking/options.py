"""Options of a tracking session, with SAM 2's evaluation settings as defaults.

SAM 2 ships two sets of defaults: those its benchmark script runs with (`vos_inference.py`, here the
preset "evaluation") and those its builder turns on for people who click (the preset "interactive").
`transformers` differs from both in ways that `compatibility="transformers"` reproduces.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from tempomask.errors import InputError, unknown_name
from tempomask.tracking.samurai import SamuraiConfig, samurai_config

Preset = Literal["evaluation", "interactive"]
Compatibility = Literal["official", "transformers"]
MemoryRule = Literal["recent", "samurai", "samurai-official"]


@dataclass(frozen=True)
class TrackingOptions:
    """How a video is tracked. Names in brackets are SAM 2's.

    Memory:
    memory: "recent", SAM 2's rule: the last frames. "samurai": motion chooses among the masks, and
        frames with good scores are remembered. "samurai-official": with the mistakes of the
        released code (`SamuraiConfig.official_quirks`), to compare with it; forward only.
    samurai: other constants than the official ones for the model's size.
    memory_stride: of the six recent memories all but the nearest are multiples of this frame number
        [memory_temporal_stride_for_eval].
    max_conditioning_frames: prompted frames attended to, -1 for all, else at least 2
        [max_cond_frames_in_attn].
    memory_dtype: in which memories are stored; SAM 2 always stores bfloat16.
    keep: number of earlier frames that can still be corrected, or "all"; what nothing can reach any
        more is dropped at once, so memory use does not grow unless "all" is asked for.
    corrections_condition: a corrected frame becomes a conditioning frame
        [add_all_frames_to_correct_as_cond].
    feed_previous_logits: a further prompt on a frame sees the logits so far as mask prompt.
    lookahead: `track` memorises every prompted frame before it starts, as SAM 2's predictor does;
        otherwise a prompt is unknown until its frame comes.

    Masks:
    fill_holes: background specks of at most this many low-resolution pixels are filled in results,
        and with them in what is remembered of a prompted frame [fill_hole_area].
    non_overlapping: each pixel of the result belongs to one object at most [non_overlap_masks].
    non_overlapping_memory: the same for masks before they are memorised
        [non_overlap_masks_for_mem_enc].
    dynamic_multimask: an unstable single mask gives way to the best of three
        [dynamic_multimask_via_stability].
    binarise_prompted_masks: memories of prompted frames come from hard masks
        [binarize_mask_from_pts_for_mem_enc]; "frame" hardens the masks of every object on a frame
        where any object is prompted (transformers).
    memory_from_full_mask: the memory of a mask prompt comes from the mask at network resolution
        (transformers) instead of its low-resolution logits.
    multimask_mask_pointer: the object pointer of a mask prompt is the best of three (transformers).

    Running:
    resize: "bicubic" (SAM 2's video frames) or "bilinear" (transformers).
    objects_per_batch: at most so many objects go through the network at once; None for all.
    static_memory: memory attention sees the same shapes on every frame, empty places masked, as
        compiled networks need; None: where the network is compiled (`Model.warmup`). The masks are
        the same; on a CPU it only costs time. Needs the fast engine.
    """

    memory: MemoryRule = "recent"
    samurai: SamuraiConfig | None = None
    memory_stride: int = 1
    max_conditioning_frames: int = -1
    memory_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    keep: int | Literal["all"] = 0
    corrections_condition: bool = True
    feed_previous_logits: bool = True
    lookahead: bool = False
    fill_holes: int = 0
    non_overlapping: bool = False
    non_overlapping_memory: bool = False
    dynamic_multimask: bool = False
    binarise_prompted_masks: bool | Literal["frame"] = False
    memory_from_full_mask: bool = False
    multimask_mask_pointer: bool = False
    resize: Literal["bicubic", "bilinear"] = "bicubic"
    objects_per_batch: int | None = None
    static_memory: bool | None = None

    def __post_init__(self) -> None:
        if self.memory_stride < 1:
            raise InputError(f"memory_stride must be 1 or more, got {self.memory_stride}")
        if self.max_conditioning_frames != -1 and self.max_conditioning_frames < 2:
            raise InputError(
                "max_conditioning_frames must be -1 (all) or at least 2,"
                f" got {self.max_conditioning_frames}"
            )
        if self.keep != "all" and (isinstance(self.keep, str) or self.keep < 0):
            raise InputError(f'keep must be 0 or more frames, or "all", got {self.keep!r}')
        if self.fill_holes < 0:
            raise InputError(f"fill_holes must be an area of 0 or more, got {self.fill_holes}")
        if self.objects_per_batch is not None and self.objects_per_batch < 1:
            raise InputError(f"objects_per_batch must be 1 or more, got {self.objects_per_batch}")
        choices = {
            "memory": ("recent", "samurai", "samurai-official"),
            "memory_dtype": ("bfloat16", "float16", "float32"),
            "resize": ("bicubic", "bilinear"),
            "binarise_prompted_masks": (False, True, "frame"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                listed = ", ".join(map(str, allowed))
                raise InputError(f"{name} must be one of {listed}, got {getattr(self, name)!r}")
        if self.memory == "recent" and self.samurai is not None:
            raise InputError('samurai constants were given; they need memory="samurai"')
        if self.memory != "recent" and self.memory_stride != 1:
            raise InputError(
                f"memory_stride {self.memory_stride} has no meaning for memory={self.memory!r},"
                " which picks frames by their scores; leave it out"
            )

    def samurai_constants(self, model: str) -> SamuraiConfig | None:
        """SAMURAI's constants for a named model, None if its memory was not asked for."""
        if self.memory == "recent":
            return None
        constants = samurai_config(model) if self.samurai is None else self.samurai
        quirks = constants.official_quirks or self.memory == "samurai-official"
        return replace(constants, official_quirks=quirks)


PRESETS: dict[str, TrackingOptions] = {
    "evaluation": TrackingOptions(),
    "interactive": TrackingOptions(
        fill_holes=8, dynamic_multimask=True, binarise_prompted_masks=True
    ),
}
# transformers' Sam2VideoModel: what it does whatever it is asked for.
TRANSFORMERS = {
    "resize": "bilinear",
    "fill_holes": 0,
    "dynamic_multimask": True,
    "binarise_prompted_masks": "frame",
    "memory_from_full_mask": True,
    "multimask_mask_pointer": True,
    "feed_previous_logits": False,
    "corrections_condition": False,
}


def tracking_options(
    preset: Preset = "evaluation", compatibility: Compatibility = "official", **changes: Any
) -> TrackingOptions:
    """Options from a preset, then a compatibility, then single changes.

    Raises InputError for names that do not exist.

    >>> tracking_options("interactive", keep=30).fill_holes
    8
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; use one of {', '.join(PRESETS)}")
    if compatibility not in ("official", "transformers"):
        raise InputError(f"compatibility must be official or transformers, got {compatibility!r}")
    names = [field.name for field in fields(TrackingOptions)]
    for name in changes:
        if name not in names:
            raise unknown_name(f"unknown option {name!r}", name, names)
    base = TRANSFORMERS if compatibility == "transformers" else {}
    return replace(PRESETS[preset], **{**base, **changes})
