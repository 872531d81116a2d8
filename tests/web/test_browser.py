"""The page in a real browser: what a person does, from the first click to the export."""

from __future__ import annotations

import base64
import csv
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.browser import (
    act,
    changing,
    chromium,
    click,
    drag,
    executable,
    place,
    ready,
    served,
    tracked,
    visit,
)
from tempomask.io.journal import open_journal
from tempomask.io.prompt_file import read_prompts
from tempomask.io.video import open_video
from tempomask.rle import encode_rle

pytest.importorskip("playwright")
pytestmark = [
    pytest.mark.web,
    pytest.mark.skipif(executable() is None, reason="there is no chromium on this machine"),
]

ASSETS = Path(__file__).parents[2] / "src" / "tempomask" / "assets" / "clip"
COUNT = 8
# What has neither a name, nor a label, nor a text, and is not a place for messages.
NAMELESS = """() => [...document.querySelectorAll("button, input, select, canvas, [role]")]
  .filter((each) => each.type !== "file" && !each.matches("[role=status], [role=alert]"))
  .filter((each) => !each.ariaLabel && !each.title && !each.textContent.trim())
  .filter((each) => !each.labels?.length && !each.hasAttribute("aria-labelledby"))
  .map((each) => each.outerHTML)"""
SAUCER = (104, 92)
# What a file manager does when a file is let go over the page.
DROP = """([data, name]) => {
  const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const fields = { dataTransfer: transfer, bubbles: true, cancelable: true };
  for (const kind of ["dragenter", "dragover", "drop"]) {
    document.getElementById("stage").dispatchEvent(new DragEvent(kind, fields));
  }
}"""
Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first frames of the demo clip, as a folder of images."""
    folder = tmp_path_factory.mktemp("source") / "clip"
    folder.mkdir()
    with open_video(ASSETS / "clip.mp4") as video:
        for index, frame in video.frames(0, COUNT):
            Image.fromarray(frame).save(folder / f"{index:05d}.png")
    return folder


@pytest.fixture(scope="module")
def truth() -> Mask:
    with np.load(ASSETS / "masks.npz") as archive:
        _, height, width = (int(side) for side in archive["shape"])
        masks = np.unpackbits(archive["packed"], axis=-1, count=width).astype(bool)
    return masks.reshape(-1, height, width)[:COUNT]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tmp_path / "project"


@pytest.fixture
def page(browser: Any, clip: Path, project: Path) -> Iterator[Any]:
    """A page on the clip; its console has nothing to complain of at the end."""
    with served(clip, "--project", project) as server:
        opened = visit(browser, server.address)
        opened.address = server.address
        yield opened
        assert not opened.problems
        opened.context.close()


def mask_on(project: Path, frame: int, object_id: int = 1) -> Mask:
    """What is saved; empty where there is nothing."""
    journal = open_journal(project / "frames.jsonl")
    if frame in journal.finished:
        record = journal.record(frame)
        if object_id in record.ids:
            return np.asarray(record.masks[record.ids.index(object_id)])
    return np.zeros(journal.info.size, dtype=bool)


def iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def shown_color(page: Any, x: float, y: float) -> list[int]:
    """Of the canvas at a pixel of the video."""
    return page.evaluate(
        """([x, y]) => {
          const canvas = document.getElementById("frame");
          const scale = canvas.width / canvas.dataset.width;
          return [...canvas.getContext("2d").getImageData(x * scale, y * scale, 1, 1).data];
        }""",
        [x, y],
    )


def names(page: Any) -> list[str]:
    return page.eval_on_selector_all("#objects .name", "all => all.map((each) => each.value)")


def test_a_click_shows_the_mask_of_the_object(
    page: Any, project: Path, clip: Path, truth: Mask
) -> None:
    frame = page.locator("#frame")
    assert [frame.get_attribute(f"data-{name}") for name in ("frame", "width", "height")] == [
        "0", "640", "360",
    ]  # fmt: skip
    before = shown_color(page, 90, 110)
    click(page, *SAUCER)
    assert iou(mask_on(project, 0), truth[0]) > 0.75
    page.mouse.move(*place(page, 600, 20))
    page.wait_for_timeout(300)
    assert shown_color(page, 90, 110) != before
    assert names(page) == ["object 1"]
    act(page, "toggle-masks")
    page.wait_for_timeout(100)
    assert shown_color(page, 90, 110) == before


def test_the_pointer_shows_what_a_click_would_give(page: Any, project: Path) -> None:
    before = shown_color(page, 90, 110)
    page.mouse.move(*place(page, *SAUCER))
    page.wait_for_selector("#frame[data-preview='0']")
    page.wait_for_timeout(200)
    assert shown_color(page, 90, 110) != before
    assert not (project / "prompts.json").exists() or not json.loads(
        (project / "prompts.json").read_text()
    )
    page.mouse.move(5, 5)
    page.wait_for_selector("#frame[data-preview='']")
    assert shown_color(page, 90, 110) == before


def test_prompts_of_every_kind_and_undo(page: Any, project: Path, truth: Mask) -> None:
    click(page, *SAUCER)
    with changing(page):
        act(page, "add-object")
    act(page, "tool-box")
    drag(page, (325, 140), (420, 220))
    head = mask_on(project, 0, 2)
    assert head[175:190, 360:385].mean() > 0.8 and not head[:, :300].any()
    act(page, "tool-click")
    click(page, 370, 160, button="right")
    prompts = read_prompts(project / "prompts.json")
    assert [prompt.is_negative_only for prompt in prompts] == [False, False, True]
    # Brush and eraser change pixels exactly where they pass.
    act(page, "tool-brush")
    before = mask_on(project, 0, 2)
    drag(page, (500, 50), (540, 50))
    painted = mask_on(project, 0, 2)
    assert painted[45:55, 500:540].all() and np.array_equal(painted[100:], before[100:])
    act(page, "tool-eraser")
    drag(page, (500, 50), (540, 50))
    assert np.array_equal(mask_on(project, 0, 2)[100:], before[100:])
    assert not mask_on(project, 0, 2)[45:55, 500:540].any()
    for _ in range(5):
        with changing(page):
            act(page, "undo")
    assert not mask_on(project, 0, 2).any() and names(page) == ["object 1"]
    for _ in range(3):
        with changing(page):
            act(page, "redo")
    assert np.array_equal(mask_on(project, 0, 2), before)


def test_track_correct_and_track_on(page: Any, project: Path, truth: Mask) -> None:
    click(page, *SAUCER)
    tracked(page, "track-both")
    assert min(iou(mask_on(project, t), truth[t]) for t in range(COUNT)) > 0.7
    # The page has followed the run to its end.
    assert page.locator("#frame").get_attribute("data-frame") == str(COUNT - 1)
    page.keyboard.press("Home")
    for _ in range(4):
        act(page, "next-frame")
    act(page, "previous-frame")
    ready(page)
    assert page.locator("#frame").get_attribute("data-frame") == "3"
    y, x = (int(side) for side in np.argwhere(truth[3]).mean(axis=0))
    click(page, x, y)
    tracked(page, "track-forward")
    prompts = read_prompts(project / "prompts.json")
    assert {prompt.frame for prompt in prompts} == {0, 3}
    assert min(iou(mask_on(project, t), truth[t]) for t in range(COUNT)) > 0.6
    tracked(page, "track-backward")
    assert page.get_attribute("[data-action=undo]", "title").startswith("Undo “track backward”")


def test_a_stop_and_a_range(page: Any, project: Path) -> None:
    click(page, *SAUCER)
    act(page, "track-forward")
    page.wait_for_selector("body[data-state=tracking]")
    act(page, "stop")
    page.wait_for_selector("body[data-state=idle]")
    done = set(open_journal(project / "frames.jsonl").finished)
    assert len(done) < COUNT
    lanes = page.locator("#lanes").bounding_box()
    x = lambda frame: lanes["x"] + 92 + (lanes["width"] - 100) * (frame + 0.5) / COUNT  # noqa: E731
    page.keyboard.down("Shift")
    page.mouse.move(x(5), lanes["y"] + 5)
    page.mouse.down()
    page.mouse.move(x(6), lanes["y"] + 5, steps=3)
    page.mouse.up()
    page.keyboard.up("Shift")
    tracked(page, "track-range")
    assert set(open_journal(project / "frames.jsonl").finished) == done | {5, 6}


def test_a_reload_in_the_middle_of_tracking(page: Any, project: Path) -> None:
    click(page, *SAUCER)
    act(page, "track-forward")
    page.wait_for_selector("body[data-state=tracking]")
    page.reload()
    page.wait_for_selector("body[data-state=idle]")
    assert len(open_journal(project / "frames.jsonl").finished) == COUNT
    assert names(page) == ["object 1"]


def test_a_killed_server_loses_nothing(browser: Any, clip: Path, project: Path) -> None:
    with served(clip, "--project", project) as server:
        page = visit(browser, server.address)
        click(page, *SAUCER)
        page.locator("#objects .name").fill("saucer")
        with changing(page):
            page.keyboard.press("Enter")
        act(page, "track-forward")
        page.wait_for_function("() => Number(document.getElementById('progress').value) >= 2")
        server.kill()
        page.context.close()
    with served("--project", project) as server:
        page = visit(browser, server.address)
        assert names(page) == ["saucer"]
        assert len(read_prompts(project / "prompts.json")) == 1
        assert len(open_journal(project / "frames.jsonl").finished) >= 2
        tracked(page, "track-both")
        assert mask_on(project, COUNT - 1).any()
        page.context.close()


def test_the_export_is_downloaded(page: Any, project: Path) -> None:
    click(page, *SAUCER)
    tracked(page, "track-both")
    act(page, "export")
    for box in page.locator("#formats input").all():
        box.check()
    act(page, "export-now")
    page.wait_for_selector("#download:not([hidden])")
    with page.expect_download() as download:
        page.click("#download")
    archive = zipfile.ZipFile(download.value.path())
    assert download.value.suggested_filename == "clip-masks.zip"
    labels = np.asarray(Image.open(io.BytesIO(archive.read("masks/00003.png"))))
    assert np.array_equal(labels == 1, mask_on(project, 3))
    rows = list(csv.reader(archive.read("boxes.csv").decode().splitlines()))
    assert len(rows) == COUNT + 1
    assert len(json.loads(archive.read("coco.json"))["annotations"]) == COUNT
    assert f"{project}/prompts.json" in page.inner_text("#command")


def test_two_tabs_share_a_project(page: Any, browser: Any, project: Path) -> None:
    other = visit(browser, page.address)
    click(page, *SAUCER)
    other.wait_for_function("() => document.querySelectorAll('#objects li').length === 1")
    with changing(other):
        act(other, "add-object")
    click(other, 370, 180)
    page.wait_for_function("() => document.querySelectorAll('#objects li').length === 2")
    with changing(page):
        act(page, "undo")
    assert mask_on(project, 0, 1).any() and not mask_on(project, 0, 2).any()
    assert not other.problems
    other.context.close()


def test_twenty_objects(page: Any, project: Path) -> None:
    for number in range(20):
        with changing(page):
            page.keyboard.press("n")
        click(page, 40 + 140 * (number % 5), 40 + 90 * (number // 5))
    assert len(names(page)) == 20
    assert len(read_prompts(project / "prompts.json")) == 20
    tracked(page, "track-forward")
    assert set(open_journal(project / "frames.jsonl").record(COUNT - 1).ids) == set(range(1, 21))
    assert page.locator("[data-object='20']").is_visible()


@pytest.mark.parametrize("size", [(3840, 2160), (333, 517), (37, 23)])
def test_images_of_every_size(
    browser: Any, size: tuple[int, int], tmp_path: Path, project: Path
) -> None:
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    radius = min(size) / 4
    disc = (columns - width / 2) ** 2 + (rows - height / 2) ** 2 < radius**2
    image = np.where(disc[..., None], (240, 200, 40), (30, 50, 80)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    with served(tmp_path / "photo.png", "--project", project) as server:
        page = visit(browser, server.address)
        frame = page.locator("#frame")
        assert frame.get_attribute("data-width") == str(width)
        box = frame.bounding_box()
        assert box["width"] / box["height"] == pytest.approx(width / height, rel=0.01)
        click(page, width / 2, height / 2)
        found = mask_on(project, 0)
        assert iou(found, np.asarray(disc)) > 0.4
        middle = np.argwhere(found).mean(axis=0)
        assert np.abs(middle - (height / 2, width / 2)).max() < radius / 2
        act(page, "tool-brush")
        drag(page, (width * 0.1, height * 0.1), (width * 0.2, height * 0.1))
        assert mask_on(project, 0)[int(height * 0.1), int(width * 0.15)]
        assert not page.problems
        page.context.close()


def test_keys_alone_are_enough(page: Any, project: Path, truth: Mask) -> None:
    press = page.keyboard.press
    page.wait_for_timeout(300)
    # From the middle of the frame, in steps of 40 and 4 pixels.
    for key, count in (("Alt+Shift+ArrowLeft", 5), ("Alt+ArrowLeft", 4), ("Alt+Shift+ArrowUp", 2),
                       ("Alt+ArrowUp", 2)):  # fmt: skip
        for _ in range(count):
            press(key)
    with changing(page):
        press("Enter")
    assert iou(mask_on(project, 0), truth[0]) > 0.75
    press("t")
    page.wait_for_selector("body[data-state=tracking]")
    page.wait_for_selector("body[data-state=idle]")
    press("End")
    ready(page)
    assert page.locator("#frame").get_attribute("data-frame") == str(COUNT - 1)
    with changing(page):
        press("Delete")
    assert not mask_on(project, COUNT - 1).any()
    with changing(page):
        press("Control+z")
    assert mask_on(project, COUNT - 1).any()
    press("?")
    assert page.locator("#help-dialog").is_visible()
    press("Escape")
    press("g")
    assert page.locator("#export-dialog").is_visible()
    page.locator("[data-action=export-now]").focus()
    press("Enter")
    page.wait_for_selector("#download:not([hidden])")


@pytest.mark.parametrize("size", [(390, 800), (768, 1024), (1024, 768), (1280, 720)])
def test_a_window_of_any_width_is_of_use(page: Any, project: Path, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.wait_for_timeout(200)
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= size[0]
    box = page.locator("#frame").bounding_box()
    assert box["width"] > 0.5 * size[0]
    click(page, *SAUCER)
    assert mask_on(project, 0).any()
    for action in ("add-object", "track-both", "track-forward", "undo", "next-frame", "export"):
        assert page.locator(f"[data-action={action}]").is_enabled()
        page.click(f"[data-action={action}]", trial=True)


def test_a_file_is_dropped_onto_the_page(page: Any, tmp_path: Path, project: Path) -> None:
    image = np.full((50, 70, 3), 90, np.uint8)
    image[10:40, 20:50] = (220, 40, 40)
    Image.fromarray(image).save(tmp_path / "red.png")
    data = base64.b64encode((tmp_path / "red.png").read_bytes()).decode()
    page.evaluate(DROP, [data, "red.png"])
    page.wait_for_function("() => document.getElementById('frame').dataset.width === '70'")
    ready(page)
    click(page, 35, 25)
    assert mask_on(project / "red-annotated", 0)[15:35, 25:45].mean() > 0.9
    page.select_option("#videos", "0")
    page.wait_for_function("() => document.getElementById('frame').dataset.width === '640'")


def shown_at(page: Any, x: float, y: float) -> None:
    """The saucer comes to a place of the window; the browser passes touches on once a frame."""
    for _ in range(100):
        if place(page, *SAUCER) == pytest.approx((x, y), abs=4):
            return
        page.wait_for_timeout(50)
    assert place(page, *SAUCER) == pytest.approx((x, y), abs=4)


def test_two_fingers_zoom_and_move(browser: Any, page: Any, project: Path) -> None:
    """And say nothing: one finger alone clicks, when it is lifted."""
    page = visit(browser, page.address, has_touch=True)
    touch = page.context.new_cdp_session(page)

    def fingers(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def width() -> float:
        return page.locator("#frame").bounding_box()["width"]

    before, (x, y) = width(), place(page, *SAUCER)
    fingers("touchStart", (x - 20, y))
    fingers("touchStart", (x - 20, y), (x + 20, y))
    for apart in (30, 40, 60):
        fingers("touchMove", (x - apart, y), (x + apart, y))
    # What lay between the fingers still does.
    shown_at(page, x, y)
    assert width() == pytest.approx(3 * before, rel=0.05)
    fingers("touchMove", (x - 60, y + 30), (x + 60, y + 30))
    shown_at(page, x, y + 30)
    fingers("touchEnd")
    assert page.locator("#objects li").count() == 0
    with changing(page):
        fingers("touchStart", (x, y + 30))
        fingers("touchEnd")
    assert page.locator("#objects li").count() == 1
    (prompt,) = read_prompts(project / "prompts.json")
    assert np.asarray(prompt.points)[0] == pytest.approx(SAUCER, abs=3)
    page.context.close()


def test_run_lengths_are_those_of_python(page: Any) -> None:
    rng = np.random.default_rng(0)
    sizes = (1, 1, 1), (1, 1, 0), (7, 5, 0.5), (40, 60, 0.02), (90, 33, 0.97), (2, 300, 0.5)
    masks = [rng.random((height, width)) < share for height, width, share in sizes]
    masks.append(np.pad(np.ones((200, 300), bool), 1))
    for mask in masks:
        height, width = mask.shape
        code = encode_rle(mask)["counts"]
        found = page.evaluate(
            """async ([code, pixels, width, height]) => {
              const { encode, decode } = await import(new URL("rle.js", location.href));
              const whole = decode(code, width, height), thin = decode(code, width, height, 3);
              return [encode(Uint8Array.from(pixels), width, height), [...whole], [...thin]];
            }""",
            [code, mask.ravel().astype(int).tolist(), width, height],
        )
        assert found[0] == code
        assert found[1] == mask.ravel().tolist()
        assert found[2] == mask[::3, ::3].ravel().tolist()


def test_a_video_that_cannot_be_opened_gives_way(
    browser: Any, clip: Path, tmp_path: Path, project: Path
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with served(clip, tmp_path / "broken.mp4", "--project", project) as server:
        page = visit(browser, server.address)
        page.select_option("#videos", "1")
        page.wait_for_selector("#toasts p")
        assert "broken.mp4" in page.inner_text("#toasts")
        ready(page)
        click(page, *SAUCER)
        assert mask_on(project / "clip-annotated", 0).any()
        assert not page.problems
        page.context.close()


def test_a_frame_that_cannot_be_read_is_told_of(browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "a folder with a name that is much longer than the list of videos is wide"
    folder.mkdir()
    for index in range(40):
        Image.fromarray(np.full((48, 64, 3), index * 6, np.uint8)).save(folder / f"{index:03}.png")
    with served(folder, "--project", tmp_path / "project") as server:
        page = visit(browser, server.address)
        (folder / "038.png").write_bytes(b"gone bad")
        page.fill("#frame-number", "38")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('hint').textContent.includes('038')")
        assert page.inner_text("#hint").startswith("Frame 38 cannot be shown: ")
        act(page, "next-frame")
        page.wait_for_function("() => !document.getElementById('hint').textContent.includes('038')")
        # The long name takes nothing from the buttons beside it.
        page.set_viewport_size({"width": 800, "height": 1000})
        for name in ("theme", "help"):
            box = page.locator(f"[data-action={name}]").bounding_box()
            assert box["width"] >= 34 and box["x"] + box["width"] <= 800
        page.context.close()


def test_a_mask_is_uploaded(page: Any, tmp_path: Path, project: Path, truth: Mask) -> None:
    Image.fromarray(truth[0]).save(tmp_path / "mask.png")
    with changing(page):
        page.set_input_files("#mask-file", tmp_path / "mask.png")
    page.wait_for_function("() => document.querySelectorAll('#objects li').length === 1")
    for _ in range(100):
        if mask_on(project, 0).any():
            break
        page.wait_for_timeout(50)
    assert np.array_equal(mask_on(project, 0), truth[0])


def test_everything_has_a_name_for_screen_readers(page: Any) -> None:
    click(page, *SAUCER)
    nameless = page.evaluate(NAMELESS)
    assert not nameless


def test_the_budget_is_followed_and_shown(page: Any, project: Path) -> None:
    click(page, *SAUCER)
    with changing(page):
        page.locator("#budget").fill("60")
    tracked(page, "track-forward")
    blocks = open_journal(project / "frames.jsonl").record(COUNT - 1).blocks
    assert 0 < blocks.mean() < 0.7
    page.wait_for_function(
        "() => document.getElementById('speed-now').textContent.includes('% of blocks')"
    )
    act(page, "export")
    assert "--budget 0.6" in page.inner_text("#command")
    page.keyboard.press("Escape")
    for _ in range(2):
        with changing(page):
            act(page, "undo")
    page.wait_for_function("() => document.getElementById('budget-now').textContent === 'all'")
    assert "--budget" not in (page.text_content("#command") or "")
