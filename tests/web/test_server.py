"""A page's conversation with the server, without a browser: prompts, tracking, undo, export."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("starlette")
from starlette.testclient import TestClient

from tempomask.io.prompt_file import read_prompts
from tempomask.model import Model
from tempomask.rle import RLE, decode_rle, encode_rle
from tempomask.web.clicker import OPTIONS
from tempomask.web.hub import Hub
from tempomask.web.models import Models
from tempomask.web.server import build_app
from tempomask.web.workspace import Workspace

HOST, TOKEN = "127.0.0.1:8000", "secret"
OURS = {"host": HOST, "origin": f"http://{HOST}"}
SIZE = (60, 90)


def disc(frame: int) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.asarray((rows - 30) ** 2 + (columns - 25 - 2 * frame) ** 2 < 12**2)


class Page:
    """One socket, and what the server said last of everything."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.masks: dict[int, dict[int, list[Any]]] = {}

    def say(self, kind: str, **fields: Any) -> None:
        self.socket.send_text(json.dumps({"type": kind, **fields}))

    def hear(self, *kinds: str) -> dict[str, Any]:
        """The next event of one of these kinds."""
        while True:
            event = self.socket.receive_json()
            if event["type"] in ("change", "tracked", "masks"):
                for frame, rows, _ in event["frames"]:
                    self.masks[frame] = {row[0]: row for row in rows}
            if event["type"] in kinds:
                return event
            assert event["type"] != "error", event["text"]

    def mask(self, frame: int, object_id: int = 1) -> NDArray[np.bool_]:
        return decode_rle(RLE(size=list(SIZE), counts=self.masks[frame][object_id][8]))

    def track(self, **fields: Any) -> None:
        self.say("track", **{"direction": "both", "frame": 0, **fields})
        self.hear("idle")


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


@pytest.fixture
def serve(frames: Path, tmp_path: Path, nano: Model) -> Iterator[Callable[[], TestClient]]:
    """Starts a server on the project; the one before is stopped."""
    stack = ExitStack()

    def start() -> TestClient:
        stack.close()
        workspace = Workspace([str(frames)], tmp_path / "project")
        built: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if not built:
                hub = Hub(workspace, Models(lambda _: nano, None, "nano"), [], 10_000_000)
                built.append(build_app(hub, TOKEN, [HOST]))
            await built[0](scope, receive, send)

        return stack.enter_context(TestClient(app, base_url=f"http://{HOST}"))

    with stack:
        yield start


@pytest.fixture
def serving() -> list[TestClient]:
    """The servers that have run; the last one still does."""
    return []


@pytest.fixture
def visit(
    serve: Callable[[], TestClient], serving: list[TestClient]
) -> Iterator[Callable[..., tuple[Page, dict[str, Any]]]]:
    """Opens a page; the project as the server tells it."""
    stack, clients = ExitStack(), serving

    def come(fresh: bool = False) -> tuple[Page, dict[str, Any]]:
        if fresh or not clients:
            stack.close()
            clients.append(serve())
        socket = clients[-1].websocket_connect(f"/{TOKEN}/socket", headers=OURS)
        page = Page(stack.enter_context(socket))
        page.say("open", video=0)
        return page, page.hear("project")

    with stack:
        yield come


Visit = Callable[..., tuple[Page, dict[str, Any]]]
Post = Callable[[str, NDArray[Any]], dict[str, Any]]


@pytest.fixture
def posting(serving: list[TestClient]) -> Post:
    """Uploads an image to the server of the page."""

    def post(path: str, pixels: NDArray[Any]) -> dict[str, Any]:
        data = BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        return serving[-1].post(f"/{TOKEN}/{path}", content=data.getvalue(), headers=OURS).json()

    return post


def clicked(page: Page, frame: int = 0, object_id: int = 1) -> None:
    page.say("add-object")
    page.hear("added")
    page.say("click", frame=frame, object=object_id, x=25 + 2 * frame, y=30, label=1)
    while "click" not in str(page.hear("change")["undo"]):
        pass


def test_a_click_gives_a_mask_and_undo_takes_it_back(visit: Visit) -> None:
    page, project = visit()
    assert (project["width"], project["height"], project["num_frames"]) == (90, 60, 12)
    clicked(page)
    assert iou(page.mask(0), disc(0)) > 0.8
    page.say("undo")
    event = page.hear("change")
    assert event["redo"] == "click" and event["prompts"] == [[0, 1, []]]
    assert not page.masks[0]
    page.say("redo")
    page.hear("change")
    assert iou(page.mask(0), disc(0)) > 0.8


def test_a_preview_is_what_the_click_will_give(visit: Visit) -> None:
    page, _ = visit()
    page.say("hover", frame=0, object=0, x=25, y=30, label=1, id=7)
    preview = page.hear("preview")
    clicked(page)
    assert preview["id"] == 7
    assert preview["mask"][8] == page.masks[0][1][8]


