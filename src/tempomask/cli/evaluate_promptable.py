"""`tempomask eval pvs` and `eval interactive`: clicks along videos, and prompts on first frames."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from tempomask.cli import console
from tempomask.cli.evaluate import Out, Resume, VideoBar
from tempomask.cli.options import Json, ModelOptions, Names, Positive, RoutingOptions, TrackingFlags
from tempomask.errors import InputError, unknown_name

if TYPE_CHECKING:
    from tempomask.data.sequences import SequenceSet
    from tempomask.evaluation.protocols import Protocol

_PROMPTS = {"1click": "click"}


def pvs(
    *data: str,
    mode: Literal["offline", "online", "davis"] = "offline",
    clicks: Positive = 3,
    rounds: Positive | None = None,
    max_time: float | None = None,
    sequences: Names | None = None,
    model: ModelOptions = ModelOptions(),
    tracking: TrackingFlags = TrackingFlags(),
    routing: RoutingOptions = RoutingOptions(),
    out: Out = None,
    resume: Resume = False,
    as_json: Json = False,
) -> int:
    """Click on the worst frames of each object's video; J&F after each prompted frame.

    Args:
        data: Data sets as LAYOUT:ROOT, with LAYOUT davis, youtube-vos, mose, mose2, lvos, sav or
            vost; ROOT may be a split's own folder, such as MOSE/train.
        mode: offline: track again after each frame. online: one pass, prompted where the IoU falls
            below 0.75. davis: all objects of a video at once, J&F over time, as DAVIS interactive.
        clicks: On each prompted frame, for each object.
        rounds: Prompted frames at most. Default: 8, in mode davis 5.
        max_time: Mode davis: seconds for a video, times the number of its objects.
        sequences: Only these sequences, with commas between.
        out: Folder for a folder for each data set, summary.json and rounds.png, the curve.
        resume: Leave out the sequences that a run with these settings finished in --out.
    """
    with console.waiting("starting"):
        from tempomask.evaluation.click_rounds import ClickPlan
        from tempomask.evaluation.promptable import evaluate_promptable

    rounds = rounds or (5 if mode == "davis" else 8)
    plan = ClickPlan(mode, clicks, rounds, max_time=max_time)
    _check_resume(resume, out)

    def score(loaded: Any, name: str, data: SequenceSet[Any], _: Protocol) -> Any:
        with closing(VideoBar(data, " frames" if mode == "davis" else " objects")) as bar:
            return evaluate_promptable(
                loaded,
                data,
                plan,
                out=None if out is None else out / name,
                options=tracking.options(),
                routing=routing,
                resume=resume,
                progress=bar.show,
            )

    found, code = _each(data, sequences, model, tracking, routing, score)
    curves = {name: list(s.rounds) for name, s in found.items()}
    curves["mean"] = list(map(fmean, zip(*curves.values(), strict=True)))
    table = console.table("J&F after", *(f">{k}" for k in range(1, rounds + 1)), ">mean")
    for name, curve in curves.items():
        table.add_row(name, *(f"{value:.1f}" for value in curve), f"{fmean(curve):.2f}")
    seconds = {name: s.seconds for name, s in found.items()}
    more: dict[str, Any] = {"rounds": curves, "seconds_a_round": seconds}
    timed = {name: s.curve for name, s in found.items() if s.curve}
    if timed:
        more["curves"] = timed
    _conclude(found, more, table, out, as_json)
    for name, curve in () if as_json else timed.items():
        told = f"AUC {curve['AUC']:.2f}, J&F {curve['J&F_at_60s']:.2f} after 60 seconds"
        console.out.print(f"{name}: {told}")
    if out is not None:
        from tempomask.reports.figures import save_round_chart

        save_round_chart(out / "rounds.png", curves)
    return code


def interactive(
    *data: str,
    prompt: Literal["1click", "3clicks", "5clicks", "box", "mask"] = "3clicks",
    sequences: Names | None = None,
    model: ModelOptions = ModelOptions(),
    tracking: TrackingFlags = TrackingFlags(),
    routing: RoutingOptions = RoutingOptions(),
    out: Out = None,
    resume: Resume = False,
    as_json: Json = False,
) -> int:
    """Prompt each object where it first appears, and only there; the mean over data sets.

    Args:
        data: Data sets as LAYOUT:ROOT, with LAYOUT davis, youtube-vos, mose, mose2, lvos, sav or
            vost; ROOT may be a split's own folder, such as MOSE/train.
        prompt: What is given; of several clicks, the later ones go to the error that is left.
        sequences: Only these sequences, with commas between.
        out: Folder for a folder for each data set, as from the other commands, and summary.json.
        resume: Leave out the sequences that a run with these settings finished in --out.
    """
    _check_resume(resume, out)
    with console.waiting("starting"):
        from tempomask.evaluation.vos import evaluate

    def score(loaded: Any, name: str, data: SequenceSet[Any], protocol: Protocol) -> Any:
        with closing(VideoBar(data)) as bar:
            return evaluate(
                loaded,
                data,
                protocol=protocol,
                prompt=_PROMPTS.get(prompt, prompt),  # type: ignore[arg-type]
                out=None if out is None else out / name,
                options=tracking.options(),
                routing=routing,
                resume=resume,
                progress=bar.show,
            )

    found, code = _each(data, sequences, model, tracking, routing, score)
    table = console.table("data set", ">score", ">mean")
    for name, summary in found.items():
        table.add_row(name, summary.headline, f"{summary.mean:.2f}")
    _conclude(found, {"prompt": prompt}, table, out, as_json)
    return code


def _check_resume(resume: bool, out: Path | None) -> None:
    if resume and out is None:
        raise InputError("--resume goes on with what is in --out; name that folder")


def _each(
    data: tuple[str, ...],
    sequences: tuple[str, ...] | None,
    model: ModelOptions,
    tracking: TrackingFlags,
    routing: RoutingOptions,
    score: Callable[[Any, str, SequenceSet[Any], Protocol], Any],
) -> tuple[dict[str, Any], int]:
    """Read all data sets, then score each; summaries by name, and the exit code."""
    if not data:
        raise InputError("no data set; name some as LAYOUT:ROOT, such as davis:DAVIS")
    if routing.fps is not None:
        raise InputError("--fps is for track; a score needs a budget that does not move with time")
    opened = {}
    for text in data:
        name, dataset, protocol = _open(text, sequences)
        while name in opened:
            name += "+"
        opened[name] = (dataset, protocol)
    loaded = model.load(routing.adapter_for(model.model, model.checkpoint), tracking.pooled_memory)
    found = {name: score(loaded, name, *parts) for name, parts in opened.items()}
    for name, summary in found.items():
        for sequence, flaw in summary.flaws.items():
            console.error(f"{name}: {flaw if sequence in flaw else f'{sequence}: {flaw}'}")
    return found, int(any(summary.flaws for summary in found.values()))


def _open(text: str, sequences: tuple[str, ...] | None) -> tuple[str, SequenceSet[Any], Protocol]:
    """A data set, what to call it, and how it is scored; InputError if it is none."""
    from tempomask.data import vos_sets
    from tempomask.data.davis import Davis
    from tempomask.evaluation import protocols

    layout, _, place = text.partition(":")
    readers: dict[str, tuple[Callable[..., SequenceSet[Any]], Protocol]] = {
        "davis": (
            lambda root, sequences: Davis(root, None, sequences, sparse=True),
            protocols.DAVIS,
        ),
        "youtube-vos": (vos_sets.youtube_vos, protocols.YOUTUBE_VOS),
        "mose": (vos_sets.mose, protocols.DAVIS),
        "mose2": (partial(vos_sets.mose, version=2), protocols.MOSE2),
        "lvos": (vos_sets.lvos, protocols.LVOS),
        "sav": (vos_sets.sav, protocols.SAV),
        "vost": (vos_sets.vost, protocols.VOST),
    }
    if layout not in readers or not place:
        raise unknown_name(f"{text!r} is not LAYOUT:ROOT", layout, readers)
    read, protocol = readers[layout]
    root = Path(place)
    return f"{layout}-{root.resolve().name}", read(root, sequences=sequences), protocol


def _conclude(
    found: dict[str, Any], more: dict[str, Any], table: Any, out: Path | None, as_json: bool
) -> None:
    """Print the table or JSON; write summary.json."""
    from tempomask.files import make_folder, write_json

    mean = fmean(summary.mean for summary in found.values())
    sets = {name: summary.mean for name, summary in found.items()}
    total = {"mean": mean, "data_sets": sets, **more}
    if out is not None:
        write_json(make_folder(out) / "summary.json", total)
    if as_json:
        console.print_json(total)
        return
    console.out.print(table)
    sets_of = "1 data set" if len(found) == 1 else f"{len(found)} data sets"
    console.out.print(f"mean over {sets_of}: {mean:.2f}")
    if out is not None:
        console.out.print(f"written: {out}")
