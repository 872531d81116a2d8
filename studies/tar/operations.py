"""TAR beside other ways to make the same network faster, with what each does to AP (Table 4).

    python -m studies.tar.operations --base nano-vis.safetensors --tar nano-vis-tar.safetensors \
        --data validation.json --out studies/tar/operations.json

Fused attention stands for the paper's FlashAttention-2, its "operation fusion" for what
`benchmarks.speed.instances` lists: masks at the size of each level, points sampled in one pass,
norms folded and weights packed. All rows run on the same frames in turn; a video's first frame is
not timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.speed.instances import PLAIN, without
from studies.tar.__main__ import Frame, milliseconds, time_once
from tempomask.data.youtube_vis import YouTubeVIS
from tempomask.devices import DTypeName, computation
from tempomask.evaluation.video_instances import InstanceRun
from tempomask.files import make_folder, write_json
from tempomask.instances.fast import accelerate_instances
from tempomask.instances.model import InstanceModel, load_instances

# Of MinVIS R50 on YouTube-VIS 2019: frames a second, AP, AR10.
PAPER = {
    "nothing": (24.7, 47.4, 55.7),
    "fused attention": (27.8, 47.9, 55.3),
    "fused operations": (27.2, 47.4, 55.6),
    "TAR": (31.7, 48.5, 58.9),
    "all three": (34.6, 48.4, 58.5),
}
OPERATIONS = tuple(part for part in PLAIN if part != "attention")


@dataclass
class Row:
    """plain: parts that are not fused. times: seconds of frames, a list for each round."""

    name: str
    model: InstanceModel
    plain: Sequence[str]
    times: list[list[float]] = field(default_factory=list)


def rows_of(base: InstanceModel, tar: InstanceModel) -> list[Row]:
    """The rows of Table 4; both models are as stored, not accelerated."""

    def fast(model: InstanceModel) -> InstanceModel:
        segmenter = accelerate_instances(deepcopy(model.segmenter), model.dtype)
        return InstanceModel(segmenter, model.router, model.dtype)

    return [
        Row("nothing", base, tuple(PLAIN)),
        Row("fused attention", base, OPERATIONS),
        Row("fused operations", fast(base), ("attention",)),
        Row("TAR", tar, tuple(PLAIN)),
        Row("all three", fast(tar), ()),
    ]


def report_of(
    rows: Sequence[Row], dataset: YouTubeVIS, timed: int, rounds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Scores of every row on all videos, and times on the first ones."""
    videos: list[list[Frame]] = [list(dataset.frames(video)) for video in dataset.videos[:timed]]
    for turn in range(rounds + 1):
        for row in rows if turn % 2 else rows[::-1]:
            with without(row.plain):
                frames, _ = time_once(row.model, videos)
            if turn:
                row.times.append(frames)
        say(f"round {turn} of {rounds}" if turn else "warmed up")
    found = []
    for row in rows:
        run = InstanceRun(row.model, dataset)
        with without(row.plain):
            for video in dataset.videos:
                run.track(video)
        scores = run.summary().to_dict()
        speed = milliseconds(row.times)
        found.append(
            {
                "name": row.name,
                **{name: scores[name] for name in ("AP", "AP50", "AP75", "AR1", "AR10")},
                "frame_ms": speed,
                "times_as_fast": round(milliseconds(rows[0].times) / speed, 3),
                "paper": dict(zip(("FPS", "AP", "AR10"), PAPER[row.name], strict=True)),
                "paper_times_as_fast": round(PAPER[row.name][0] / PAPER["nothing"][0], 3),
            }
        )
        say(f"{row.name}: AP {scores['AP']:.2f}, {speed:.1f} ms")
    model = rows[0].model
    return {
        "base": model.name,
        **computation(model.device, model.dtype),
        "videos": len(dataset),
        "timed": {"frames": len(np.array(rows[0].times)[0]), "rounds": rounds},
        "rows": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="the baseline's weights")
    parser.add_argument("--tar", type=Path, required=True, help="weights with TAR's router")
    parser.add_argument("--data", type=Path, required=True, help="YouTube-VIS file with truth")
    parser.add_argument("--timed-videos", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    given = parser.parse_args()

    def load(path: Path, router: Any) -> InstanceModel:
        dtype = cast(DTypeName, given.dtype)
        return load_instances(
            checkpoint=path, router=router, device=given.device, dtype=dtype, engine="plain"
        )

    make_folder(given.out.parent)
    rows = rows_of(load(given.base, "none"), load(given.tar, "tar"))
    report = report_of(
        rows,
        YouTubeVIS(given.data),
        given.timed_videos,
        given.rounds,
        say=lambda line: print(line, flush=True),
    )
    write_json(given.out, report)


if __name__ == "__main__":
    main()
