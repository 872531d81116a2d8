"""Prompts on the command line: options that act in the order in which they are given.

As in ffmpeg, `--object` and `--frame` say for which object and on which frame the prompts after
them are meant: `--point 10,20 --object 2 --frame 5 --box 0,0,9,9` clicks object 1 on frame 0, then
boxes object 2 on frame 5. An `--object` or `--frame` given once, after all prompts, is for all of
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from tempomask.errors import InputError

if TYPE_CHECKING:
    from tempomask.prompts import Prompt


PROMPT_FLAGS = {
    "--point": "point",
    "--negative": "negative",
    "--box": "box",
    "--mask": "mask",
    "--object": "object_id",
    "--frame": "frame",
    "--prompts": "prompts",
}
Words = Annotated[list[str] | None, Parameter(n_tokens=1, allow_leading_hyphen=True)]


@Parameter(
    name="*",
    group=Group.create_ordered("Prompts, in order: --object and --frame are for those after"),
)
@dataclass(frozen=True)
class PromptOptions:
    """Where the objects are. The fields describe the options; `order` tells what was given.

    Args:
        point: X,Y: a click on the object.
        negative: X,Y: a click off the object.
        box: X0,Y0,X1,Y1: a box around the object.
        mask: The object's mask; an image with several ids starts one object for each.
        object_id: Object of the prompts after it; given once behind all, of all.
        frame: Frame of the prompts after it; given once behind all, of all. Default: the first to
            track.
        prompts: A JSON file with a list of {frame, object, points, labels, box, mask}, or the list.
        order: (name, text) of these options in the order given, see `in_order_given`.
    """

    point: Words = None
    negative: Words = None
    box: Words = None
    mask: Words = None
    object_id: Annotated[Words, Parameter(name="--object")] = None
    frame: Words = None
    prompts: Words = None
    order: Annotated[tuple[tuple[str, str], ...], Parameter(parse=False)] = ()

    def read(self, frame: int = 0) -> list[Prompt]:
        """The prompts, at least one; frame: of those that name none."""
        wanted = prompts_from_options(self.order, frame)
        if not wanted:
            raise InputError(
                "no prompt given; say where the object is with --point, --box, --mask or --prompts"
            )
        return wanted

    def files(self) -> tuple[Path, ...]:
        """The files that the options name, and the masks that JSON files among them name."""
        from tempomask.io.prompt_file import files_of, masks_of

        files = [Path(text) for name, text in self.order if name == "mask"]
        for text in [text for name, text in self.order if name == "prompts"]:
            files += [*files_of(text), *masks_of(text)]
        return tuple(files)


def in_order_given(arguments: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(name, text) of every prompt option of a command line, in the order given."""
    found, words = [], iter(arguments)
    for word in words:
        flag, equals, text = word.partition("=")
        if flag in PROMPT_FLAGS:
            found.append((PROMPT_FLAGS[flag], text if equals else next(words, "")))
    return tuple(found)


def prompts_from_options(options: Iterable[tuple[str, str]], frame: int = 0) -> list[Prompt]:
    """The prompts that a row of options stands for; clicks and a box of one object are one prompt.

    Args:
        options: (name, text), in order.
        frame: Of prompts that name none.

    Raises:
        InputError: For what cannot be read, and for an option that acts on no prompt.
    """
    from tempomask.io.prompt_file import mask_prompts, read_prompts
    from tempomask.prompts import Prompt

    file_frame, object_id, named = frame, 1, False
    listed: list[dict[str, Any] | Prompt] = []
    # What was said so far about an object on a frame.
    begun: dict[tuple[int, int], dict[str, Any]] = {}
    for name, text in _standing_first(list(options)):
        here = frame, object_id
        if name == "object_id":
            object_id, named = whole(text, "--object"), True
        elif name == "frame":
            frame = whole(text, "--frame")
        elif name == "prompts":
            listed += read_prompts(text, file_frame)
        elif name == "mask":
            # Clicks that follow a mask correct it, so they make a prompt of their own.
            begun.pop(here, None)
            listed += mask_prompts(Path(text), frame, object_id, named)
        else:
            if here not in begun:
                begun[here] = {"frame": frame, "object_id": object_id}
                listed.append(begun[here])
            _add(begun[here], name, text)
    return [item if isinstance(item, Prompt) else Prompt(**item) for item in listed]


def _add(parts: dict[str, Any], name: str, text: str) -> None:
    """Add a click or a box to what was said about an object on a frame."""
    if name != "box":
        parts.setdefault("points", []).append(coordinates(text, 2, f"--{name}", "x,y"))
        parts.setdefault("labels", []).append(int(name == "point"))
        return
    if "box" in parts:
        raise InputError(
            f"--box {text}: object {parts['object_id']} has a box on frame {parts['frame']}"
            " already; put --object N before the box of another object"
        )
    parts["box"] = coordinates(text, 4, "--box", "x0,y0,x1,y1")


def _standing_first(options: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The options, with an --object or --frame that stands once, behind all prompts, put first."""
    prompting = ("point", "negative", "box", "mask")
    prompted = [k for k, (name, _) in enumerate(options) if name in prompting]
    last = prompted[-1] if prompted else -1
    for name, option in (("object_id", "--object"), ("frame", "--frame")):
        places = [k for k, (given, _) in enumerate(options) if given == name]
        if not places or places[-1] < last:
            continue
        if len(places) > 1 or not prompted:
            value = options[places[-1]][1]
            raise InputError(f"{option} {value} acts on the prompts after it; there are none")
        options = [options[places[0]], *options[: places[0]], *options[places[0] + 1 :]]
        last += 1
    return options


def whole(text: str, option: str) -> int:
    """A whole number; InputError that names the option otherwise."""
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{option} needs a whole number, got {text!r}") from None


def coordinates(text: str, count: int, option: str, form: str) -> tuple[float, ...]:
    """`count` numbers with commas between; InputError that names the option otherwise."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise InputError(f"{option} needs {form} in pixels, got {text!r}")
    return values
