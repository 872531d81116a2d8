"""Prompts from options in order, from mask images and from JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempomask import InputError
from tempomask.cli.main import app
from tempomask.cli.prompt_options import in_order_given, prompts_from_options
from tempomask.io.prompt_file import read_prompts


def said(*options: tuple[str, str]) -> list[tuple[object, ...]]:
    """Prompts as plain tuples: frame, object, points, labels, box."""

    def plain(value: object) -> object:
        return None if value is None else np.asarray(value).tolist()

    return [
        (p.frame, p.object_id, plain(p.points), plain(p.labels), plain(p.box))
        for p in prompts_from_options(options)
    ]


@pytest.mark.parametrize(
    "options, expected",
    [
        ([("point", "410,260")], [(0, 1, [[410, 260]], [1], None)]),
        (
            [("point", "1,2"), ("negative", "3,4"), ("box", "0,0,9,9")],
            [(0, 1, [[1, 2], [3, 4]], [1, 0], [0, 0, 9, 9])],
        ),
        (
            [("point", "1,2"), ("object_id", "2"), ("box", "0,0,9,9"), ("frame", "5"),
             ("point", "3,4")],
            [
                (0, 1, [[1, 2]], [1], None),
                (0, 2, None, None, [0, 0, 9, 9]),
                (5, 2, [[3, 4]], [1], None),
            ],
        ),
        # Given once behind all prompts: for all of them.
        ([("point", "1,2"), ("object_id", "7"), ("frame", "3")], [(3, 7, [[1, 2]], [1], None)]),
        # Coming back to an object on the same frame adds to its prompt.
        (
            [("object_id", "1"), ("point", "1,2"), ("object_id", "2"), ("point", "5,6"),
             ("object_id", "1"), ("negative", "3,4")],
            [(0, 1, [[1, 2], [3, 4]], [1, 0], None), (0, 2, [[5, 6]], [1], None)],
        ),
        ([], []),
    ],
)  # fmt: skip
def test_options_act_in_order(
    options: list[tuple[str, str]], expected: list[tuple[object, ...]]
) -> None:
    assert said(*options) == expected


@pytest.mark.parametrize(
    "options, message",
    [
        ([("point", "1;2")], "--point needs x,y in pixels, got '1;2'"),
        ([("negative", "1")], "--negative needs x,y in pixels, got '1'"),
        ([("box", "1,2,3")], "--box needs x0,y0,x1,y1 in pixels, got '1,2,3'"),
        ([("object_id", "a"), ("point", "1,2")], "--object needs a whole number, got 'a'"),
        ([("box", "0,0,1,1"), ("box", "0,0,2,2")], "object 1 has a box on frame 0 already"),
        ([("box", "5,0,5,9")], "box with no area"),
        ([("frame", "-1"), ("point", "1,2")], "frame must be 0 or more, got -1"),
        (
            [("object_id", "1"), ("point", "1,2"), ("object_id", "2")],
            "--object 2 acts on the prompts after it; there are none",
        ),
        ([("frame", "3"), ("prompts", "clicks.json")], "--frame 3 acts on the prompts after it"),
        ([("mask", "no/such.png")], "no/such.png"),
    ],
)
def test_bad_options_are_named(options: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(InputError) as caught:
        prompts_from_options(options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(0, 99), st.integers(0, 99)),
        min_size=1,
    )
)
def test_every_point_reaches_its_object_and_frame(
    clicks: list[tuple[int, int, int, int]],
) -> None:
    options = []
    for frame, object_id, x, y in clicks:
        options += [("frame", str(frame)), ("object_id", str(object_id)), ("point", f"{x},{y}")]
    found = [
        (p.frame, p.object_id, int(x), int(y))
        for p in prompts_from_options(options)
        for x, y in np.asarray(p.points)
    ]
    assert sorted(found) == sorted(clicks)
    assert len({(f, o) for f, o, _, _ in clicks}) == len(prompts_from_options(options))


def test_the_command_line_keeps_their_order() -> None:
    arguments = ["track", "--point", "1,2", "v.mp4", "--resume", "--object=2", "--negative", "-3,4"]
    named = in_order_given(arguments)
    assert named == (("point", "1,2"), ("object_id", "2"), ("negative", "-3,4"))
    _, bound, _ = app.parse_args(arguments, exit_on_error=False)
    prompts = bound.arguments["prompts"]
    assert (prompts.point, prompts.object_id, prompts.negative) == (["1,2"], ["2"], ["-3,4"])


def test_a_label_map_starts_one_object_for_each_id(tmp_path: Path) -> None:
    from tempomask.io.images import write_label_png

    labels = np.zeros((6, 8), dtype=np.int32)
    labels[1:3, 1:3], labels[4, 5:] = 3, 7
    write_label_png(tmp_path / "two.png", labels)
    write_label_png(tmp_path / "one.png", np.where(labels == 3, 3, 0))
    write_label_png(tmp_path / "none.png", np.zeros_like(labels))

    both = prompts_from_options([("mask", str(tmp_path / "two.png"))])
    assert [p.object_id for p in both] == [3, 7]
    assert all(np.array_equal(p.mask, labels == p.object_id) for p in both)  # type: ignore[arg-type]

    options = [("object_id", "9"), ("frame", "2"), ("mask", str(tmp_path / "one.png"))]
    (one,) = prompts_from_options(options)
    assert (one.frame, one.object_id) == (2, 9)
    corrected = prompts_from_options([("point", "1,1"), *options[2:], ("negative", "5,4")])
    assert [p.mask is None for p in corrected] == [True, False, True]
    with pytest.raises(InputError, match=r"two\.png"):
        prompts_from_options([("object_id", "9"), ("mask", str(tmp_path / "two.png"))])
    with pytest.raises(InputError, match=r"none\.png"):
        prompts_from_options([("mask", str(tmp_path / "none.png"))])


def test_prompts_come_from_json_too(tmp_path: Path) -> None:
    from tempomask.io.images import write_label_png

    labels = np.zeros((6, 8), dtype=np.int32)
    labels[1:3, 1:3] = 1
    write_label_png(tmp_path / "first.png", labels)
    entries = [
        {
            "frame": 4,
            "object": 2,
            "points": [[1, 2], [3, 4]],
            "labels": [1, 0],
            "box": [0, 0, 5, 5],
        },
        {"mask": "first.png"},
    ]
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(entries))
    first, second = read_prompts(path)
    assert (first.frame, first.object_id, first.num_points) == (4, 2, 4)
    assert (second.frame, second.object_id) == (0, 1)
    assert np.array_equal(second.mask, labels == 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text, message",
    [
        ("[", "is not JSON"),
        ("{}", "must hold a list of prompts"),
        ("[]", "is an empty list; add a prompt, such as"),
        ("[3]", "prompt 0: expected an object with"),
        ('[{"point": [1, 2]}]', "prompt 0: unknown key 'point'"),
        ('[{"box": [0, 0, 1, 1]}, {"points": [[1, 2]], "labels": [2]}]', "prompt 1: "),
        ('[{"mask": "a.png", "points": [[1, 2]]}]', "a mask excludes points"),
        ('[{"mask": 3}]', "mask must be the path of an image, got 3"),
        ('[{"frame": "x", "box": [0, 0, 1, 1]}]', "frame must be a whole number"),
    ],
)
def test_bad_json_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_prompts(path)
    assert message in str(caught.value)
    assert "prompts.json" in str(caught.value)


def test_a_missing_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json"):
        read_prompts(tmp_path / "absent.json")
