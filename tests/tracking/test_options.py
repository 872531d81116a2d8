"""Options: the official defaults, and one-line errors."""

from __future__ import annotations

from typing import Any

import pytest

from tempomask.errors import InputError
from tempomask.tracking.options import TrackingOptions


def test_defaults_are_those_of_the_official_evaluation() -> None:
    options = TrackingOptions()
    assert options == TrackingOptions.of("evaluation", "official")
    assert (options.fill_holes, options.non_overlapping) == (0, False)
    assert (options.dynamic_multimask, options.binarise_prompted_masks) == (False, False)
    assert (options.memory_stride, options.max_conditioning_frames) == (1, -1)
    assert (options.memory_dtype, options.resize) == ("bfloat16", "bicubic")


def test_the_interactive_preset_is_what_the_official_builder_turns_on() -> None:
    options = TrackingOptions.interactive()
    assert (options.fill_holes, options.dynamic_multimask) == (8, True)
    assert options.binarise_prompted_masks is True


def test_single_changes_win_over_compatibility_and_that_over_the_preset() -> None:
    options = TrackingOptions.of("interactive", "transformers", dynamic_multimask=False)
    assert options == TrackingOptions.transformers(dynamic_multimask=False)
    assert (options.fill_holes, options.resize) == (0, "bilinear")
    assert options.dynamic_multimask is False
    assert options.binarise_prompted_masks == "frame"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"memory_stride": 0}, "memory_stride must be 1 or more, got 0"),
        ({"max_conditioning_frames": 1}, r"-1 \(all\) or at least 2, got 1"),
        ({"keep": "some"}, "got 'some'"),
        ({"keep": -1}, "got -1"),
        ({"fill_holes": -2}, "got -2"),
        ({"objects_per_batch": 0}, "got 0"),
        ({"memory_dtype": "int8"}, "memory_dtype must be .* got 'int8'"),
        ({"resize": "nearest"}, "resize must be .* got 'nearest'"),
        ({"binarise_prompted_masks": "all"}, "binarise_prompted_masks must be"),
    ],
)
def test_bad_options_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrackingOptions(**arguments)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="'best'"):
        TrackingOptions.of("best", "official")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'hf'"):
        TrackingOptions.of("evaluation", "hf")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="memory_strid"):
        TrackingOptions.interactive(memory_strid=2)


@pytest.mark.parametrize(
    "options, settings",
    [
        (TrackingOptions(), {"preset": "evaluation", "compatibility": "official"}),
        (
            TrackingOptions.interactive(fill_holes=3, keep="all"),
            {"preset": "interactive", "compatibility": "official", "fill_holes": 3, "keep": "all"},
        ),
        (
            TrackingOptions.transformers(dynamic_multimask=False),
            {
                "preset": "evaluation",
                "compatibility": "transformers",
                "dynamic_multimask": False,
            },
        ),
        (
            TrackingOptions(dynamic_multimask=True),
            {"preset": "evaluation", "compatibility": "official", "dynamic_multimask": True},
        ),
    ],
)
def test_settings_name_the_nearest_preset(
    options: TrackingOptions, settings: dict[str, Any]
) -> None:
    assert options.settings() == settings
