"""What a newcomer does on the page of `tempomask annotate`, by its texts alone, and how long.

    python -m benchmarks.speed.annotate_walk --out docs/results/annotate_walk.json

On the demo clip, with nano: open the page, click the object, "Whole video", "Export", "Write
files", download. The seconds are the machine's; reading and moving the hand come on top.
"""

from __future__ import annotations

import tempfile
import time
import zipfile
from typing import Any

from benchmarks.browser import chromium, click, served, visit
from benchmarks.common import finish, parser
from benchmarks.speed.annotate_page import CLIP

SAUCER = (104, 92)
PATIENCE = 600_000


def walk(threads: int) -> dict[str, Any]:
    """Seconds of each step, and how many files come down."""
    steps: dict[str, float] = {}
    began = last = time.perf_counter()

    def done(step: str) -> None:
        nonlocal last
        now = time.perf_counter()
        steps[step], last = round(now - last, 1), now

    with (
        tempfile.TemporaryDirectory() as folder,
        served(CLIP, "--project", folder, threads=threads) as server,
        chromium() as browser,
    ):
        page = visit(browser, server.address)
        done("the first frame is there")
        click(page, *SAUCER)
        done("the object is clicked")
        page.get_by_role("button", name="Whole video").click()
        page.wait_for_selector("body[data-state=tracking]")
        page.wait_for_selector("body[data-state=idle]", timeout=PATIENCE)
        done("the whole video is tracked")
        page.get_by_role("button", name="Export").first.click()
        page.get_by_role("button", name="Write files").click()
        page.wait_for_selector("#download:not([hidden])", timeout=PATIENCE)
        with page.expect_download() as download:
            page.click("#download")
        files = len(zipfile.ZipFile(download.value.path()).namelist())
        done("the export is downloaded")
    return {"steps": steps, "seconds": round(last - began, 1), "files": files, "threads": threads}


def main() -> None:
    """Walk and report."""
    command = parser(__doc__)
    command.add_argument("--threads", type=int, default=1)
    arguments = command.parse_args()
    finish({"model": "nano", **walk(arguments.threads)}, arguments.out)


if __name__ == "__main__":
    main()
