"""The groups of options that commands share, each declared once, as a frozen dataclass.

The command line library makes the flags, their help and their types of the fields; a command takes
such a group as one parameter and hands it on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter, Token
from cyclopts.validators import Number

from tempomask.cli import console
from tempomask.devices import DTypeName
from tempomask.errors import InputError, unknown_name
from tempomask.files import given_path
from tempomask.routing.options import Routing, RuleName
from tempomask.tracking.options import Compatibility, MemoryRule, Preset, TrackingOptions

if TYPE_CHECKING:
    from tempomask.cli.run import Request
    from tempomask.matching.model import Matcher
    from tempomask.model import Model
    from tempomask.propagation.model import Propagator

MODEL = Group.create_ordered("Model")
EVERYTHING = Group.create_ordered("Everything")
SPEED = Group.create_ordered("Speed")
TRACKING = Group.create_ordered("Tracking")
FRAMES = Group.create_ordered("Frames")
TRAINING = Group.create_ordered("Training")
OUTPUT = Group.create_ordered("Output")

# No --no-FLAG beside every --FLAG, no --empty-LIST; of an option given twice the last holds. That a
# flag is off unless it is given goes without saying.
PLAIN = Parameter(
    negative=(),
    allow_repeating=True,
    show_default=lambda value: None if value is False else value,
)


def words(text: str) -> tuple[str, ...]:
    """What stands between commas, without spaces and empty parts."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in words(text))


def _counts(text: str) -> tuple[int, ...]:
    found = tuple(int(part) for part in words(text))
    return found if all(count > 0 for count in found) else ()


