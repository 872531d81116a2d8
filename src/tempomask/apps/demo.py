"""`tempomask demo`: one prompt on the bundled clip, tracked by the bundled model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tempomask.apps import choices, console, run_choices
from tempomask.errors import InputError

if TYPE_CHECKING:
    from tempomask.types import Prompt

CLIP = Path(__file__).parent.parent / "assets" / "clip"
# On and around the saucer, in the first frame of the clip.
CLICK = (104.0, 92.0)
BOX = (53.0, 42.0, 158.0, 139.0)
_CELLS = 8


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo"),
    *,
    prompt: Annotated[
        str, typer.Option(help="What is given on the first frame: click, box or mask.")
    ] = "click",
    model: choices.ModelName = None,
    checkpoint: choices.Checkpoint = None,
    image_size: choices.ImageSize = None,
    device: choices.Device = "auto",
    as_json: run_choices.Json = False,
) -> None:
    """Track a flying saucer through the bundled clip from its mask, a box or a click.

    Writes an overlay video, masks, a contact sheet and a chart of which encoder blocks ran, and
    compares the masks with the exact ones that come with the clip.
    """
    given = first_prompt(prompt)
    with console.waiting("starting"):
        from tempomask.apps.tracking_run import CHART, Request, follow, print_report
        from tempomask.media.video import open_video

    source = CLIP / "clip.mp4"
    request = Request(
        source=str(source),
        prompts=[given],
        direction="forward",
        start=None,
        end=None,
        options={},
        out=out,
        save=frozenset({"masks", "overlay", CHART}),
        resume=False,
    )
    with open_video(source) as video:
        loaded = choices.load_model(model, checkpoint, image_size, device)
        report, files = follow(request, video, loaded)
    files["sheet"] = draw_sheet(out)
    report["iou"] = round(mean_iou(out), 4)
    if as_json:
        console.print_json({**report, "files": {name: str(path) for name, path in files.items()}})
    else:
        print_report(report)
        console.print_files(files)
        console.out.print(f"mean IoU with the exact masks: {report['iou']:.3f}")
    if report["interrupted"]:
        raise typer.Exit(console.INTERRUPTED)


def first_prompt(kind: str) -> Prompt:
    """The click, box or mask on the first frame; InputError for another word."""
    from tempomask.media.masks import read_mask
    from tempomask.types import Prompt

    if kind == "click":
        return Prompt(points=[CLICK])
    if kind == "box":
        return Prompt(box=BOX)
    if kind == "mask":
        return Prompt(mask=read_mask(CLIP / "first_mask.png"))
    raise InputError(f"--prompt must be click, box or mask, got {kind!r}")


def draw_sheet(out: Path) -> Path:
    """A PNG with frames of the whole run and their masks."""
    from tempomask.media.folder_writer import JOURNAL
    from tempomask.media.journal import open_journal
    from tempomask.media.masks import save_png
    from tempomask.media.overlay import contact_sheet, draw_overlay, evenly_spaced
    from tempomask.media.video import open_video

    journal = open_journal(out / JOURNAL)
    indices = sorted(journal.finished)
    shown = {indices[place] for place in evenly_spaced(len(indices), _CELLS)}
    cells, captions = [], []
    with open_video(CLIP / "clip.mp4") as video:
        fps = video.fps or 24.0
        for index, frame in video.frames(0, max(shown) + 1):
            if index in shown:
                cells.append(draw_overlay(frame, journal.record(index)))
                captions.append(f"frame {index}, {index / fps:.1f} s")
    journal.close()
    path = out / "contact_sheet.png"
    save_png(path, contact_sheet(cells, captions))
    return path


def mean_iou(out: Path) -> float:
    """Mean IoU of the written masks with the exact ones, after the frame that was clicked.

    Frames where the object is hidden count 1 if nothing was found there, else 0.
    """
    import numpy as np

    from tempomask.media.folder_writer import JOURNAL
    from tempomask.media.journal import open_journal

    with np.load(CLIP / "masks.npz") as archive:
        frames, height, width = (int(side) for side in archive["shape"])
        exact = np.unpackbits(archive["packed"], axis=-1, count=width).astype(bool)
    exact = exact.reshape(frames, height, width)
    journal = open_journal(out / JOURNAL)
    ious: list[Any] = []
    for record in journal.records():
        if record.index:
            found, truth = record.masks.any(axis=0), exact[record.index]
            union = np.count_nonzero(found | truth)
            ious.append(np.count_nonzero(found & truth) / union if union else 1.0)
    journal.close()
    return float(np.mean(ious)) if ious else 0.0
