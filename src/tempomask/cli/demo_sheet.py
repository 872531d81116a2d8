"""The demo's contact sheet: frames of the whole clip with their masks, of one model or of two."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tempomask.cli.demo_runs import VIDEO, ClipRun, found_in, iou
from tempomask.io.images import save_png
from tempomask.io.overlay import contact_sheet, draw_overlay, evenly_spaced
from tempomask.io.records import FrameRecord
from tempomask.io.video import open_video

CELLS = 8


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
            for name, run in zip(runs, by_index, strict=True):
                cells.append(draw_overlay(frame, run[index]))
                captions.append(f"frame {index}, {index / fps:.1f} s")
                if len(runs) > 1 and run[index] is first:
                    captions[-1] += f": {name}"
                elif len(runs) > 1:
                    captions[-1] = f"{name}: {_beside(run[index], first)}"
    save_png(path, contact_sheet(cells, captions, columns=4 if len(runs) > 1 else None))
    return path


def _beside(record: FrameRecord, first: FrameRecord) -> str:
    """How many blocks ran, and how well the mask agrees with the first run's."""
    agreement = iou(found_in(record), found_in(first))
    return f"{record.blocks.sum()} of {len(record.blocks)} blocks, IoU {agreement:.2f}"
