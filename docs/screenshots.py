"""Screenshots of the page of `tempomask annotate` for the documents: `python -m docs.screenshots`.

Drives the page in the system's chromium on the demo clip, and writes docs/images/annotate*.webp.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.browser import (
    ROOT,
    act,
    changing,
    chromium,
    click,
    place,
    ready,
    served,
    tracked,
    visit,
)

IMAGES = ROOT / "docs" / "images"
CLIP = ROOT / "src" / "tempomask" / "assets" / "clip" / "clip.mp4"
_QUALITY = 80


def shoot(page: Any, name: str, folder: Path) -> None:
    """What the page shows, as WebP."""
    page.wait_for_timeout(400)
    image = Image.open(io.BytesIO(page.screenshot()))
    image.save(folder / f"{name}.webp", quality=_QUALITY, method=6)
    print(folder / f"{name}.webp")


def name_object(page: Any, number: int, name: str) -> None:
    """Give an object of the list its name."""
    field = page.locator(f"[data-object='{number}'] .name")
    field.fill(name)
    with changing(page):
        field.press("Enter")


def go(page: Any, frame: int) -> None:
    """Show a frame."""
    page.locator("#frame-number").fill(str(frame))
    page.locator("#frame-number").press("Enter")
    page.locator("#frame-number").blur()
    ready(page)


def label(page: Any, folder: Path) -> None:
    """The way of the guide: a click, a second object, the whole video, a review, the export."""
    page.mouse.move(*place(page, 104, 92))
    page.wait_for_selector("#frame[data-preview='0']")
    shoot(page, "annotate-first", folder)
    click(page, 104, 92)
    name_object(page, 1, "saucer")
    with changing(page):
        act(page, "add-object")
    click(page, 372, 180)
    click(page, 350, 300)
    name_object(page, 2, "astronaut")
    with changing(page):
        act(page, "add-object")
    click(page, 325, 130)
    name_object(page, 3, "rocket")
    tracked(page, "track-both")
    page.click("[data-object='1'] .name")
    page.locator("#lanes").focus()
    go(page, 26)
    shoot(page, "annotate", folder)
    if page.locator("#review button").count():
        page.locator("#review button").first.click()
        ready(page)
    shoot(page, "annotate-review", folder)
    act(page, "export")
    shoot(page, "annotate-export", folder)
    page.keyboard.press("Escape")
    act(page, "help")
    shoot(page, "annotate-keys", folder)
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 768, "height": 1024})
    shoot(page, "annotate-tablet", folder)
    page.set_viewport_size({"width": 390, "height": 800})
    shoot(page, "annotate-narrow", folder)


def main() -> None:
    """Write them all, the light page last and once."""
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as work,
        served(shutil.copy(CLIP, Path(work) / "saucer.mp4"), folder=Path(work)) as server,
        chromium() as browser,
    ):
        dark = visit(browser, server.address, color_scheme="dark")
        label(dark, IMAGES)
        light = visit(browser, server.address, color_scheme="light")
        go(light, 40)
        shoot(light, "annotate-light", IMAGES)
        with changing(light):
            act(light, "everything")
        shoot(light, "annotate-everything", IMAGES)


if __name__ == "__main__":
    main()