def test_tracking_finds_the_object_and_is_one_undo(visit: Visit) -> None:
    page, _ = visit()
    clicked(page, 4)
    page.track()
    assert sorted(page.masks) == list(range(12))
    assert min(iou(page.mask(frame), disc(frame)) for frame in range(12)) > 0.7
    page.say("undo")
    page.hear("change")
    assert [frame for frame, rows in page.masks.items() if rows] == [4]


def test_both_gives_the_masks_of_the_command_line(
    visit: Visit, nano: Model, frames: Path, tmp_path: Path
) -> None:
    page, _ = visit()
    clicked(page, 4)
    page.say("click", frame=4, object=1, x=80, y=5, label=0)
    page.hear("change")
    clicked(page, 7, 2)
    page.track()
    prompts = read_prompts(tmp_path / "project" / "prompts.json")
    assert [(p.frame, p.object_id) for p in prompts] == [(4, 1), (4, 1), (7, 2)]
    for result in nano.track(frames, prompts, direction="both", options=OPTIONS):
        for place, object_id in enumerate(result.object_ids):
            assert np.array_equal(page.mask(result.index, object_id), result.masks[place])


def test_directions_ranges_and_chosen_objects(visit: Visit) -> None:
    page, _ = visit()
    clicked(page, 4)
    clicked(page, 5, 2)
    page.track(direction="forward", frame=4, objects=[1])
    assert {frame for frame, rows in page.masks.items() if 1 in rows} == set(range(4, 12))
    assert {frame for frame, rows in page.masks.items() if 2 in rows} == {5}
    page.track(direction="backward", frame=5, objects=[2])
    assert {frame for frame, rows in page.masks.items() if 2 in rows} == set(range(6))
    before = page.masks[9][1]
    page.track(direction="forward", frame=6, first=6, last=8)
    assert {frame for frame, rows in page.masks.items() if 2 in rows} == set(range(9))
    assert page.masks[9][1] == before


def test_a_correction_goes_on_from_the_tracked_mask(visit: Visit, tmp_path: Path) -> None:
    page, _ = visit()
    clicked(page)
    page.track(direction="forward")
    before = page.mask(6)
    page.say("click", frame=6, object=1, x=37, y=30, label=1)
    page.hear("change")
    assert iou(page.mask(6), before) > 0.7
    base, click = read_prompts(tmp_path / "project" / "prompts.json")[1:]
    assert np.array_equal(base.mask, before) and click.points is not None
    page.track(direction="forward", frame=6)
    assert iou(page.mask(11), disc(11)) > 0.7


def test_a_drawn_mask_stays_as_it_was_drawn(visit: Visit) -> None:
    page, _ = visit()
    page.say("add-object")
    page.hear("added")
    drawn = disc(3)
    drawn[::2] = False
    page.say("paint", frame=3, object=1, counts=encode_rle(drawn)["counts"])
    page.hear("change")
    page.track()
    assert np.array_equal(page.mask(3), drawn)
    page.say("paint", frame=3, object=1, counts=encode_rle(np.zeros(SIZE, bool))["counts"])
    page.hear("change")
    assert 1 not in page.masks[3]


def test_locked_objects_stay(visit: Visit) -> None:
    page, _ = visit()
    clicked(page)
    page.say("edit-object", object=1, locked=True, name="a cup", color="#123456", visible=False)
    info = page.hear("change")["objects"][0]
    assert info == {"id": 1, "name": "a cup", "color": "#123456", "visible": False, "locked": True}
    for kind, fields in (
        ("click", {"frame": 0, "x": 1, "y": 1, "label": 1}),
        ("clear", {"frame": 0}),
        ("delete-object", {}),
    ):
        page.say(kind, object=1, **fields)
        assert "locked" in page.hear("error")["text"]
    page.say("track", direction="both", frame=0)
    assert "unlock" in page.hear("error")["text"]


def test_a_speed_needs_a_router(visit: Visit) -> None:
    page, project = visit()
    assert project["routing"] == {"budget": None, "fps": None}
    page.say("routing", budget=0.5, fps=None)
    assert "no router" in page.hear("error")["text"]
    page.say("routing", budget=0.5, fps=10)
    assert "one of both" in page.hear("error")["text"]


def test_two_pages_see_one_project(visit: Visit) -> None:
    one, _ = visit()
    two, _ = visit()
    clicked(one)
    while "click" not in str(two.hear("change")["undo"]):
        pass
    assert two.masks[0] == one.masks[0]
    two.say("delete-object", object=1)
    while one.hear("change")["objects"]:
        pass
    two.say("undo")
    assert [info["id"] for info in one.hear("change")["objects"]] == [1]


def test_a_stop_keeps_what_is_done(visit: Visit) -> None:
    page, _ = visit()
    clicked(page)
    page.say("track", direction="forward", frame=0)
    for _ in range(3):
        page.hear("tracked")
    page.say("stop")
    assert page.hear("idle")["undo"] == "track forward"
    assert 3 <= len(page.masks) < 12
    _, again = visit()
    assert len(again["frames"]) == len(page.masks) and again["tracking"] is None


