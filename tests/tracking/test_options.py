"""Options: the official defaults, and one-line errors."""

from __future__ import annotations

from typing import Any

import pytest

from tempomask.errors import InputError
from tempomask.tracking.options import TrackingOptions, tracking_options


def test_defaults_are_those_of_the_official_evaluation() -> None:
    options = tracking_options()
    assert options == TrackingOptions()
    assert (options.fill_holes, options.non_overlapping) == (0, False)
    assert (options.dynamic_multimask, options.binarise_prompted_masks) == (False, False)
    assert (options.memory_stride, options.max_conditioning_frames) == (1, -1)
    assert (options.memory_dtype, options.resize) == ("bfloat16", "bicubic")


def test_the_interactive_preset_is_what_the_official_builder_turns_on() -> None:
    options = tracking_options("interactive")
    assert (options.fill_holes, options.dynamic_multimask) == (8, True)
    assert options.binarise_prompted_masks is True


def test_single_changes_win_over_compatibility_and_that_over_the_preset() -> None:
    options = tracking_options("interactive", "transformers", dynamic_multimask=False)
    assert (options.fill_holes, options.resize) == (0, "bilinear")
    assert options.dynamic_multimask is False
    assert options.binarise_prompted_masks == "frame"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"preset": "best"}, "unknown preset 'best'; use one of evaluation, interactive"),
        ({"compatibility": "hf"}, "must be official or transformers, got 'hf'"),
        ({"memory_strid": 2}, "unknown option 'memory_strid'; did you mean memory_stride?"),
        ({"memory_stride": 0}, "memory_stride must be 1 or more, got 0"),
        ({"max_conditioning_frames": 1}, r"-1 \(all\) or at least 2, got 1"),
        ({"keep": "some"}, "got 'some'"),
        ({"keep": -1}, "got -1"),
        ({"fill_holes": -2}, "got -2"),
        ({"objects_per_batch": 0}, "got 0"),
        ({"memory_dtype": "int8"}, "memory_dtype must be one of .* got 'int8'"),
        ({"resize": "nearest"}, "resize must be one of .* got 'nearest'"),
        ({"binarise_prompted_masks": "all"}, "binarise_prompted_masks must be one of"),
    ],
)
def test_bad_options_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tracking_options(**arguments)
