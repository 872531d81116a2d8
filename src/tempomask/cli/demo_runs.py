"""What the demo runs, measures and draws: a submodel beside the full model, and exact masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tempomask.cli import console
from tempomask.cli.run import Request, Run
from tempomask.cli.tracking_task import TrackingTask
from tempomask.evaluation.frame_times import median_seconds, paired_times
from tempomask.io.images import save_png
from tempomask.io.journal import open_journal
from tempomask.io.overlay import contact_sheet, draw_overlay, evenly_spaced
from tempomask.io.records import FrameRecord
from tempomask.io.result_folder import JOURNAL
from tempomask.io.video import open_video
from tempomask.routing.options import Routing

if TYPE_CHECKING:
    from tempomask.model import Model
    from tempomask.prompts import Prompt

CLIP = Path(__file__).parent.parent / "assets" / "clip"
VIDEO = CLIP / "clip.mp4"
# Frames of a turn of the timing, with those that warm up; turns of each model.
TIMED_FRAMES, ROUNDS = 25, 3
# Of the contact sheet.
CELLS = 8

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class ClipRun:
    """The clip as one model tracked it: report with "iou", files by format, and all frames."""

    report: dict[str, Any]
    files: dict[str, Path]
    records: list[FrameRecord]


def track_clip(
    out: Path, prompt: Prompt, model: Model, save: set[str], budget: float | None = None
) -> ClipRun:
    """Track the clip into a folder, and compare its masks with the exact ones."""
    request = Request(str(VIDEO), out, frozenset(save))
    task = TrackingTask([prompt], routing=Routing(budget))
    with open_video(VIDEO) as video:
        report, files = Run(request, task, video).execute(model)
    records = list(open_journal(out / JOURNAL).records())
    exact = exact_masks()
    ious = [iou(record, exact[record.index]) for record in records[1:]]
    return ClipRun({**report, "iou": mean(ious)}, files, records)


def exact_masks() -> Mask:
    """The masks that come with the clip: bool (T, H, W)."""
    with np.load(CLIP / "masks.npz") as archive:
        frames, height, width = (int(side) for side in archive["shape"])
        masks = np.unpackbits(archive["packed"], axis=-1, count=width).astype(bool)
    return masks.reshape(frames, height, width)


def iou(record: FrameRecord, other: FrameRecord | Mask) -> float:
    """Intersection over union of where an object was found; 1 where both found nothing."""
    mask = record.masks.any(axis=0)
    beside = other.masks.any(axis=0) if isinstance(other, FrameRecord) else other
    union = np.count_nonzero(mask | beside)
    return np.count_nonzero(mask & beside) / union if union else 1.0


def mean(values: Sequence[float]) -> float:
    """To four decimals; 0 for no values."""
    return round(float(np.mean(values)), 4) if values else 0.0


def compare(full: ClipRun, routed: ClipRun) -> dict[str, Any]:
    """How well a submodel does beside the full model: exactness, agreement, blocks.

    Agreement is the IoU of both models' masks, frame by frame after the one that was prompted.
    """
    both = [iou(*pair) for pair in zip(full.records[1:], routed.records[1:], strict=True)]
    ran = np.array([record.blocks for record in routed.records[1:]])
    return {
        "blocks_run": routed.report["blocks_run"],
        "blocks_changed_a_frame": mean((ran[1:] != ran[:-1]).sum(axis=1).tolist()),
        "iou": routed.report["iou"],
        "agreement": mean(both),
        "least_agreement": round(min(both), 4),
    }


def measure(model: Model, full: Model, prompt: Prompt, budget: float | None) -> dict[str, Any]:
    """How many times as fast as the full model, in turns on the same frames of the clip."""
    with open_video(VIDEO) as video:
        frames = [frame for _, frame in islice(video.frames(), TIMED_FRAMES)]

    def turn(one: Model) -> float:
        routing = Routing(budget) if one is model else None
        return median_seconds(one, prompt, frames, routing=routing)

    times = paired_times(model, full, turn, ROUNDS)
    return {
        "speedup": round(times.speedup, 3),
        "speedup_of_rounds": [round(ratio, 3) for ratio in times.ratios],
        "frame_ms": round(1000 * times.full / times.speedup, 2),
        "full_frame_ms": round(1000 * times.full, 2),
        "timing": f"measured in {ROUNDS} turns each on the same {len(frames)} frames",
    }


def print_comparison(full: Mapping[str, Any], routed: Mapping[str, Any]) -> None:
    """Both models as a table, and how well they agree."""
    table = console.table("", ">blocks run", ">ms a frame", ">IoU with the exact masks")
    table.add_row("full model", "100%", f"{routed['full_frame_ms']:.1f}", f"{full['iou']:.3f}")
    cells = f"{routed['blocks_run']:.0%}", f"{routed['frame_ms']:.1f}", f"{routed['iou']:.3f}"
    table.add_row(routed["adapter"], *cells)
    console.out.print(table)
    console.out.print(
        f"{routed['adapter']} is {routed['speedup']:.2f} times as fast ({routed['timing']});"
        f" its masks agree with the full model's by {routed['agreement']:.3f} mean IoU"
        f" (worst frame {routed['least_agreement']:.3f})",
        soft_wrap=True,
    )


def draw_sheet(path: Path, runs: Mapping[str, ClipRun]) -> Path:
    """A PNG of frames evenly over the run; of two runs, each frame twice, side by side.

    runs: by the model's name; the first is what the other is compared with. Frames that the other
    did not reach are left out, and an other that reached none.
    """
    runs = {name: run for name, run in runs.items() if run.records}
    by_index = [{record.index: record for record in run.records} for run in runs.values()]
    common = sorted(set.intersection(*(set(run) for run in by_index)))
    shown = {common[place] for place in evenly_spaced(len(common), CELLS)}
    cells, captions = [], []
    with open_video(VIDEO) as video:
        fps = video.fps or 24.0
        for index, frame in video.frames(0, max(shown) + 1):
            if index not in shown:
                continue
            first = by_index[0][index]
            for name, records in zip(runs, by_index, strict=True):
                record = records[index]
                cells.append(draw_overlay(frame, record))
                if record is first:
                    told = f"frame {index}, {index / fps:.1f} s" + f": {name}" * (len(runs) > 1)
                else:
                    ran = f"{record.blocks.sum()} of {len(record.blocks)} blocks"
                    told = f"{name}: {ran}, IoU {iou(record, first):.2f}"
                captions.append(told)
    save_png(path, contact_sheet(cells, captions, columns=4 if len(runs) > 1 else None))
    return path
