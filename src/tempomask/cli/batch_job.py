"""What a process of `tempomask batch` does: one call of `track`, the model loaded once."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App, CycloptsError

from tempomask.batch.jobs import MARKER, Job
from tempomask.batch.report import THUMBNAIL
from tempomask.cli import console
from tempomask.cli.options import PLAIN, ModelOptions
from tempomask.cli.prompt_options import PROMPT_FLAGS, PromptOptions, in_order_given
from tempomask.cli.track import Asked, track
from tempomask.errors import InputError, InputWarning
from tempomask.files import replacing

if TYPE_CHECKING:
    from tempomask.matching.model import Matcher
    from tempomask.model import Model

# Of the thumbnail, in pixels.
_WIDTH = 160
_NUMBERS = ("--start", "--end")
_app = App(default_parameter=PLAIN, help_flags=(), version_flags=())
_app.default(track)


def columns() -> dict[str, bool]:
    """The options of `track` that a job may give, and whether each is a flag."""
    found = {}
    for argument in _app.assemble_argument_collection():
        name = argument.names[0].removeprefix("--").replace("-", "_")
        if argument.names[0].startswith("--") and argument.parse is not False:
            found[name] = argument.hint is bool
    for name in ("out", "resume", "json"):
        del found[name]
    return found


def asked_of(job: Job) -> Asked:
    """What a job asks of `track`; InputError for what it does not take."""
    source, *words = job.words
    # What differs from job to job is put in afterwards: reading a command line takes 20 ms.
    numbers, rest = dict[str, int](), list[str]()
    for word in words:
        name, _, text = word.partition("=")
        if name in _NUMBERS and re.fullmatch("-?[0-9]{1,9}", text):
            numbers[name.removeprefix("--")] = int(text)
        elif name not in PROMPT_FLAGS:
            rest.append(word)
    prompts = PromptOptions(order=in_order_given(words))
    return replace(_parsed(tuple(rest)), source=source, prompts=prompts, **numbers)


@lru_cache(1024)
def _parsed(words: tuple[str, ...]) -> Asked:
    try:
        _, bound, _ = _app.parse_args(["source", *words], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise InputError(" ".join(str(error).split())) from None
    bound.apply_defaults()
    return Asked(**bound.arguments)


def start() -> Callable[[Job], dict[str, Any]]:
    """Begin a process: the function that does a job."""
    console.speak(True, False)
    loaded: dict[Any, Model | Matcher] = {}

    def load(model: ModelOptions, adapter: str | None, pooled: bool) -> Model | Matcher:
        key = model, adapter, pooled
        if key not in loaded:
            loaded.clear()  # one at a time in memory
            loaded[key] = model.load_tracker(adapter, pooled)
        return loaded[key]

    def do(job: Job) -> dict[str, Any]:
        from tempomask.io.result_folder import JOURNAL

        asked = asked_of(job)
        # A job that failed goes on too; that of other words begins anew.
        begun = (job.out / JOURNAL).exists()
        begun = begun and (job.place.read(MARKER) is None or job.marker() is not None)
        (job.out / MARKER).unlink(missing_ok=True)
        asked = replace(asked, output=replace(asked.output, out=job.out, resume=begun))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", InputWarning)
            report, _ = asked.execute(*asked.check(), load)
        doubts = [str(one.message) for one in said if issubclass(one.category, InputWarning)]
        report |= {"warnings": doubts}
        if not report["interrupted"]:
            _save_thumbnail(asked.source, job.out)
            job.place.remove()
            job.place.hand_over()
            job.mark(report)
            job.place.tidy()
        return report

    return do


def _save_thumbnail(source: str, out: Path) -> None:
    """The frame with the largest masks, of those that can be had again."""
    from PIL import Image

    from tempomask.io.journal import open_journal
    from tempomask.io.overlay import draw_overlay
    from tempomask.io.result_folder import JOURNAL
    from tempomask.io.video import open_video

    record = max(open_journal(out / JOURNAL).records(), key=lambda record: record.areas.sum())
    with open_video(source) as video:
        if not video.seekable:
            return
        _, frame = next(iter(video.frames(record.index, record.index + 1)))
    image = Image.fromarray(draw_overlay(frame, record, tags=False))
    image.thumbnail((_WIDTH, _WIDTH))
    with replacing(out / THUMBNAIL) as part:
        image.save(part, format="JPEG", quality=80)
