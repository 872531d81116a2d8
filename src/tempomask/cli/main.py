"""The command line: `tempomask track`, `propagate`, `eval`, `demo`, `models`, `train` ...

Exit codes: 0 done, 1 unexpected error, 2 bad input (one line on stderr), 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from io import TextIOWrapper

from cyclopts import App, CycloptsError

from tempomask import __version__
from tempomask.cli import console
from tempomask.cli.adapt import adapt
from tempomask.cli.annotate import annotate
from tempomask.cli.batch import batch
from tempomask.cli.calibrate import calibrate
from tempomask.cli.data import check
from tempomask.cli.demo import demo
from tempomask.cli.evaluate import boxes, youtube_vis
from tempomask.cli.evaluate_images import images
from tempomask.cli.evaluate_promptable import interactive, pvs
from tempomask.cli.evaluate_vos import davis, lvos, mose, sav, vost, youtube_vos
from tempomask.cli.export import export
from tempomask.cli.finetune import finetune
from tempomask.cli.instances import instances
from tempomask.cli.models import models
from tempomask.cli.options import PLAIN
from tempomask.cli.prompt_options import PromptOptions, in_order_given
from tempomask.cli.propagate import propagate
from tempomask.cli.segment import segment
from tempomask.cli.track import track
from tempomask.cli.train import train, train_instances
from tempomask.cli.vot import vot
from tempomask.devices import check_threads, set_threads
from tempomask.errors import InputError, InputWarning
from tempomask.files import FolderLock
from tempomask.limits import VARIABLE, limits

app = App(
    name="tempomask",
    help="Segment and track objects in video: one click, box or mask to masks in every frame.\n\n"
    "Given anywhere, --traceback shows where an error comes from, --limits pixels=4e8 raises a"
    " limit on inputs, and --allow-playlists follows m3u8 and other lists of files. --threads N"
    " computes with N threads, --quiet says nothing but"
    " errors, warnings and --json, and --verbose says more.",
    version=f"tempomask {__version__}",
    version_format="plaintext",
    default_parameter=PLAIN,
    console=console.out,
)
evaluation = App(name="eval", help="Score a model, or masks on disk, on a dataset.")
data = App(name="data", help="Check data to train or evaluate on.")
for command in (
    track,
    batch,
    segment,
    annotate,
    propagate,
    instances,
    demo,
    models,
    train,
    train_instances,
    finetune,
    adapt,
    calibrate,
    vot,
    export,
):
    app.command(command)
VOS = (davis, youtube_vos, mose, lvos, sav, vost)
for command in (*VOS, pvs, interactive, boxes, youtube_vis, images):
    evaluation.command(command)
data.command(check)
app.command(evaluation)
app.command(data)
app.register_install_completion_command(help="Install completion for your shell.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Bad input is one line, not a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    console.open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names may hold what a terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    traceback, FolderLock.last = "--traceback" in given, None
    try:
        console.speak("--quiet" in given, "--verbose" in given)
        everywhere = ("--traceback", "--quiet", "--verbose")
        code = _run(take_threads(take_limits([w for w in given if w not in everywhere])))
        sys.stdout.flush()
        return code
    except (InputError, CycloptsError) as error:
        if traceback:
            raise
        console.error(str(error))
        return console.BAD_INPUT
    except KeyboardInterrupt:
        console.error("stopped by Ctrl-C")
        return console.INTERRUPTED
    except Exception as error:
        if traceback:
            raise
        _forget_output()
        return console.unexpected(error)


def _run(words: list[str]) -> int:
    try:
        command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
        prompts = bound.arguments.get("prompts")
        if isinstance(prompts, PromptOptions):
            bound.arguments["prompts"] = replace(prompts, order=in_order_given(words))
        with warnings.catch_warnings():
            warnings.simplefilter("always", InputWarning)
            warnings.showwarning = console.show_warning
            return command(*bound.args, **bound.kwargs) or 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def take_limits(words: list[str]) -> list[str]:
    """Put --limits and --allow-playlists, given anywhere, into the environment; the other words."""
    rest: list[str] = []
    taken = [os.environ.get(VARIABLE, "")]
    following = iter(words)
    for word in following:
        name, _, value = word.partition("=")
        if name == "--limits":
            taken.append(value or next(following, ""))
        elif word == "--allow-playlists":
            taken.append("playlists=1")
        else:
            rest.append(word)
    if taken[1:]:
        os.environ[VARIABLE] = ",".join(filter(None, taken))
    limits()
    return rest


def take_threads(words: list[str]) -> list[str]:
    """Put --threads, given anywhere, and how threads wait where libraries look; the other words."""
    rest: list[str] = []
    threads = None
    following = iter(words)
    for word in following:
        name, _, value = word.partition("=")
        if name != "--threads":
            rest.append(word)
            continue
        text = value or next(following, "")
        if not text.isdecimal() or len(text) > 9:
            raise InputError(f"--threads {text!r} is not a whole number, such as 2")
        threads = int(text)
        check_threads(threads)
    if "torch" in sys.modules:
        set_threads(threads)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    # Threads that spin while they wait for each other take the cores of those they wait for, once
    # others are at work on the machine too (docs/performance.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    return rest


def _forget_output() -> None:
    """Let go of output that cannot be written, or Python complains once more at its end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
