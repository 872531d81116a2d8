"""`tempomask eval davis`, `youtube-vos`, `mose`, `lvos`, `sav`, `vost`: from first masks on."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from tempomask.cli import console
from tempomask.cli.evaluate import Out, Resume, VideoBar, conclude, speed
from tempomask.cli.options import (
    Json,
    ModelOptions,
    Names,
    RoutingOptions,
    TrackingFlags,
    refuse,
)
from tempomask.errors import InputError

if TYPE_CHECKING:
    from tempomask.data.sequences import SequenceSet
    from tempomask.evaluation.protocols import Protocol
    from tempomask.evaluation.vos import EvaluationSummary

PromptKind = Literal["mask", "box", "click", "3clicks", "5clicks"]


@Parameter(name="*")
@dataclass(frozen=True)
class VosOptions:
    """What all of these commands do with a data set.

    Args:
        model: Which network, and where it runs.
        tracking: How a video is tracked.
        routing: Which encoder blocks run.
        sequences: Only these sequences, with commas between.
        prompt: What is given of an object where it first appears.
        propagator: Propagate the first masks over this model's features instead of tracking:
            dinov3-vits16, nano ... --image-size is then the short side.
        masks: Score this folder of SEQ/NNNNN.png, or the zip made for a server, instead of a
            model.
        shard: Only part 2/8 of the sequences, for one of eight processes; --resume without it
            then scores all of them together.
        out: Folder for masks/, results.csv and summary.json.
        resume: Leave out the sequences that a run with these settings finished in --out.
        submission: Check the masks and write the zip that the benchmark's server takes.
        as_json: Print JSON on stdout, all else on stderr.
    """

    model: ModelOptions = field(default_factory=ModelOptions)
    tracking: TrackingFlags = field(default_factory=TrackingFlags)
    routing: RoutingOptions = field(default_factory=RoutingOptions)
    sequences: Names | None = None
    prompt: PromptKind = "mask"
    propagator: str | None = None
    masks: Path | None = None
    shard: str | None = None
    out: Out = None
    resume: Resume = False
    submission: Out = None
    as_json: Json = False


def davis(
    root: Path,
    /,
    *,
    split: str | None = None,
    single_object: bool = False,
    resolution: str | None = None,
    max_frames: int | None = None,
    run: VosOptions = VosOptions(),
) -> int:
    """Track every sequence of ROOT from its first annotation and print J, F and J&F.

    FPS leaves decoding and writing out. First and last frames are not scored, as DAVIS does it.

    Args:
        root: Folder with JPEGImages/ and Annotations/.
        split: List of sequences, such as 2017/val or 2017/test-dev.
        single_object: All objects as one, as in DAVIS 2016.
        resolution: Folder of the images, such as 480p.
        max_frames: Only so many first frames of each sequence, for a quick look; the scores say so.
    """
    with console.waiting("starting"):
        from tempomask.data.davis import Davis
        from tempomask.evaluation.protocols import DAVIS

    data = Davis(root, split, run.sequences, single_object, resolution, max_frames, sparse=True)
    return _evaluate(data, DAVIS, "", run)


def youtube_vos(
    root: Path,
    /,
    *,
    split: Literal["valid", "test", "train"] = "valid",
    all_frames: bool = False,
    run: VosOptions = VosOptions(),
) -> int:
    """Track the objects of YouTube-VOS 2018 or 2019, each from the first frame of its list.

    The truth of valid and test is not public: --submission makes the zip for the server.

    Args:
        root: Folder that holds the splits, or a split with its meta.json.
        split: Which of them.
        all_frames: Track SPLIT_all_frames/ at 30 frames a second; write what meta.json lists.
    """
    with console.waiting("starting"):
        from tempomask.data import vos_sets
        from tempomask.evaluation.protocols import YOUTUBE_VOS

    data = vos_sets.youtube_vos(root, split, run.sequences, all_frames)
    return _evaluate(data, YOUTUBE_VOS, "Annotations", run)


def mose(
    root: Path,
    /,
    *,
    split: Literal["valid", "test", "train"] = "valid",
    mose_version: Literal[1, 2] = 1,
    run: VosOptions = VosOptions(),
) -> int:
    """Track the objects of MOSE; version 2 has its own scores, of adaptive boundaries.

    Args:
        root: Folder that holds the splits, or a split's own.
        split: Which of them.
        mose_version: 1 scores as DAVIS does; 2 as its own tool, also where objects disappear and
            come back.
    """
    with console.waiting("starting"):
        from tempomask.data import vos_sets
        from tempomask.evaluation.protocols import DAVIS, MOSE2

    classic = replace(DAVIS, name=DAVIS.name.replace("DAVIS", "MOSE v1, as DAVIS"))
    data = vos_sets.mose(root, split, run.sequences, mose_version)
    return _evaluate(data, MOSE2 if mose_version == 2 else classic, "", run)


def lvos(
    root: Path,
    /,
    *,
    split: Literal["valid", "test"] = "valid",
    unseen: Path | None = None,
    run: VosOptions = VosOptions(),
) -> int:
    """Track the objects of LVOS v1 or v2 within their ranges of frames; J, F and V.

    Both averages in use are given: J&F over objects, and J&F_groups over seen and unseen videos.

    Args:
        root: Folder that holds the splits, or a split's own.
        split: Which of them.
        unseen: List of the videos of unseen classes. Default: unseen_videos.txt beside the split.
    """
    with console.waiting("starting"):
        from tempomask.data import vos_sets
        from tempomask.evaluation.protocols import LVOS

    return _evaluate(vos_sets.lvos(root, split, run.sequences, unseen), LVOS, "Annotations", run)


def sav(
    root: Path,
    /,
    *,
    split: Literal["val", "test"] = "val",
    run: VosOptions = VosOptions(),
) -> int:
    """Track the masklets of SA-V at 24 frames a second; they may overlap and are scored at 6.

    Args:
        root: Folder that holds JPEGImages_24fps/ and Annotations_6fps/, or sav_val/ with them.
        split: Which of them.
    """
    with console.waiting("starting"):
        from tempomask.data import vos_sets
        from tempomask.evaluation.protocols import SAV

    return _evaluate(vos_sets.sav(root, split, run.sequences), SAV, "", run)


def vost(
    root: Path,
    /,
    *,
    split: Literal["val", "test", "train"] = "val",
    run: VosOptions = VosOptions(),
) -> int:
    """Track the objects of VOST through their changes; J, and J_last of the last quarter.

    Args:
        root: Folder with JPEGImages/, Annotations/ and ImageSets/.
        split: Which list.
    """
    with console.waiting("starting"):
        from tempomask.data import vos_sets
        from tempomask.evaluation.protocols import VOST

    return _evaluate(vos_sets.vost(root, split, run.sequences), VOST, "", run)


def _evaluate(dataset: SequenceSet[Any], protocol: Protocol, top: str, run: VosOptions) -> int:
    """Track or read the masks of a data set, score them and say so; the exit code."""
    from tempomask.evaluation.submission import SubmissionFile
    from tempomask.evaluation.vos import Shard, evaluate, evaluate_masks

    if run.routing.fps is not None:
        raise InputError("--fps is for track; a score needs a budget that does not move with time")
    if run.resume and run.out is None:
        raise InputError("--resume goes on with what is in --out; name that folder")
    zipped = None if run.submission is None else SubmissionFile(run.submission, top)
    if zipped is not None and run.shard is not None:
        raise InputError("--submission needs all sequences; leave --shard out, with --resume")
    if zipped is not None and run.sequences is not None:
        raise InputError("--submission needs all sequences; leave --sequences out")
    if run.masks is not None:
        prompt = None if run.prompt == "mask" else run.prompt
        other = {"propagator": run.propagator, "resume": run.resume, "shard": run.shard}
        groups = (run.model, run.tracking, run.routing)
        refuse("--masks scores a folder without a model", *groups, prompt=prompt, **other)
        with closing(VideoBar(dataset)) as bar:
            summary = evaluate_masks(
                dataset,
                run.masks,
                protocol=protocol,
                out=run.out,
                submission=zipped,
                top=top,
                progress=bar.show,
            )
        return conclude(summary, run.as_json, run.out, _print_masks)
    loaded, options = _load(run)
    with closing(VideoBar(dataset)) as bar:
        summary = evaluate(
            loaded,
            dataset,
            protocol=protocol,
            out=run.out,
            prompt=run.prompt,
            options=options,
            routing=run.routing,
            resume=run.resume,
            shard=None if run.shard is None else Shard.of(run.shard),
            submission=zipped,
            progress=bar.show,
        )
    return conclude(summary, run.as_json, run.out, _print_masks)


def _load(run: VosOptions) -> tuple[Any, Any]:
    """The model, or the propagator, and its options."""
    model, tracking = run.model, run.tracking
    adapter = run.routing.adapter_for(run.propagator or model.model, model.checkpoint)
    if model.matches and run.propagator is None:
        refuse(f"{model.model} has a memory of its own", tracking, run.routing)
        return model.load_tracker(), None
    if run.propagator is None:
        options = tracking.options()
        return model.load(adapter, tracking.pooled_memory), options
    why = f"--propagator {run.propagator} propagates by its features alone"
    refuse(why, tracking, model=model.model)
    return model.load_propagator(run.propagator, adapter, model.image_size), None


def _print_masks(summary: EvaluationSummary) -> None:
    rows = summary.rows
    if rows:
        table = console.table("sequence", ">object", *(f">{n}" for n in next(iter(rows.values()))))
        for (name, object_id), scores in rows.items():
            table.add_row(name, str(object_id), *map(_shown, scores.values()))
        console.out.print(table)
        table = console.table(*(f">{name}" for name in summary.scores))
        table.add_row(*(f"{value:.2f}" for value in summary.scores.values()))
        console.out.print(table)
    score = f"{summary.headline} {summary.mean:.2f} over " if rows else ""
    console.out.print(f"{score}{summary.objects} objects, {summary.frames} frames{speed(summary)}")
    console.out.print(summary.protocol)
    for note in summary.notes:
        console.out.print(note)


def _shown(value: float) -> str:
    return "-" if value != value else f"{value:.1f}"
