"""From the command to the first mask: starts `tempomask track` and waits for its first mask file.

    python -m benchmarks.speed.startup dog.mp4 --point 410,260 --out startup.json

Run it twice: the first run warms the disk. Import times are those of fresh interpreters.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import finish, parser

LIMIT = 60.0


def first_mask(source: str, point: str, repeats: int) -> list[float]:
    """Seconds from the start of the command to the first whole mask on disk."""
    seconds = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            command = [sys.executable, "-m", "tempomask", "track", source]
            command += ["--point", point, "--save", "masks", "--out", str(out)]
            started = time.perf_counter()
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while not any(out.rglob("*.png")):
                if process.poll() is not None or time.perf_counter() - started > LIMIT:
                    raise SystemExit(f"no mask appeared; run it by hand: {' '.join(command)}")
                time.sleep(0.005)
            seconds.append(time.perf_counter() - started)
            process.terminate()
            process.wait()
    return seconds


def import_seconds(statement: str, repeats: int) -> float:
    """Median seconds of an import in a fresh interpreter."""
    code = f"import time; a = time.perf_counter(); {statement}; print(time.perf_counter() - a)"
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(repeats)
    ]
    return statistics.median(runs)


def main() -> None:
    command = parser(__doc__)
    command.add_argument("source")
    command.add_argument("--point", required=True)
    command.add_argument("--repeats", type=int, default=5)
    arguments = command.parse_args()
    runs = first_mask(arguments.source, arguments.point, arguments.repeats)
    torch = import_seconds("import torch", arguments.repeats)
    both = import_seconds("import torch, tempomask; tempomask.load", arguments.repeats)
    report = {
        "first_mask_seconds": round(statistics.median(runs), 2),
        "slowest": round(max(runs), 2),
        "import_torch_seconds": round(torch, 2),
        "import_tempomask_over_torch_seconds": round(both - torch, 3),
    }
    finish(report, arguments.out)


if __name__ == "__main__":
    main()
