"""The page of `tempomask annotate` in a real browser: for tests, timing and screenshots.

>>> with served("clip.mp4", "--project", "work") as server, chromium() as browser:  # doctest: +SKIP
...     page = visit(browser, server.address)
...     click(page, 104, 92)
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parent.parent
# A busy machine takes its time.
PATIENCE = 600_000
NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str | None:
    """The browser of the system; None without one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Server:
    """A running `tempomask annotate`.

    Args:
        words: Its arguments.
        threads: Of the computation.
        folder: In which it runs.
    """

    def __init__(self, *words: str | Path, threads: int = 1, folder: Path | None = None) -> None:
        paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        command = [sys.executable, "-m", "tempomask", "annotate", "--no-open", *map(str, words)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            _, errors = self.process.communicate()
            raise RuntimeError(f"annotate did not start: {errors}")

    def megabytes(self) -> float:
        """Its resident memory."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def stop(self) -> str:
        """End it as Ctrl-C does; what it said on stderr."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.communicate(timeout=30)[1]
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.communicate()[1]


@contextmanager
def served(*words: str | Path, threads: int = 1, folder: Path | None = None) -> Iterator[Server]:
    """A server that is stopped at the end."""
    server = Server(*words, threads=threads, folder=folder)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's browser, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable(), args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


def visit(browser: Browser, address: str, **context: Any) -> Page:
    """A page at the address, ready for clicks; `page.problems` lists its console's errors."""
    page = browser.new_context(viewport={"width": 1280, "height": 720}, **context).new_page()
    page.set_default_timeout(PATIENCE)
    page.problems = []  # type: ignore[attr-defined]
    page.on("pageerror", lambda error: page.problems.append(str(error)))  # type: ignore[attr-defined]
    page.on(
        "console",
        lambda said: page.problems.append(said.text) if said.type == "error" else None,  # type: ignore[attr-defined]
    )
    page.goto(address)
    ready(page)
    return page


def ready(page: Page) -> None:
    """Wait until the page is idle and shows its frame."""
    page.wait_for_selector("body[data-state=idle]")
    page.wait_for_function(
        "() => { const d = document.getElementById('frame').dataset; return d.shown === d.frame }"
    )


def place(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the video is in the window."""
    frame = page.locator("#frame")
    box = frame.bounding_box()
    assert box is not None
    width = float(frame.get_attribute("data-width") or 0)
    height = float(frame.get_attribute("data-height") or 0)
    return box["x"] + x / width * box["width"], box["y"] + y / height * box["height"]


def click(page: Page, x: float, y: float, button: Any = "left") -> None:
    """Click a pixel of the video, and wait for what it gives."""
    with changing(page):
        page.mouse.click(*place(page, x, y), button=button)


def drag(page: Page, *points: tuple[float, float]) -> None:
    """Press at the first pixel of the video, move over the others, let go, wait for the answer."""
    with changing(page):
        page.mouse.move(*place(page, *points[0]))
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*place(page, *point), steps=4)
        page.mouse.up()


@contextmanager
def changing(page: Page) -> Iterator[None]:
    """Wait at the end until the page has taken in what the block has changed."""
    count = int(page.evaluate("document.body.dataset.done"))
    yield
    page.wait_for_function(
        "count => Number(document.body.dataset.done) > count"
        " && document.body.dataset.pending === '0'",
        arg=count,
    )
    # What has come is drawn with the next frame of the screen.
    page.evaluate("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")


def act(page: Page, action: str) -> None:
    """Press the button of an action."""
    page.click(f"[data-action={action}]")


def tracked(page: Page, action: str) -> None:
    """Press a button that tracks, and wait until it has."""
    act(page, action)
    page.wait_for_selector("body[data-state=tracking]")
    page.wait_for_selector("body[data-state=idle]")
