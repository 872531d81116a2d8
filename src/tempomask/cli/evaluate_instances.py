"""`tempomask eval youtube-vis`: video instance segmentation by the YouTube-VIS protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tempomask.cli import console
from tempomask.cli.instances import InstanceModelOptions
from tempomask.cli.options import OUTPUT, Json, Names, Positive, refuse

if TYPE_CHECKING:
    from tempomask.evaluation.video_instances import InstanceEvaluation


def youtube_vis(
    annotations: Path,
    /,
    *,
    predictions: Path | None = None,
    images: Path | None = None,
    model: InstanceModelOptions = InstanceModelOptions(),
    videos: Names | None = None,
    limit: Positive = 10,
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    as_json: Json = False,
) -> None:
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
        as_json: Print one JSON object on stdout, all else on stderr.
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
        loaded = model.load()
        with VideoBar() as bar:
            found = evaluate_instances(loaded, dataset, out=out, limit=limit, progress=bar.show)
    if as_json:
        console.print_json(found.to_dict())
    else:
        print_evaluation(found, out)


class VideoBar:
    """One progress bar on stderr, for the frames of the video at hand."""

    def __init__(self) -> None:
        self.bar = console.bars(" frames")
        self.task = self.bar.add_task("", total=None)
        self.videos: dict[str, None] = {}

    def __enter__(self) -> VideoBar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, video: str, done: int, total: int) -> None:
        """Frames of a video that are done, of all it has."""
        self.videos.setdefault(video)
        title = f"video {len(self.videos)}: {video}"
        self.bar.update(self.task, description=title, completed=done, total=total)


def print_evaluation(found: InstanceEvaluation, out: Path | None) -> None:
    """The tables for a person."""
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
    speed = "" if found.fps is None else f", {found.fps:.2f} FPS"
    layers = "" if found.layers_run is None else f", {found.layers_run:.2f} decoder layers a frame"
    console.out.print(
        f"{found.videos} videos, {found.frames} frames, {found.predictions} predictions{speed}"
        f"{layers}"
    )
    if out is not None:
        console.out.print(f"written: {out}")
