"""Who is let in: the token, Host, Origin, uploads, and what a bad message does."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("starlette")
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from tempomask import InputError
from tempomask.model import Model
from tempomask.web.hub import Hub
from tempomask.web.models import Models
from tempomask.web.project import Project
from tempomask.web.security import check_host, new_token
from tempomask.web.server import build_app
from tempomask.web.workspace import Workspace, open_source, safe_name

HOST, TOKEN = "127.0.0.1:8000", "secret"
Headers = dict[str, str]
# What a page of ours sends; the test client calls itself otherwise on sockets.
OURS = {"host": HOST, "origin": f"http://{HOST}"}


@pytest.fixture
def client(frames: Path, tmp_path: Path, nano: Model) -> Iterator[TestClient]:
    workspace = Workspace([str(frames)], tmp_path / "project")
    models = Models(lambda _: nano, None, "nano")
    hubs: list[Hub] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if not hubs:
            hubs.append(Hub(workspace, models, [], 1000))
            built.append(build_app(hubs[0], TOKEN, [HOST]))
        await built[0](scope, receive, send)

    built: list[Any] = []
    with TestClient(app, base_url=f"http://{HOST}") as client:
        yield client


def test_the_page_needs_the_token(client: TestClient) -> None:
    assert client.get(f"/{TOKEN}/").status_code == 200
    for path in ("/", "/wrong/", f"/{TOKEN}", "/index.html", f"/{TOKEN}x/", "//", f"/x/{TOKEN}/"):
        assert client.get(path).status_code == 404, path
    assert "tempomask" not in client.get("/wrong/").text


def test_every_answer_has_a_strict_policy(client: TestClient) -> None:
    for path in (f"/{TOKEN}/", f"/{TOKEN}/main.js", f"/{TOKEN}/frame/0/0", "/wrong/"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    policy = client.get(f"/{TOKEN}/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:8001", "localhost:8000"])
def test_another_host_is_refused(client: TestClient, host: str) -> None:
    assert client.get(f"/{TOKEN}/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": f"http://{HOST}", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": f"http://{HOST}"}, 400),
    ],
)
def test_what_changes_things_needs_our_origin(
    client: TestClient, headers: Headers, status: int
) -> None:
    answer = client.post(f"/{TOKEN}/drop?name=a.txt", content=b"x", headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize("origin", [None, "https://evil.example", "http://127.0.0.1:8001"])
def test_a_socket_needs_our_origin(client: TestClient, origin: str | None) -> None:
    headers = {"host": HOST, **({} if origin is None else {"origin": origin})}
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(f"/{TOKEN}/socket", headers=headers),
    ):
        pass


def test_a_socket_needs_the_token(client: TestClient) -> None:
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/wrong/socket", headers=OURS),
    ):
        pass


@pytest.mark.parametrize(
    "path",
    ["../pyproject.toml", "%2e%2e/pyproject.toml", "..%2fserver.py", "frame/0/-1", "frame/x/0",
     "server.py", "../server.py", "style.css/", "frame/1/0", "frame/0/99", "export/0",
     "project.json", "/etc/passwd"],
)  # fmt: skip
def test_no_path_leads_out_of_the_page(client: TestClient, path: str) -> None:
    assert client.get(f"/{TOKEN}/{path}").status_code in (400, 404)


def test_a_bad_message_closes_its_socket_alone(client: TestClient) -> None:
    with (
        client.websocket_connect(f"/{TOKEN}/socket", headers=OURS) as bad,
        client.websocket_connect(f"/{TOKEN}/socket", headers=OURS) as good,
    ):
        bad.send_text('{"type": "exec"}')
        with pytest.raises(WebSocketDisconnect):
            while True:
                bad.receive_json()
        good.send_text('{"type": "open", "video": 0}')
        while good.receive_json()["type"] != "project":
            pass


def test_a_dropped_file_is_bounded_and_named_by_us(client: TestClient, tmp_path: Path) -> None:
    headers = {"origin": f"http://{HOST}"}
    big = client.post(f"/{TOKEN}/drop?name=a.png", content=b"x" * 1001, headers=headers)
    assert big.status_code == 400 and "larger" in big.json()["error"]
    folder = tmp_path / "project" / "dropped"
    assert not list(folder.iterdir())
    fake = client.post(f"/{TOKEN}/drop?name=a.png", content=b"no image", headers=headers)
    assert fake.status_code == 400 and not list(folder.iterdir())
    image = BytesIO()
    Image.new("RGB", (8, 8)).save(image, "PNG")
    data = image.getvalue()
    done = client.post(f"/{TOKEN}/drop?name=../../a.png", content=data, headers=headers)
    assert done.json() == {"video": 1}
    assert [path.name for path in folder.iterdir()] == ["a.png"]


def test_the_projects_of_a_workspace_come_back(frames: Path, tmp_path: Path) -> None:
    workspace = Workspace([str(frames)], tmp_path / "work")
    dropped = workspace.drop_path("a.png")
    Image.new("RGB", (8, 8)).save(dropped)
    entry = workspace.entries[workspace.add(dropped)]
    for each in workspace.entries:
        video, facts = open_source(each)
        project = Project.open(each.folder, facts)
        project.close()
        video.close()
    again = Workspace([], tmp_path / "work")
    assert again.entries == workspace.entries and again.entries[1] == entry
    with pytest.raises(InputError, match="no such file"):
        Workspace([str(tmp_path / "absent.mp4")])
    with pytest.raises(InputError, match="neither a video nor an image"):
        workspace.drop_path("a.html")


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("a.mp4", "a.mp4"), ("../../etc/passwd", "passwd"), ("..\\..\\a.mp4", "a.mp4"),
        ("", "file"), ("..", "file"), (".hidden.mp4", "hidden.mp4"), ("a\x00b.mp4", "a_b.mp4"),
        ("<script>.png", "_script_.png"), ("x" * 300 + ".mp4", "x" * 80 + ".mp4"),
    ],
)  # fmt: skip
def test_names_are_plain(given: str, safe: str) -> None:
    assert safe_name(given) == safe


def test_tokens_are_long_and_never_the_same() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    assert len(new_token()) >= 43


def test_only_this_machine_unless_a_person_agrees() -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        check_host(host, False)
    for host in ("0.0.0.0", "192.168.1.2", "::"):
        with pytest.raises(InputError, match="lets others"):
            check_host(host, False)
        check_host(host, True)
