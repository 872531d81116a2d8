"""How soon the page of `tempomask annotate` answers, in a browser: clicks, previews, scrubbing.

    python -m benchmarks.speed.annotate_page --out docs/results/annotate_page.json

On the demo clip, with nano. Clicks and previews are timed in the page, from the pointer's event to
the animation frame after the one that has drawn the mask, on a frame that has been encoded, as the
page has it done while nobody clicks. Scrubbing counts frames shown one after the other, each waited
for.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np

from benchmarks.browser import ROOT, act, chromium, place, ready, served, visit
from benchmarks.common import finish, parser

CLIP = ROOT / "src" / "tempomask" / "assets" / "clip" / "clip.mp4"
CLICKS, HOVERS, SCRUBBED = 20, 60, 90
# On the saucer of the first frame, and around it.
SPOTS = [(104 + 9 * x, 92 + 7 * y) for x in (-3, -1, 0, 2, 3) for y in (-2, 0, 1, 3)]

# The time from an event to so many animation frames after an attribute has changed: one where it
# changes as the mask is drawn, two where that is still to come.
TIMER = """([element, attribute, event, frames]) => new Promise((resolve) => {
  let began = null;
  addEventListener(event, (each) => { began ??= each.timeStamp; }, { capture: true, once: true });
  const watched = document.querySelector(element);
  const watch = new MutationObserver(() => {
    if (began === null || !watched.getAttribute(attribute)) return;
    watch.disconnect();
    const wait = (left) => requestAnimationFrame(() => {
      if (left > 1) wait(left - 1);
      else resolve(performance.now() - began);
    });
    wait(frames);
  });
  watch.observe(watched, { attributeFilter: [attribute] });
})"""

SCRUB = """(count) => new Promise((resolve) => {
  const number = document.getElementById("frame-number"), frame = document.getElementById("frame");
  const began = performance.now();
  let shown = 0;
  const step = () => {
    if (frame.dataset.shown === String(shown)) {
      if (++shown === count) return resolve(count / (performance.now() - began) * 1000);
      number.value = shown;
      number.dispatchEvent(new Event("change"));
    }
    requestAnimationFrame(step);
  };
  step();
})"""


def summary(values: list[float]) -> dict[str, float | int]:
    """Median and 95th percentile of milliseconds."""
    p50, p95 = np.percentile(values, (50, 95)).round(1).tolist()
    return {"count": len(values), "p50_ms": p50, "p95_ms": p95}


def clicks(page: Any) -> list[float]:
    """First clicks on a frame, each undone before the next."""
    times = []
    for spot in SPOTS[:CLICKS]:
        began = page.evaluate_handle(f"([...a]) => ({{ done: ({TIMER})(a) }})",
                                     ["body", "data-done", "pointerdown", 2])  # fmt: skip
        page.mouse.click(*place(page, *spot))
        times.append(page.evaluate("(each) => each.done", began))
        act(page, "undo")
        page.wait_for_timeout(100)
    return times


def hovers(page: Any) -> list[float]:
    """Previews, the pointer at rest between them."""
    times = []
    for turn in range(HOVERS):
        page.mouse.move(10, 10)
        page.wait_for_selector("#frame[data-preview='']")
        began = page.evaluate_handle(f"([...a]) => ({{ done: ({TIMER})(a) }})",
                                     ["#frame", "data-preview", "pointermove", 1])  # fmt: skip
        page.mouse.move(*place(page, *SPOTS[turn % len(SPOTS)]))
        times.append(page.evaluate("(each) => each.done", began))
    return times


def measured(threads: int) -> dict[str, Any]:
    """All of it, with so many threads of the computation."""
    with (
        tempfile.TemporaryDirectory() as folder,
        served(CLIP, "--project", folder, threads=threads) as server,
        chromium() as browser,
    ):
        page = visit(browser, server.address)
        act(page, "add-object")
        page.wait_for_timeout(2000)
        row = {"threads": threads, "click": summary(clicks(page)), "preview": summary(hovers(page))}
        page.mouse.move(10, 10)
        ready(page)
        return {**row, "scrubbed_frames_per_second": round(page.evaluate(SCRUB, SCRUBBED), 1)}


def main() -> None:
    """Measure and report."""
    command = parser(__doc__)
    command.add_argument("--threads", default="1,2")
    arguments = command.parse_args()
    rows = [measured(int(threads)) for threads in arguments.threads.split(",")]
    finish({"model": "nano", "rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
