"""`tempomask eval images`: objects of images, segmented by clicks on their errors."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from tempomask.cli import console
from tempomask.cli.evaluate import Out, VideoBar, conclude
from tempomask.cli.options import Counts, Json, ModelOptions, Positive
from tempomask.errors import InputError

if TYPE_CHECKING:
    from tempomask.evaluation.images import ImageScores


def images(
    *roots: Path,
    model: ModelOptions = ModelOptions(),
    clicks: Counts = (1, 5),
    max_images: Positive | None = None,
    out: Out = None,
    as_json: Json = False,
) -> int:
    """Click every object of ROOTS and print the mean IoU over masks, then over sets, as on SA-23.

    The first click is the middle of the object, and the best of three masks by predicted IoU
    counts. Further clicks go to the middle of the largest error, with the logits fed back.

    Args:
        roots: COCO or LVIS JSON files, folders with images/ and labels/ (or JPEGImages/ and
            Annotations/), or folders of such: each a set.
        clicks: After how many clicks the IoU is taken, with commas between.
        max_images: Only so many first images of each set, for a quick look.
        out: Folder for results.csv and summary.json.
    """
    if not roots:
        raise InputError("no data given; name a COCO JSON file, or a folder of labelled images")
    with console.waiting("starting"):
        from tempomask.data.image_sets import image_sets
        from tempomask.evaluation.images import evaluate_images

    sets = [one for root in roots for one in image_sets(root)]
    with closing(VideoBar(sets, " images", "set")) as bar:
        summary = evaluate_images(
            model.load(), sets, clicks=clicks, out=out, max_images=max_images, progress=bar.show
        )
    return conclude(summary, as_json, out, _print)


def _print(summary: ImageScores) -> None:
    mean = summary.mean
    table = console.table("set", ">objects", *(f">mIoU@{k}" for k in mean))
    for name, scores in summary.sets.items():
        table.add_row(name, str(summary.objects[name]), *(f"{v:.1f}" for v in scores.values()))
    total = str(sum(summary.objects.values()))
    table.add_row("mean of sets", total, *(f"{v:.2f}" for v in mean.values()))
    console.out.print(table)
    console.out.print(f"{summary.images} images in {summary.seconds:.1f} s")
