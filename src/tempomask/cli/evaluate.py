"""`tempomask eval`: the scores of a model, or of what is on disk, on a data set."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tempomask.cli import console
from tempomask.cli.instances import InstanceModelOptions
from tempomask.cli.options import (
    OUTPUT,
    Json,
    ModelOptions,
    Names,
    Positive,
    RoutingOptions,
    TrackingFlags,
    refuse,
)
from tempomask.errors import InputError

if TYPE_CHECKING:
    from tempomask.evaluation.boxes import BoxSummary
    from tempomask.evaluation.video_instances import InstanceEvaluation
    from tempomask.evaluation.vos import EvaluationSummary

PromptKind = Literal["mask", "box", "click", "3clicks", "5clicks"]
Out = Annotated[Path | None, Parameter(group=OUTPUT)]


def davis(
    root: Path,
    /,
    *,
    model: ModelOptions = ModelOptions(),
    sequences: Names | None = None,
    split: str | None = None,
    prompt: PromptKind = "mask",
    single_object: bool = False,
    resolution: str | None = None,
    max_frames: int | None = None,
    propagator: str | None = None,
    masks: Path | None = None,
    out: Out = None,
    tracking: TrackingFlags = TrackingFlags(),
    routing: RoutingOptions = RoutingOptions(),
    as_json: Json = False,
) -> int:
    """Track every sequence of ROOT from its first annotation and print J, F and J&F.

    FPS leaves decoding and writing out. First and last frames are not scored, as DAVIS does it.

    Args:
        root: Folder with JPEGImages/ and Annotations/.
        sequences: Only these sequences, with commas between.
        split: List of sequences, such as 2017/val.
        prompt: What is given on the first frame.
        single_object: All objects as one, as in DAVIS 2016.
        resolution: Folder of the images, such as 480p.
        max_frames: Only so many first frames of each sequence, for a quick look; the scores say so.
        propagator: Propagate the first masks over this model's features instead of tracking:
            dinov3-vits16, nano ... --image-size is then the short side.
        masks: Score this folder of SEQ/NNNNN.png instead of a model.
        out: Folder for masks/, results.csv and summary.json.
    """
    if routing.fps is not None:
        raise InputError("--fps is for track; a score needs a budget that does not move with time")
    with console.waiting("starting"):
        from tempomask.data.davis import Davis
        from tempomask.evaluation.vos import evaluate, evaluate_masks

    dataset = Davis(root, split, sequences, single_object, resolution, max_frames)
    if masks is not None:
        other = {"prompt": None if prompt == "mask" else prompt, "propagator": propagator}
        refuse("--masks scores a folder without a model", model, tracking, routing, **other)
        with closing(VideoBar()) as bar:
            summary = evaluate_masks(dataset, masks, out=out, progress=bar.show)
    else:
        adapter = routing.adapter_for(propagator or model.model, model.checkpoint)
        if propagator is None:
            options = tracking.options()
            loaded = model.load(adapter, tracking.pooled_memory)
        else:
            why = f"--propagator {propagator} propagates by its features alone"
            refuse(why, tracking, model=model.model)
            options = None
            loaded = model.load_propagator(propagator, adapter, model.image_size)
        with closing(VideoBar()) as bar:
            summary = evaluate(
                loaded,
                dataset,
                out=out,
                prompt=prompt,
                options=options,
                routing=routing,
                progress=bar.show,
            )
    return _conclude(summary, as_json, out, _print_masks)


def boxes(
    root: Path,
    /,
    *,
    layout: Literal["lasot", "got10k", "otb"],
    model: ModelOptions = ModelOptions(),
    tracking: TrackingFlags = TrackingFlags(),
    sequences: Names | None = None,
    split: str | None = None,
    predictions: Annotated[Path | None, Parameter(name="--boxes")] = None,
    out: Out = None,
    as_json: Json = False,
) -> int:
    """Track every sequence of ROOT from its first box; success, precision and average overlap.

    The boxes are those of the masks. FPS leaves decoding and writing out.

    Args:
        root: Folder that holds the sequences.
        layout: How ROOT is laid out.
        sequences: Only these sequences, with commas between.
        split: LaSOT: a list beside the classes, such as testing_set. GOT-10k: val or train.
        predictions: Score this folder of SEQ.txt (x,y,w,h a line) instead of a model.
        out: Folder for boxes/, results.csv and summary.json.
    """
    with console.waiting("starting"):
        from tempomask.data.box_tracking import BoxTrackingData
        from tempomask.evaluation.boxes import evaluate_box_files, evaluate_boxes

    data = BoxTrackingData(root, layout, split, sequences)
    if predictions is not None:
        refuse("--boxes scores a folder without a model", model, tracking)
        with closing(VideoBar()) as bar:
            summary = evaluate_box_files(data, predictions, out=out, progress=bar.show)
    else:
        options = tracking.options()
        loaded = model.load(pooled_memory=tracking.pooled_memory)
        with closing(VideoBar()) as bar:
            summary = evaluate_boxes(loaded, data, out=out, options=options, progress=bar.show)
    return _conclude(summary, as_json, out, _print_boxes)


def youtube_vis(
    annotations: Path,
    /,
    *,
    predictions: Path | None = None,
    images: Path | None = None,
    model: InstanceModelOptions = InstanceModelOptions(),
    videos: Names | None = None,
    limit: Positive = 10,
    out: Out = None,
    as_json: Json = False,
) -> int:
    """Find the instances of every video and print AP, AP50, AP75, AR1 and AR10.

    Without annotations in the file, as in the benchmarks' validation sets, results are only
    written. FPS leaves decoding and writing out.

    Args:
        annotations: Annotations of YouTube-VIS or OVIS, or of data laid out so.
        predictions: Score this results file instead of a model.
        images: Folder that file names start from. Default: looked for beside the annotations.
        videos: Only these, by name or id, such as 0032,17.
        limit: Predictions for each video.
        out: Folder for results.json (to hand in), summary.json and classes.csv.
    """
    with console.waiting("starting"):
        from tempomask.data.youtube_vis import YouTubeVIS
        from tempomask.evaluation.video_instances import evaluate_instances, evaluate_predictions

    dataset = YouTubeVIS(annotations, images, videos)
    if predictions is not None:
        refuse("--predictions scores a file without a model", model, images=images)
        with console.waiting("scoring"):
            found = evaluate_predictions(dataset, predictions, out=out)
    else:
        loaded = model.load_instances()
        with closing(VideoBar()) as bar:
            found = evaluate_instances(loaded, dataset, out=out, limit=limit, progress=bar.show)
    return _conclude(found, as_json, out, _print_instances)


class VideoBar:
    """One progress bar on stderr, from the first frame on, for the frames of the video at hand."""

    def __init__(self) -> None:
        self.bar = console.bars(" frames")
        self.task = self.bar.add_task("", total=None)
        self.videos: dict[str, None] = {}

    def show(self, video: str, done: int, total: int) -> None:
        """Frames of a video that are done, of all it has."""
        self.bar.start()
        self.videos.setdefault(video)
        title = f"video {len(self.videos)}: {video}"
        self.bar.update(self.task, description=title, completed=done, total=total)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.videos:
            self.bar.stop()


def _conclude(summary: Any, as_json: bool, out: Path | None, show: Callable[[Any], None]) -> int:
    """Print an evaluation as JSON, or by `show` for a person, and what was left out.

    The exit code: 1 if anything was left out.
    """
    if as_json:
        console.print_json(summary.to_dict())
    else:
        show(summary)
        if out is not None:
            console.out.print(f"written: {out}")
    for name, flaw in summary.flaws.items():
        console.error(flaw if name in flaw else f"{name}: {flaw}")
    if summary.flaws:
        console.note(f"left out of the scores: {', '.join(summary.flaws)}")
    return int(bool(summary.flaws))


def _speed(summary: Any) -> str:
    return "" if summary.fps is None else f", {summary.fps:.2f} FPS"


def _print_masks(summary: EvaluationSummary) -> None:
    table = console.table("sequence", ">J&F")
    for name, score in summary.per_sequence.items():
        table.add_row(name, f"{score:.1f}")
    console.out.print(table)
    table = console.table("", ">mean", ">recall", ">decay")
    for part in ("J", "F"):
        values = (summary.scores[name] for name in (part, f"{part}_recall", f"{part}_decay"))
        table.add_row(part, *(f"{value:.2f}" for value in values))
    console.out.print(table)
    console.out.print(
        f"J&F {summary.mean:.2f} over {summary.objects} objects, {summary.frames} frames"
        f"{_speed(summary)}"
    )
    for note in summary.notes:
        console.out.print(note)


def _print_boxes(summary: BoxSummary) -> None:
    from tempomask.evaluation.boxes import percent

    total = percent(summary.scores)
    table = console.table("sequence", *(f">{name}" for name in total))
    for name, result in summary.per_sequence.items():
        table.add_row(name, *(f"{value:.1f}" for value in percent(result).values()))
    table.add_row("all", *(f"{value:.2f}" for value in total.values()))
    console.out.print(table)
    console.out.print(
        f"{len(summary.per_sequence)} sequences, {summary.frames} frames{_speed(summary)}; percent"
    )


def _print_instances(found: InstanceEvaluation) -> None:
    scores = found.to_dict()
    if found.scores is not None:
        table = console.table("class", ">AP", ">AR10", ">tracks")
        for name, ap, recall, tracks in found.class_rows():
            table.add_row(name, f"{ap:.1f}", f"{recall:.1f}", str(tracks))
        console.out.print(table)
        shown = {name: scores[name] for name in ("AP", "AP50", "AP75", "AR1", "AR10")}
        table = console.table(*(f">{name}" for name in shown))
        table.add_row(*("-" if value is None else f"{value:.2f}" for value in shown.values()))
        console.out.print(table)
    layers = "" if found.layers_run is None else f", {found.layers_run:.2f} decoder layers a frame"
    console.out.print(
        f"{found.videos} videos, {found.frames} frames, {found.predictions} predictions"
        f"{_speed(found)}{layers}"
    )
