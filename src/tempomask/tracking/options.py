"""How a video is tracked: `TrackingOptions`, with SAM 2's evaluation settings as defaults.

SAM 2 ships two sets of defaults: those its benchmark script runs with (`vos_inference.py`, here the
defaults) and those its builder turns on for people who click (`TrackingOptions.interactive`).
`transformers` differs from both in ways that `TrackingOptions.transformers` reproduces.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

from tempomask.errors import InputError, check_choice, check_least

Direction = Literal["forward", "backward", "both"]
Preset = Literal["evaluation", "interactive"]
Compatibility = Literal["official", "transformers"]
MemoryRule = Literal["recent", "samurai", "samurai-official", "dam4sam", "sam2long"]
MemoryDType = Literal["bfloat16", "float16", "float32"]
Resize = Literal["bicubic", "bilinear"]
Binarise = Literal[False, True, "frame"]
# SAMURAI's weight of the motion score for large models; that of all others is a default below.
LARGE_MOTION_WEIGHT = 0.15


@dataclass(frozen=True)
class SamuraiConfig:
    """SAMURAI's constants (`samurai.py`); names in brackets are those of the released code.

    Args:
        motion_weight: Of the motion score against the predicted IoU [kf_score_weight].
        stable_frames: So many good frames in a row before motion has a say
            [stable_frames_threshold].
        stable_iou: Predicted IoU below which motion is lost [stable_ious_threshold].
        presence_threshold: Object score at or below which the mask is blanked
            [min_obj_score_logits].
        memory_iou: A frame is remembered if its predicted IoU is above this
            [memory_bank_iou_threshold],
        memory_object_score: its object score (a logit) above this
            [memory_bank_obj_score_threshold],
        memory_motion: and its motion score above this [memory_bank_kf_score_threshold].
        multimask: Three masks compete on frames without a prompt, whatever the model's own rule.
        official_quirks: Do as the released code does, mistakes included; `samurai.py` lists them.
    """

    motion_weight: float = 0.25
    stable_frames: int = 15
    stable_iou: float = 0.3
    presence_threshold: float = -1.0
    memory_iou: float = 0.5
    memory_object_score: float = 0.0
    memory_motion: float = 0.0
    multimask: bool = True
    official_quirks: bool = False

    @classmethod
    def for_model(cls, name: str) -> Self:
        """The official constants for the size of a named model.

        For nano one mask stands alone, as in its own rule: its three masks are trained for clicks,
        and letting them compete on every frame loses what motion gains.

        >>> SamuraiConfig.for_model("sam2.1-large").motion_weight
        0.15
        """
        if name == "nano":
            return cls(multimask=False)
        return cls(motion_weight=LARGE_MOTION_WEIGHT) if "large" in name else cls()


@dataclass(frozen=True)
class TrackingOptions:
    """How a video is tracked. Names in brackets are SAM 2's.

    Args:
        memory: Which frames are remembered. "recent", SAM 2's rule: the last ones. "samurai":
            motion chooses among the masks, and frames with good scores are remembered.
            "samurai-official": with the mistakes of the released code, to compare with it; forward
            only. "dam4sam": the last ones in which the object is seen, and frames that tell it from
            look-alikes. "sam2long": several pathways of masks and memories, of which the most
            probable is shown.
        samurai: Other constants than the official ones for the model's size.
        memory_paths: How many pathways "sam2long" keeps; each costs what an object costs.
        memory_stride: Of the six recent memories all but the nearest are multiples of this frame
            number [memory_temporal_stride_for_eval].
        max_conditioning_frames: Prompted frames attended to, at least 2; -1 for all
            [max_cond_frames_in_attn].
        memory_dtype: Type in which memories are stored; SAM 2 always stores bfloat16.
        keep: Number of earlier frames that can still be corrected, or "all". What nothing can reach
            any more is dropped at once, so memory use does not grow unless "all" is asked for.
        corrections_condition: A corrected frame becomes a conditioning frame
            [add_all_frames_to_correct_as_cond].
        feed_previous_logits: A further prompt on a frame sees the logits so far as mask prompt.
        lookahead: `track` remembers every prompted frame before it starts, as SAM 2's predictor
            does; otherwise a prompt is unknown until its frame comes.
        fill_holes: Background specks of at most this many low-resolution pixels are filled in
            results, and with them in what is remembered of a prompted frame [fill_hole_area].
        non_overlapping: Each pixel of a result belongs to one object at most [non_overlap_masks].
        non_overlapping_memory: The same for masks before they are remembered
            [non_overlap_masks_for_mem_enc].
        dynamic_multimask: An unstable single mask gives way to the best of three
            [dynamic_multimask_via_stability].
        binarise_prompted_masks: Memories of prompted frames come from hard masks
            [binarize_mask_from_pts_for_mem_enc]; "frame" hardens the masks of every object on a
            frame where any object is prompted (transformers).
        memory_from_full_mask: The memory of a mask prompt comes from the mask at network resolution
            (transformers) instead of its low-resolution logits.
        multimask_mask_pointer: The object pointer of a mask prompt is the best of three
            (transformers).
        resize: Filter that brings frames to the network's size: "bicubic" (SAM 2's video frames) or
            "bilinear" (transformers).
        objects_per_batch: At most so many objects go through the network at once; None for all.
        static_memory: Memory attention sees the same shapes on every frame, empty places masked, as
            compiled networks need; None: where the network is compiled (`Model.compile`). The masks
            are the same; on a CPU it only costs time. Needs the fast engine.
        warn_of_clicks: Warn of clicks that can mean several things. Says nothing about the masks,
            so that options which differ in it are equal.

    Raises:
        InputError: For values out of range, and for those that do not go together.

    Example:
        >>> TrackingOptions.interactive(keep=30).fill_holes
        8
    """

    memory: MemoryRule = "recent"
    samurai: SamuraiConfig | None = None
    memory_paths: int = 3
    memory_stride: int = 1
    max_conditioning_frames: int = -1
    memory_dtype: MemoryDType = "bfloat16"
    keep: int | Literal["all"] = 0
    corrections_condition: bool = True
    feed_previous_logits: bool = True
    lookahead: bool = False
    fill_holes: int = 0
    non_overlapping: bool = False
    non_overlapping_memory: bool = False
    dynamic_multimask: bool = False
    binarise_prompted_masks: Binarise = False
    memory_from_full_mask: bool = False
    multimask_mask_pointer: bool = False
    resize: Resize = "bicubic"
    objects_per_batch: int | None = None
    static_memory: bool | None = None
    warn_of_clicks: bool = field(default=True, compare=False, repr=False)

    @classmethod
    def interactive(cls, **changes: Any) -> Self:
        """What SAM 2's builder turns on for people who click, with some fields changed."""
        clicking = {"fill_holes": 8, "dynamic_multimask": True, "binarise_prompted_masks": True}
        return cls(**{**clicking, **changes})

    @classmethod
    def transformers(cls, **changes: Any) -> Self:
        """What transformers' Sam2VideoModel always does, with some fields changed."""
        fixed = {
            "resize": "bilinear",
            "dynamic_multimask": True,
            "binarise_prompted_masks": "frame",
            "memory_from_full_mask": True,
            "multimask_mask_pointer": True,
            "feed_previous_logits": False,
            "corrections_condition": False,
        }
        return cls(**{**fixed, **changes})

    @classmethod
    def of(cls, preset: Preset, compatibility: Compatibility, **changes: Any) -> Self:
        """The options of a preset and a compatibility, which goes before it, with changes.

        Raises:
            InputError: For unknown names, and for bad values.
        """
        check_choice("preset", preset, Preset)
        check_choice("compatibility", compatibility, Compatibility)
        if compatibility == "transformers":
            return cls.transformers(**changes)
        return cls.interactive(**changes) if preset == "interactive" else cls(**changes)

    def __post_init__(self) -> None:
        check_least(self, memory_paths=1, memory_stride=1, fill_holes=0, objects_per_batch=1)
        if self.max_conditioning_frames != -1 and self.max_conditioning_frames < 2:
            raise InputError(
                "max_conditioning_frames must be -1 (all) or at least 2,"
                f" got {self.max_conditioning_frames}"
            )
        if self.keep != "all" and (isinstance(self.keep, str) or self.keep < 0):
            raise InputError(f'keep must be 0 or more frames, or "all", got {self.keep!r}')
        check_choice("memory", self.memory, MemoryRule)
        check_choice("memory_dtype", self.memory_dtype, MemoryDType)
        check_choice("resize", self.resize, Resize)
        check_choice("binarise_prompted_masks", self.binarise_prompted_masks, Binarise)
        if not self.memory.startswith("samurai") and self.samurai is not None:
            raise InputError('samurai constants were given; they need memory="samurai"')
        if self.memory == "sam2long" and self.non_overlapping_memory:
            raise InputError(
                'non_overlapping_memory does not go with memory="sam2long", whose pathways overlap'
                " by design; leave one of them out"
            )
        if self.memory != "sam2long" and self.memory_paths != 3:
            raise InputError(f'memory_paths {self.memory_paths} needs memory="sam2long"')
        if self.memory != "recent" and self.memory_stride != 1:
            raise InputError(
                f"memory_stride {self.memory_stride} has no meaning for memory={self.memory!r},"
                " which picks frames by their scores; leave it out"
            )

    def samurai_constants(self, model: str) -> SamuraiConfig | None:
        """SAMURAI's constants for a named model, None if its memory was not asked for."""
        if not self.memory.startswith("samurai"):
            return None
        constants = self.samurai or SamuraiConfig.for_model(model)
        quirks = constants.official_quirks or self.memory == "samurai-official"
        return replace(constants, official_quirks=quirks)

    def settings(self) -> dict[str, Any]:
        """The nearest preset and what differs from it, as summaries and journals name them."""
        bases = [
            ("evaluation", "official", TrackingOptions()),
            ("interactive", "official", TrackingOptions.interactive()),
            ("evaluation", "transformers", TrackingOptions.transformers()),
        ]
        preset, compatibility, base = min(bases, key=lambda one: len(self._differing(one[2])))
        names = {"preset": preset, "compatibility": compatibility}
        return {**names, **self._differing(base)}

    def _differing(self, other: TrackingOptions) -> dict[str, Any]:
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self) if f.compare)
        return {name: value for name, value in pairs if value != getattr(other, name)}
