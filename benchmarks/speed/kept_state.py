"""What it costs to keep a session's state as `tempomask track` does, so that a run can be resumed.

    python -m benchmarks.speed.kept_state --model nano --objects 1 --out kept.json

Two sessions track the same noise in turns, 25 frames at a time. One of them then gives its state,
which is written beside the masks of a run. The network has random weights; times and sizes do not
depend on them. Times are of the processor, so that others on the machine count little.
`keep_share` is the time of keeping over that of the frames, `ratio` the frames of the session that
keeps, with keeping, over those of the other.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import FULL_FROM, HEIGHT, WIDTH, finish, noise, parser, randomised
from tempomask.cli.run import KEEP_EVERY
from tempomask.devices import resolve_dtype
from tempomask.engine import accelerate
from tempomask.files import replacing
from tempomask.tracking.session import Session


def measure(model: str, objects: int, rounds: int) -> dict[str, Any]:
    dtype = resolve_dtype("auto", torch.device("cpu"))
    segmenter = accelerate(randomised(model), dtype)
    sessions = [Session(segmenter, dtype=dtype) for _ in range(2)]
    for session in sessions:
        for number in range(objects):
            left = WIDTH // 4 + 8 * number
            session.prompt(object_id=number + 1, box=(left, HEIGHT // 4, left + 200, HEIGHT // 2))
    frames = noise(KEEP_EVERY)
    for session in sessions:
        for frame in frames[:FULL_FROM]:
            session.step(frame)
    plain, kept, keeping, size = [], [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for keeps in (False, True) if number % 2 else (True, False):
                began = time.process_time()
                for frame in frames:
                    _ = sessions[keeps].step(frame).low_res_logits
                stepped = time.process_time()
                if not keeps:
                    plain.append(stepped - began)
                    continue
                state = sessions[keeps].state()
                with replacing(Path(folder) / "session.safetensors") as part:
                    part.write_bytes(state)
                keeping.append(time.process_time() - stepped)
                kept.append(time.process_time() - began)
                size = len(state)
    frame_seconds = statistics.median(plain) / KEEP_EVERY
    return {
        "model": model,
        "objects": objects,
        "rounds": rounds,
        "frames_between": KEEP_EVERY,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "frame_ms": round(1000 * frame_seconds, 2),
        "keep_ms": round(1000 * statistics.median(keeping), 2),
        "bytes": size,
        "keep_share": round(statistics.median(keeping) / statistics.median(plain), 5),
        "ratio": round(statistics.median(k / p for k, p in zip(kept, plain, strict=True)), 4),
    }


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--model", default="nano")
    command.add_argument("--objects", type=int, default=1)
    command.add_argument("--rounds", type=int, default=4)
    arguments = command.parse_args()
    finish(measure(arguments.model, arguments.objects, arguments.rounds), arguments.out)


if __name__ == "__main__":
    main()
