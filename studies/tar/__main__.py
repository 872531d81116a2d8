"""TAR against its baseline: accuracy, time and layers run (Tables 3 and 5, Figures 4 and 5).

JSON, a table in Markdown and two figures are written beside each other.

    python -m studies.tar --base nano-vis.safetensors --weights runs/tar --data validation.json \
        --out studies/tar/minvis.json
    python -m studies.tar --base nano-vis.safetensors --train train.json --weights runs/tar ...

--weights: folders with NAME/model.safetensors for each variant of `variants.py`, or NAME=FILE;
variants without weights are left out. --train trains those that the first folder lacks.

All models run on the same frames in alternation, round after round; a frame's time is the median
of its rounds, and frames are averaged. A video's first frame runs every layer and is not timed.
--change-data takes the layers against the change of frames (Figure 5) from other videos than AP, as
the paper, whose figure is of HQ-YTVIS.
Intervals are 95%, over resampled videos, the same ones for all models.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import Clock, timed_calls
from studies.tar.figures import (
    TradeOff,
    save_layer_trade_off,
    save_layers_against_change,
)
from studies.tar.intervals import Intervals, ap_intervals
from studies.tar.layer_changes import FrameChange, layer_changes, rank_correlation
from studies.tar.table import markdown
from studies.tar.variants import VARIANTS, find_weights, train
from tempomask.data.youtube_vis import VideoEntry, YouTubeVIS
from tempomask.devices import DTypeName
from tempomask.evaluation.video_instances import InstanceRun
from tempomask.files import make_folder, replacing
from tempomask.instances.model import InstanceModel, load_instances
from tempomask.instances.query_routing import FixedLayers
from tempomask.metrics.video_ap import VideoAPResult
from tempomask.results import InstanceResult

FIXED = (1, 2, 3, 6)
BASELINE = "baseline"
# Frames from one to the next in which a video is walked for Figure 5.
STEPS = (1, 2, 4)

Frame = NDArray[np.uint8]


@dataclass
class Entry:
    """One row: a model, and what was measured of it.

    first, later: bool (frames, M), layers that ran on first frames and on those after. frame_times,
    decoder_times: seconds, a list of frames for each round.
    """

    name: str
    title: str
    kind: str
    model: InstanceModel
    first: list[NDArray[np.bool_]] = field(default_factory=list)
    later: list[NDArray[np.bool_]] = field(default_factory=list)
    frame_times: list[list[float]] = field(default_factory=list)
    decoder_times: list[list[float]] = field(default_factory=list)

    def observe(self, video: VideoEntry, frame: Frame, result: InstanceResult) -> None:
        (self.later if result.index else self.first).append(result.layers)


def entries(base: Path, weights: dict[str, Path], device: str, dtype: str) -> list[Entry]:
    """The baseline, the baseline with fixed layers, and every variant that has weights."""

    def load(path: Path, router: Any) -> InstanceModel:
        return load_instances(
            checkpoint=path, router=router, device=device, dtype=cast(DTypeName, dtype)
        )

    plain = load(base, "none")
    layers = plain.config.query_decoder.layers
    rows = [
        Entry(
            f"fixed-{count}",
            f"baseline, first {count} of {layers} layers",
            "fixed layers",
            InstanceModel(plain.segmenter, FixedLayers(count, layers), plain.dtype),
        )
        for count in FIXED
        if count < layers
    ]
    rows.append(Entry(BASELINE, f"baseline, all {layers} layers", "fixed layers", plain))
    for name, path in weights.items():
        variant = VARIANTS[name]
        router = "none" if variant.router is None else "tar"
        rows.append(Entry(name, variant.title, variant.kind, load(path, router)))
    if "tar" in weights:
        title = "TAR's decoder, all layers, no router"
        rows.append(Entry("tar-all-layers", title, "control", load(weights["tar"], "none")))
    return rows


def score(
    rows: Sequence[Entry], dataset: YouTubeVIS, say: Callable[[str], None]
) -> tuple[dict[str, VideoAPResult], dict[str, Intervals]]:
    """Scores of every model on all videos, and their intervals."""
    metrics = {}
    for row in rows:
        run = InstanceRun(row.model, dataset, observe=row.observe)
        for video in dataset.videos:
            run.track(video)
        _, metrics[row.name] = run.scorer.metrics[""]
        say(f"{row.name}: AP {100 * metrics[row.name].compute().ap:.2f}")
    results = {name: metric.compute() for name, metric in metrics.items()}
    return results, ap_intervals(metrics, BASELINE)


def time_all(
    rows: Sequence[Entry],
    videos: Sequence[Sequence[Frame]],
    rounds: int,
    say: Callable[[str], None],
) -> None:
    """Time every model on every video, turn by turn; the first turn warms up and is not kept."""
    for turn in range(rounds + 1):
        # Every other round backwards, so that no model always follows the same one.
        for row in rows if turn % 2 else rows[::-1]:
            frames, decoder = time_once(row.model, videos)
            if turn:
                row.frame_times.append(frames)
                row.decoder_times.append(decoder)
        say(f"round {turn} of {rounds}" if turn else "warmed up")


def time_once(
    model: InstanceModel, videos: Sequence[Sequence[Frame]]
) -> tuple[list[float], list[float]]:
    """Seconds of each frame after the first of each video, and of the decoder in it."""
    clock = Clock(model.device)
    whole, inside = [], []
    with timed_calls(clock, [model.segmenter.network.query_decoder]):
        for video in videos:
            session = model.session()
            for index, frame in enumerate(video):
                started = time.perf_counter()
                session.step(frame)  # its masks come to the host, so that the GPU is done
                seconds = time.perf_counter() - started
                decoder = clock.seconds()
                if index:
                    whole.append(seconds)
                    inside.append(decoder)
    return whole, inside


def milliseconds(rounds: list[list[float]]) -> float:
    """Median of the rounds of each frame, mean of the frames."""
    return round(1000 * float(np.median(np.array(rounds), axis=0).mean()), 3)


def report_of(row: Entry, result: VideoAPResult, intervals: Intervals) -> dict[str, Any]:
    later, scores = np.array(row.later), result.to_dict()
    counts = later.sum(axis=1)
    return {
        "name": row.name,
        "title": row.title,
        "kind": row.kind,
        **{k: round(scores[k], 3) for k in ("AP", "AP50", "AP75", "AR1", "AR10")},
        "intervals": {
            name: {"score": own.to_dict(), "difference": difference.to_dict()}
            for name, (own, difference) in intervals.items()
        },
        "frame_ms": milliseconds(row.frame_times),
        "decoder_ms": milliseconds(row.decoder_times),
        "layers_run": round(float(np.concatenate([row.first, later]).sum(axis=1).mean()), 3),
        "layers_after_first": round(float(counts.mean()), 3),
        "layers_std": round(float(counts.std()), 3),
        "layer_rates": later.mean(axis=0).round(3).tolist(),
        "patterns": len(np.unique(later, axis=0)),
    }


def figure_of_change(
    row: Entry, dataset: YouTubeVIS, steps: Sequence[int], path: Path
) -> dict[str, Any]:
    """The paper's Figure 5, with the correlation of each step and of all."""
    records = layer_changes(row.model, dataset, steps)
    chosen: dict[str, list[FrameChange]] = {"all": records}
    chosen |= {str(step): [r for r in records if r.step == step] for step in steps}
    correlations = {
        name: {
            **asdict(rank_correlation(members)),
            "mean_change": round(float(np.mean([r.change for r in members])), 2),
            "mean_layers": round(float(np.mean([r.layers for r in members])), 3),
        }
        for name, members in chosen.items()
        if members
    }
    save_layers_against_change(
        path,
        [record.change for record in records],
        [record.layers for record in records],
        row.model.config.query_decoder.layers,
        f"{row.title}: layers run against change",
    )
    return {"model": row.name, "spearman": correlations, "frames": [asdict(r) for r in records]}


