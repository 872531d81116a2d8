"""`tempomask eval boxes` and `youtube-vis`: scores of a model, or of what is on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    TrackingFlags,
    refuse,
)
from tempomask.errors import InputError

if TYPE_CHECKING:
    from tempomask.evaluation.boxes import BoxSummary
    from tempomask.evaluation.video_instances import InstanceEvaluation

Out = Annotated[Path | None, Parameter(group=OUTPUT)]
Resume = Annotated[bool, Parameter(group=OUTPUT)]


def boxes(
    root: Path,
    /,
    *,
    layout: Literal["lasot", "got10k", "otb", "trackingnet", "nfs", "uav123", "lasot-ext"],
    model: ModelOptions = ModelOptions(),
    tracking: TrackingFlags = TrackingFlags(),
    sequences: Names | None = None,
    split: str | None = None,
    predictions: Annotated[Path | None, Parameter(name="--boxes")] = None,
    submission: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    out: Out = None,
    as_json: Json = False,
) -> int:
    """Track every sequence of ROOT from its first box; success, precision and average overlap.

    The boxes are those of the masks. FPS leaves decoding and writing out.

    Args:
        root: Folder that holds the sequences.
        layout: How ROOT is laid out.
        sequences: Only these sequences, with commas between.
        split: LaSOT: a list beside the classes, such as testing_set. GOT-10k: val, train or test.
            TrackingNet: TEST or TRAIN_0. NfS: 30 or 240. UAV123: UAV123 or UAV20L.
        predictions: Score this folder of SEQ.txt (x,y,w,h a line) instead of a model.
        submission: Zip for the server of GOT-10k or TrackingNet, checked before it is written; of
            their test sets, which have first boxes only.
        out: Folder for boxes/, results.csv and summary.json.
    """
    with console.waiting("starting"):
        from tempomask.data.box_tracking import BoxTrackingData
        from tempomask.evaluation.boxes import evaluate_box_files, evaluate_boxes
        from tempomask.evaluation.submission import SubmissionFile

    zipped = None if submission is None else SubmissionFile(submission)
    data = BoxTrackingData(root, layout, split, sequences, first_only=zipped is not None)
    if predictions is not None:
        refuse("--boxes scores a folder without a model", model, tracking)
        with closing(VideoBar(data)) as bar:
            summary = evaluate_box_files(
                data, predictions, out=out, submission=zipped, progress=bar.show
            )
    else:
        options = tracking.options()
        loaded = model.load(pooled_memory=tracking.pooled_memory)
        with closing(VideoBar(data)) as bar:
            summary = evaluate_boxes(
                loaded, data, out=out, submission=zipped, options=options, progress=bar.show
            )
    return conclude(summary, as_json, out, _print_boxes)


def youtube_vis(
    annotations: Path,
    /,
    *,
    predictions: Path | None = None,
    images: Path | None = None,
    model: InstanceModelOptions = InstanceModelOptions(),
    videos: Names | None = None,
    limit: Positive = 10,
    boundary: bool = False,
    part: tuple[Path, ...] = (),
    out: Out = None,
    submission: Out = None,
    as_json: Json = False,
) -> int:
    """Find the instances of every video and print AP, AP50, AP75, AR1 and AR10.

    Without annotations in the file, as in the benchmarks' validation sets, results are only
    written. FPS leaves decoding and writing out.

    Args:
        annotations: Annotations of YouTube-VIS, HQ-YTVIS or OVIS, or of data laid out so.
        predictions: Score this results file instead of a model.
        images: Folder that file names start from. Default: looked for beside the annotations.
        videos: Only these, by name or id, such as 0032,17.
        limit: Predictions for each video.
        boundary: Tube-boundary AP as well, as on HQ-YTVIS.
        part: Truth of some of the videos, scored by itself as well, such as gt_long.json of
            YouTube-VIS 2022; may be given again.
        out: Folder for results.json, summary.json and classes.csv.
        submission: Check the results and write the zip that the benchmark's server takes.
    """
    with console.waiting("starting"):
        from tempomask.data.youtube_vis import YouTubeVIS
        from tempomask.evaluation.submission import SubmissionFile
        from tempomask.evaluation.video_instances import (
            Scoring,
            evaluate_instances,
            evaluate_predictions,
        )

    zipped = None if submission is None else SubmissionFile(submission)
    if zipped is not None and videos is not None:
        raise InputError("--submission needs all videos; leave --videos out")
    dataset = YouTubeVIS(annotations, images, videos)
    scoring = Scoring(boundary, tuple(YouTubeVIS(path, images) for path in part))
    output: dict[str, Any] = {"out": out, "scoring": scoring, "submission": zipped}
    if predictions is not None:
        refuse("--predictions scores a file without a model", model, images=images)
        with console.waiting("scoring"):
            found = evaluate_predictions(dataset, predictions, **output)
    else:
        loaded = model.load_instances()
        with closing(VideoBar(dataset.videos)) as bar:
            found = evaluate_instances(loaded, dataset, limit=limit, progress=bar.show, **output)
    return conclude(found, as_json, out, _print_instances)


class VideoBar:
    """One progress bar on stderr, from the first frame on, for the frames of the video at hand.

    Args:
        videos: All of them, each with a name.
        unit: What is counted of one.
        noun: What one is.
    """

    def __init__(self, videos: Iterable[Any], unit: str = " frames", noun: str = "video") -> None:
        self.bar = console.bars(unit)
        self.task = self.bar.add_task("", total=None)
        self.places = {video.name: place for place, video in enumerate(videos, 1)}
        self.begun, self.noun = False, noun

    def show(self, video: str, done: int, total: int) -> None:
        """Frames of a video that are done, of all it has."""
        self.bar.start()
        self.begun = True
        title = f"{self.noun} {self.places[video]} of {len(self.places)}: {video}"
        self.bar.update(self.task, description=title, completed=done, total=total)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.begun:
            self.bar.stop()


def conclude(summary: Any, as_json: bool, out: Path | None, show: Callable[[Any], None]) -> int:
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


def speed(summary: Any) -> str:
    """The frames a second of an evaluation that tracked, to end a line with."""
    return "" if summary.fps is None else f", {summary.fps:.2f} FPS"


def _print_boxes(summary: BoxSummary) -> None:
    from tempomask.evaluation.boxes import percent

    if summary.scores is None:
        console.out.print(f"{summary.frames} frames{speed(summary)}; not scored")
        return
    total = percent(summary.scores)
    table = console.table("sequence", *(f">{name}" for name in total))
    for name, result in summary.per_sequence.items():
        table.add_row(name, *(f"{value:.1f}" for value in percent(result).values()))
    table.add_row("all", *(f"{value:.2f}" for value in total.values()))
    console.out.print(table)
    console.out.print(
        f"{len(summary.per_sequence)} sequences, {summary.frames} frames{speed(summary)}; percent"
    )


def _print_instances(found: InstanceEvaluation) -> None:
    scores = found.to_dict()
    if found.scores is not None:
        table = console.table("class", ">AP", ">AR10", ">tracks")
        for name, ap, recall, tracks in found.class_rows():
            table.add_row(name, f"{ap:.1f}", f"{recall:.1f}", str(tracks))
        console.out.print(table)
    rows = {} if found.scores is None else {"all": scores}
    rows |= scores["more"]
    if rows:
        shown = ("AP", "AP50", "AP75", "AR1", "AR10")
        table = console.table("videos", *(f">{name}" for name in shown))
        for name, row in rows.items():
            values = (row[score] for score in shown)
            table.add_row(name, *("-" if value is None else f"{value:.2f}" for value in values))
        console.out.print(table)
    layers = "" if found.layers_run is None else f", {found.layers_run:.2f} decoder layers a frame"
    console.out.print(
        f"{found.videos} videos, {found.frames} frames, {found.predictions} predictions"
        f"{speed(found)}{layers}"
    )