def test_a_click_ends_the_run_that_it_corrects(visit: Visit) -> None:
    page, _ = visit()
    clicked(page)
    page.say("track", direction="forward", frame=0)
    page.hear("tracked")
    page.say("click", frame=0, object=1, x=30, y=30, label=1)
    page.hear("idle")
    assert page.hear("change")["undo"] == "click"
    page.say("undo")
    assert page.hear("change")["undo"] == "track forward"


def test_everything_comes_back_in_a_new_server(visit: Visit) -> None:
    page, _ = visit()
    clicked(page)
    page.track()
    _, project = visit(fresh=True)
    assert len(project["frames"]) == 12
    assert project["prompts"] == [[0, 1, [{"points": [[25.0, 30.0]], "labels": [1]}]]]


def test_undo_and_redo_reach_past_a_restart(visit: Visit) -> None:
    page, _ = visit()
    clicked(page)
    page.track()
    page.say("undo")
    page.hear("change")
    page, project = visit(fresh=True)
    assert (project["undo"], project["redo"]) == ("click", "track both")
    page.say("redo")
    assert len(page.hear("change")["frames"]) == 12
    page, project = visit(fresh=True)
    assert (project["undo"], project["redo"]) == ("track both", None)
    for label in ("click", "add object", None):
        page.say("undo")
        assert page.hear("change")["undo"] == label
    _, project = visit(fresh=True)
    assert not project["objects"] and not project["prompts"]
    assert not any(masks for _, masks, _ in project["frames"])


def test_masks_are_uploaded(visit: Visit, posting: Post) -> None:
    page, _ = visit()
    labels = np.zeros(SIZE, np.uint8)
    labels[5:20, 5:20] = 1
    assert posting("mask/0/2/1", labels) == {}
    page.hear("change")
    assert np.array_equal(page.mask(2), labels == 1)
    labels[30:50, 40:80] = 3
    assert posting("mask/0/2/1", labels) == {}
    assert [info["id"] for info in page.hear("change")["objects"]] == [1, 3]
    assert np.array_equal(page.mask(2, 3), labels == 3)
    assert "as large as" in posting("mask/0/2/1", labels[:, :50])["error"]
    assert "past the end" in posting("mask/0/12/1", labels == 1)["error"]
    for object_id in (0, 65536):  # with which the project could not be opened again
        refused = posting(f"mask/0/2/{object_id}", labels == 1)["error"]
        assert f"{object_id}, not a whole number from 1 to 65535" in refused
    assert len(visit(fresh=True)[1]["objects"]) == 2


def test_an_export_has_every_format(visit: Visit, tmp_path: Path) -> None:
    page, _ = visit()
    page.say("export", formats=["masks"])
    assert "no masks" in page.hear("error")["text"]
    clicked(page)
    page.track()
    formats = ["masks", "objects", "overlay", "rle", "npz", "boxes", "coco", "yolo", "mot", "mots"]
    page.say("export", formats=[*formats, "cutouts"])
    done = page.hear("exported")
    assert done["folder"] == str(tmp_path / "project" / "export") and "error" not in done
    with zipfile.ZipFile(tmp_path / "project" / "export.zip") as archive:
        names = archive.namelist()
        assert "tempomask track" in archive.read("command.txt").decode()
    assert sum(name.startswith("masks/") for name in names) == 12
    for name in ("objects/1/00000.png", "overlay.mp4", "rle.json", "masks.npz", "boxes.csv",
                 "boxes/1.txt", "coco.json", "yolo/labels/00011.txt", "yolo/data.yaml", "mot.txt",
                 "mots.txt", "cutouts/1/00003.png"):  # fmt: skip
        assert name in names
    page.say("export", formats=["gif"])
    assert "unknown format" in page.hear("exported")["error"]


def test_lost_objects_are_listed(visit: Visit) -> None:
    page, _ = visit()
    clicked(page)
    page.track()
    page.say(
        "paint", frame=6, object=1, counts=encode_rle(disc(6) & (np.arange(90) < 30))["counts"]
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        items = page.hear("review")["items"]
        if any(item[1] == "jump" and item[2] in (6, 7) for item in items):
            return
    pytest.fail("the jump on frame 6 is not listed")


def test_everything_on_a_frame(visit: Visit, nano: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disc that has an object gets no second one; the others are objects, and can be undone."""
    page, _ = visit()
    clicked(page)
    corner = np.zeros(SIZE, bool)
    corner[50:58, 70:88] = True
    masks = np.stack([page.mask(0), corner, corner])
    monkeypatch.setattr(Model, "everything", lambda *_: SimpleNamespace(masks=masks))
    page.say("everything", frame=0)
    change = page.hear("change")
    assert set(page.masks[0]) == {1, 2} and change["objects"]
    np.testing.assert_array_equal(page.mask(0, 2), corner)
    page.say("undo")
    page.hear("change")
    assert set(page.masks[0]) == {1}
