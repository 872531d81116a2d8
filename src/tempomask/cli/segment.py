"""`tempomask segment`: an image and clicks, boxes or masks, or nothing, become masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tempomask.cli import console
from tempomask.cli.options import EVERYTHING, OUTPUT, Json, ModelOptions, Names, refuse
from tempomask.cli.prompt_options import PromptOptions
from tempomask.errors import InputError, unknown_name
from tempomask.images.options import EverythingOptions

if TYPE_CHECKING:
    from tempomask.io.records import FrameRecord

EverythingFlags = Annotated[EverythingOptions, Parameter(name="*", group=EVERYTHING)]
# What --save knows, and the file of each; those of an object have its id.
FILES = {"mask": "mask.png", "overlay": "overlay.png", "cutout": "cutout", "objects": "objects"}
REPORT = "result.json"


def segment(
    image: Path,
    /,
    *,
    prompts: PromptOptions = PromptOptions(),
    everything: Annotated[bool, Parameter(group=EVERYTHING)] = False,
    options: EverythingFlags = EverythingOptions(),
    model: ModelOptions = ModelOptions(),
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    save: Annotated[Names | None, Parameter(group=OUTPUT)] = None,
    as_json: Json = False,
) -> int:
    """Segment objects in IMAGE, from clicks, boxes or masks, or everything in it.

    `tempomask segment photo.jpg --point 410,260 --save mask,cutout,overlay`

    `tempomask segment photo.jpg --everything`

    Formats of --save: mask (one image with the ids), objects (a black-and-white one for each),
    cutout (each object on transparency), overlay. Default: mask,overlay. Beside them, result.json
    has boxes, scores and run lengths.

    Args:
        image: An image file.
        everything: Find all there is, without prompts.
        out: Folder for the results. Default: IMAGE-segmented.
        save: Formats, with commas between.
    """
    chosen = save or ("mask", "overlay")
    for name in chosen:
        if name not in FILES:
            raise unknown_name(f"--save {name}: unknown", name, FILES)
    wanted = []
    if everything:
        given = {name.removesuffix("_id"): text for name, text in prompts.order}
        refuse("--everything needs no prompts", **given)
    elif prompts.order:
        refuse("without --everything this means nothing", options)
        wanted = prompts.read()
    else:
        raise InputError("say where the object is with --point, --box or --mask, or --everything")
    folder = Path(f"{image.stem}-segmented") if out is None else out
    _check_folder(folder, image, prompts.files())
    with console.waiting("starting"):
        from tempomask.io.images import read_image
        from tempomask.io.records import record_of

    frame = read_image(image)
    loaded = model.load()
    if everything:
        with console.bars(" clicks") as bar:
            task = bar.add_task("", total=None)
            show = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
            found = loaded.everything(frame, options, progress=show)
    else:
        found = record_of(loaded.segment(frame, wanted))
    written = _write(folder, image, frame, found, chosen, loaded.name)
    return _conclude(found, written, as_json)


def _check_folder(folder: Path, image: Path, inputs: tuple[Path, ...]) -> None:
    """InputError for results that would take the place of an input, or of another's results."""
    from tempomask.files import absolute_path, check_links, read_json

    names = [*FILES.values(), REPORT]
    check_links(folder, names)
    taken = {(folder / name).resolve() for name in names}
    for given in (image, *inputs):
        path = absolute_path(given)
        if path is not None and {path, path.parent} & taken:
            raise InputError(
                f"the results in {folder} would overwrite {given}; choose another --out"
            )
    report = folder / REPORT
    there = [name for name in names if (folder / name).exists()]
    if not there:
        return
    known = read_json(report, "the report") if report.exists() else {}
    if not isinstance(known, dict) or known.get("source") != str(absolute_path(image)):
        raise InputError(
            f"{folder / there[0]} is there already, and not known to be of {image}; move it away,"
            " or choose another --out"
        )


def _write(
    folder: Path,
    image: Path,
    frame: Any,
    found: FrameRecord,
    chosen: tuple[str, ...],
    model: str,
) -> dict[str, Path]:
    """Write what was asked for; the files by format."""
    from tempomask.files import make_folder, write_errors, write_json
    from tempomask.images.everything import AutomaticMasks
    from tempomask.io.dataset_exports import write_cutout
    from tempomask.io.images import save_png, write_label_png, write_mask_png
    from tempomask.io.overlay import DrawnMasks, draw_overlay
    from tempomask.io.records import TRACK, line_of

    make_folder(folder)
    written = {name: folder / FILES[name] for name in chosen}
    objects = line_of(found, TRACK)["objects"]
    automatic = isinstance(found, AutomaticMasks)
    if automatic:
        rows = zip(objects, found.stability, found.points, found.crops, strict=True)
        for item, stability, point, crop in rows:
            item |= {"stability": round(float(stability), 4), "point": point.tolist()}
            item |= {"crop": crop.tolist()}
    with write_errors(folder):
        # First, so that the rest is known to be of this image.
        report = {"source": str(image.resolve()), "model": model, "size": list(found.size)}
        write_json(folder / REPORT, {**report, "objects": objects})
        if "mask" in written:
            write_label_png(written["mask"], found.label_map())
        if "overlay" in written:
            order = (-found.areas).argsort(kind="stable") if automatic else range(len(found.ids))
            ids = [found.ids[row] for row in order]  # of everything, the smallest on top
            drawn = DrawnMasks(found.size, ids, found.masks[list(order)])
            save_png(written["overlay"], draw_overlay(frame, drawn, tags=not automatic))
        for name in {"cutout", "objects"} & written.keys():
            make_folder(written[name])
            for object_id, mask in zip(found.ids, found.masks, strict=True):
                path = written[name] / f"{object_id}.png"
                write_cutout(path, frame, mask) if name == "cutout" else write_mask_png(path, mask)
    return {**written, "result": folder / REPORT}


def _conclude(found: FrameRecord, written: dict[str, Path], as_json: bool) -> int:
    objects = [
        {"id": i, "area": int(area), "predicted_iou": round(float(iou), 4)}
        for i, area, iou in zip(found.ids, found.areas, found.predicted_iou, strict=True)
    ]
    report = {"size": list(found.size), "objects": objects, "interrupted": False}

    def show(_: Any) -> None:
        table = console.table("object", ">pixels", ">predicted IoU")
        for item in objects[:20]:
            table.add_row(str(item["id"]), str(item["area"]), f"{item['predicted_iou']:.2f}")
        console.out.print(table)
        if len(objects) > 20 or not objects:
            console.out.print(f"{len(objects)} objects in all")

    return console.conclude(report, written, as_json, show)