def compare(
    rows: list[Entry],
    dataset: YouTubeVIS,
    timed: int,
    rounds: int,
    figure: Path,
    changing: YouTubeVIS,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report, and the frames behind the figure of change if TAR is there.

    changing: the videos of that figure.
    """
    results, intervals = score(rows, dataset, say)
    videos = [list(dataset.frames(video)) for video in dataset.videos[:timed]]
    time_all(rows, videos, rounds, say)
    plain = rows[0].model
    report = {
        "base": plain.name,
        "data": {
            "videos": len(dataset),
            "frames": sum(len(video) for video in dataset.videos),
            "tracks": results[BASELINE].tracks,
        },
        "device": torch.cuda.get_device_name() if plain.device.type == "cuda" else "cpu",
        "dtype": str(plain.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "timed": {"videos": len(videos), "frames": len(rows[0].frame_times[0]), "rounds": rounds},
        "rows": [report_of(row, results[row.name], intervals[row.name]) for row in rows],
    }
    routed = next((row for row in rows if row.name == "tar"), None)
    if routed is None:
        return report, {}
    change = figure_of_change(routed, changing, STEPS, figure)
    report["layers_against_change"] = {k: v for k, v in change.items() if k != "frames"}
    return report, change


def draw(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    points = []
    for row in rows:
        bounds = row["intervals"]["ap"]["score"]
        label = f"{row['layers_after_first']:g}" if row["kind"] == "fixed layers" else row["name"]
        points.append(
            TradeOff(
                label, row["kind"], row["decoder_ms"], row["AP"], bounds["low"], bounds["high"]
            )
        )
    save_layer_trade_off(path, points, joined="fixed layers")


def write(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="the baseline's weights")
    parser.add_argument("--weights", action="append", default=[], help="folder, or NAME=FILE")
    parser.add_argument("--train", type=Path, help="YouTube-VIS file to train variants on first")
    parser.add_argument("--names", default=",".join(VARIANTS), help="variants that --train makes")
    parser.add_argument("--steps", type=int, help="of training, instead of the recipe's")
    parser.add_argument("--data", type=Path, required=True, help="YouTube-VIS file to score on")
    parser.add_argument("--change-data", type=Path, help="other videos for Figure 5: HQ-YTVIS's")
    parser.add_argument("--timed-videos", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, required=True, help="JSON; the rest is named after it")
    given = parser.parse_args()
    if given.train:
        folders = [place for place in given.weights if "=" not in place]
        if not folders:
            parser.error("--train needs a folder in --weights for the variants")
        train(given.base, given.train, Path(folders[0]), given.names.split(","), steps=given.steps)
    make_folder(given.out.parent)
    rows = entries(given.base, find_weights(given.weights), given.device, given.dtype)
    change_figure = given.out.with_name(f"{given.out.stem}_change.png")
    dataset = YouTubeVIS(given.data)
    report, change = compare(
        rows,
        dataset,
        given.timed_videos,
        given.rounds,
        change_figure,
        YouTubeVIS(given.change_data) if given.change_data else dataset,
        say=lambda line: print(line, flush=True),
    )
    write(given.out, json.dumps(report, indent=2))
    write(given.out.with_suffix(".md"), markdown(report, given.out.stem))
    draw(given.out.with_suffix(".png"), report["rows"])
    if change:
        write(change_figure.with_suffix(".json"), json.dumps(change))
    print(given.out.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