def _blocks(text: str) -> tuple[int, ...]:
    found = set[int]()
    for part in words(text):
        first, _, last = part.partition("-")
        if max(len(first), len(last)) > 4:  # no network has so many
            raise ValueError
        found |= set(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def _count_or_blocks(text: str) -> int | tuple[int, ...]:
    return int(text) if re.fullmatch("[0-9]{1,4}", text.strip()) else _blocks(text)


def _listed(read: Callable[[str], Any], what: str) -> Parameter:
    """An option of one word that `read` takes apart; nothing, or ValueError, is bad input."""

    def convert(_type: Any, tokens: Sequence[Token]) -> Any:
        text, found = tokens[-1].value, ()
        with suppress(ValueError):
            found = read(text)
        if found == ():
            raise InputError(f"{tokens[-1].keyword} {text!r} is not a list of {what}")
        return found

    return Parameter(converter=convert, n_tokens=1)


def at_least(least: int) -> Parameter:
    """An option whose number is `least` or more."""
    return Parameter(validator=Number(gte=least))


Names = Annotated[tuple[str, ...], _listed(words, "names, such as one,two; leave it out for all")]
Counts = Annotated[tuple[int, ...], _listed(_counts, "numbers from 1 on, such as 1,5")]
Numbers = Annotated[tuple[float, ...], _listed(_numbers, "numbers, such as 0.5,0.6")]
Blocks = Annotated[tuple[int, ...], _listed(_blocks, "blocks, such as 0,2,12-17")]
# A single number is how many there are to be.
CountOrBlocks = Annotated[
    int | tuple[int, ...], _listed(_count_or_blocks, "blocks, such as 0,2,12-17")
]
Json = Annotated[
    bool, Parameter(name="--json", group=OUTPUT, help="Print JSON on stdout, all else on stderr.")
]
Positive = Annotated[int, at_least(1)]


@Parameter(name="*", group=MODEL)
@dataclass(frozen=True)
class ModelOptions:
    """Which network, and where it runs.

    Args:
        model: Name as in `tempomask models`. Default: what the checkpoint holds, or nano.
        checkpoint: Weights: a file, a folder or a Hub id. Default: the model's own.
        image_size: Side of the square that the network sees. Default: the model's own.
        device: auto, cpu, cuda, cuda:1 or mps.
        dtype: Number type of the computation.
    """

    model: Annotated[str | None, Parameter(name=["--model", "-m"])] = None
    checkpoint: str | None = None
    image_size: int | None = None
    device: str = "auto"
    dtype: DTypeName = "auto"

    def load(self, adapter: str | None = None, pooled_memory: bool = False) -> Model:
        """The model, with a spinner while it loads; InputError as from `load`."""
        with console.waiting("loading the model"):
            from tempomask.model import load

            return load(
                self.model,
                self.checkpoint,
                self.image_size,
                self.device,
                self.dtype,
                adapter,
                pooled_memory=pooled_memory,
            )

    @property
    def matches(self) -> bool:
        """Whether it tracks masks by matching: Cutie or XMem, by name."""
        from tempomask.models.matching.config import MATCHERS

        return self.model in MATCHERS

    def load_tracker(
        self, adapter: str | None = None, pooled_memory: bool = False
    ) -> Model | Matcher:
        """The same as `load`, and Cutie and XMem besides."""
        if not self.matches:
            return self.load(adapter, pooled_memory)
        with console.waiting("loading the model"):
            from tempomask.matching.model import load_matcher

            return load_matcher(
                self.model, self.checkpoint, self.image_size, self.device, self.dtype
            )

    def load_propagator(
        self, name: str | None, adapter: str | None = None, short_side: int | None = None
    ) -> Propagator:
        """Label propagation over the features of a named model; InputError as from its loader."""
        with console.waiting("loading the model"):
            from tempomask.propagation.model import load_propagator

            return load_propagator(
                name, self.checkpoint, short_side, self.device, self.dtype, adapter
            )


@Parameter(name="*", group=SPEED)
@dataclass(frozen=True)
class RoutingOptions(Routing):
    """Which encoder blocks run on a frame: `Routing`, and the adapter whose router it asks.

    Args:
        budget: Share of the encoder's blocks that may run. Default: the adapter's.
        rule: top-k holds the budget on every frame; calibrated on average, after tempomask
            calibrate; threshold and stochastic are the paper's.
        threshold: Of --rule threshold: blocks whose weight reaches it run. Default: 0.5.
        seed: Of the draws of --rule stochastic. Default: 0.
        adaptive: Spend more on hard frames and less on easy ones; the mean stays at the budget.
        fps: Choose the budget frame by frame so that frames come this fast.
        router: Which encoder blocks run: auto (the adapter's choice, else all), none (all), rds
            (chosen anew for each frame), plan-a, plan-b.
        memory_budget: Share of a frame's tokens that may attend to an object's memories: those near
            its last mask and a coarse grid. 1 is exact.
        adapter: What tempomask adapt made: a folder, or the name of a bundled one.
    """

    # Named again, as the library resolves the names of types in this module.
    rule: RuleName = "top-k"
    seed: Annotated[int | None, Parameter(name="--routing-seed")] = None
    count_waiting: Annotated[bool | None, Parameter(parse=False)] = None
    adapter: str | None = None

    def adapter_for(self, model: str | None, checkpoint: str | None) -> str | None:
        """The adapter named, else the model's bundled one if anything is asked of a router."""
        asked = replace(self, memory_budget=1.0).settings()
        if self.adapter is not None or checkpoint is not None or not asked:
            return self.adapter
        from tempomask.adaptation.adapter_file import bundled_adapters

        router = "rds" if self.router == "auto" else self.router
        name = f"{model or 'nano'}-{router}"
        return name if name in bundled_adapters() else None


@Parameter(name="*", group=TRACKING)
@dataclass(frozen=True)
class TrackingFlags:
    """How a video is tracked; what is left out is the preset's.

    Args:
        preset: evaluation: SAM 2's benchmark settings. interactive: its settings for clicking, with
            holes filled and unstable masks replaced.
        compatibility: official, or transformers to give the masks of its implementation.
        memory: recent: the last frames, as SAM 2. samurai: motion chooses masks and memories.
            samurai-official: with the mistakes of its released code. dam4sam: frames that tell the
            object from look-alikes. sam2long: several pathways, at their cost. Default: recent.
        memory_paths: How many pathways sam2long keeps. Default: 3.
        memory_stride: Remember every so many frames besides the last. Default: 1.
        lookahead: Let prompts on later frames help on earlier ones.
        fill_holes: Fill holes of at most so many low-resolution pixels. Default: the preset's.
        non_overlapping: Give each pixel to one object at most.
        dynamic_multimask: Let an unstable mask give way to the best of three.
        objects_per_batch: Objects that go through the network at once. Default: all.
        pooled_memory: Attend to memories pooled 2x2: faster with several objects, a little less
            exact.
    """

    preset: Preset = "evaluation"
    compatibility: Compatibility = "official"
    memory: MemoryRule | None = None
    memory_paths: int | None = None
    memory_stride: int | None = None
    lookahead: bool = False
    fill_holes: int | None = None
    non_overlapping: bool = False
    dynamic_multimask: bool = False
    objects_per_batch: int | None = None
    pooled_memory: bool = False

    def options(self) -> TrackingOptions:
        """The preset with what was given; InputError for what does not go together."""
        names = {"preset", "compatibility", "pooled_memory"}
        given = {name: value for name, value in chosen(self).items() if name not in names}
        return TrackingOptions.of(self.preset, self.compatibility, **given)


@Parameter(name="*", group=OUTPUT)
@dataclass(frozen=True)
class RunOutput:
    """Where the results of a run go.

    Args:
        out: Folder for the results. Default: named after SOURCE.
        save: Formats, with commas between.
        names: Call masks after the source's images, as YouTube-VOS and MOSE do, not by number.
        audio: Give the overlay the audio of the source.
        resume: Go on with an interrupted run in the same folder, after its last finished frame.
    """

    out: Path | None = None
    save: Names | None = None
    names: bool = False
    audio: bool = False
    resume: bool = False
    as_json: Json = False

    def check(self, task: str) -> None:
        """InputError for formats that a task, `track` or `instances`, cannot save."""
        from tempomask.io.result_folder import formats_of

        known = formats_of(task)
        for name in self.save or ():
            if name not in known:
                raise unknown_name(f"--save {name}: unknown", name, known)

    def request(self, source: str, what: str, saved: Sequence[str], **rest: Any) -> Request:
        """What is asked of a run; a folder left out is SOURCE-what, formats are `saved`."""
        from tempomask.cli.run import Request

        out = default_folder(source, what) if self.out is None else given_path(self.out)
        save = frozenset(self.save or saved)
        if self.audio and "overlay" not in save:
            raise InputError("--audio is of the overlay; add overlay to --save, or leave it out")
        rest |= {"names": self.names, "audio": self.audio}
        return Request(source, out, save, self.resume, **rest)


def default_folder(source: str, what: str) -> Path:
    """Where results go unless a folder is named: in this folder, beside those of other sources."""
    from tempomask.io.result_folder import holds_another

    name = f"camera{source}" if source.isdecimal() else given_path(source.rstrip("/")).stem
    first = Path(f"{name or 'video'}-{what}")
    folders = chain([first], (first.with_name(f"{first.name}-{n}") for n in count(2)))
    folder = next(folder for folder in folders if not holds_another(folder, source))
    if folder != first:
        console.note(f"{first} holds the results of another source; these go to {folder}")
    return folder


def chosen(group: Any) -> dict[str, Any]:
    """The fields of a group of options that are not at their defaults."""
    values = ((f.name, getattr(group, f.name), f.default) for f in fields(group))
    return {name: value for name, value, default in values if value != default}


def refuse(why: str, *groups: Any, **options: Any) -> None:
    """InputError that names the first option that was given, of groups and of single options."""
    given = {name: value for group in groups for name, value in chosen(group).items()}
    given |= {name: value for name, value in options.items() if value not in (None, False)}
    for name in given:
        flag = {"seed": "routing-seed"}.get(name, name.replace("_", "-"))
        raise InputError(f"{why}; leave --{flag} out")
