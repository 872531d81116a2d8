"""Places that fsspec writes to: files first, then the marker, and nothing half done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tempomask.batch.jobs import MARKER, Job
from tempomask.batch.places import Place
from tempomask.errors import InputError


@pytest.fixture(params=["memory", "file", "dir"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "here"))
    (tmp_path / "here").mkdir()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    urls = {
        "memory": "memory://bucket/night",
        "file": f"file://{tmp_path}/far",
        "dir": f"dir://night::file://{tmp_path}/far",
    }
    return Place.of(urls[request.param])


def files_at(place: Place) -> dict[str, bytes]:
    files, root = fsspec.url_to_fs(str(place.url))
    root = root.rstrip("/")
    return {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)}


def test_files_and_then_the_marker(place: Place) -> None:
    place.check()
    assert files_at(place) == {}
    job = Job("a/b", "line 1", ("a.mp4",), place.inside(Path("a/b")))
    assert job.marker() is None
    (job.out / "masks").mkdir(parents=True)
    (job.out / "masks" / "0.png").write_bytes(b"mask")
    (job.out / "frames.jsonl").write_bytes(b"{}")
    (job.out / ".frames.part").write_bytes(b"not whole")
    job.place.hand_over()
    assert set(files_at(place)) == {"a/b/masks/0.png", "a/b/frames.jsonl"} and not job.marker()
    job.mark({"frames": 1})
    found = job.marker()
    assert found and found["report"] == {"frames": 1}
    assert Job("a/b", "line 1", ("b.mp4",), job.place).marker() is None
    assert files_at(place)["a/b/masks/0.png"] == b"mask"
    job.place.tidy()
    assert not job.out.exists() and job.marker()
    # Done anew, nothing of before stays.
    job.place.remove()
    assert files_at(place) == {} and job.marker() is None
    job.place.remove()


def test_a_place_that_fails_midway_has_no_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place.of("memory://bucket/night").inside(Path("a"))
    place = Place(tmp_path, place.url, place.inner)
    place.folder.mkdir()
    for name in ("1", "2"):
        (place.folder / name).touch()
    put = MemoryFileSystem.put_file

    def failing(self: Any, local: str, far: str) -> None:
        if far.endswith("/2"):
            raise RuntimeError("the connection\nwas lost")
        put(self, local, far)

    monkeypatch.setattr(MemoryFileSystem, "put_file", failing)
    with pytest.raises(InputError, match="bucket/night/a: "):
        place.hand_over()
    assert place.read(MARKER) is None and len(list(place.folder.iterdir())) == 2


@pytest.mark.parametrize("url", ["nothing://bucket/x", "s3://bucket/x"])
def test_a_place_that_nobody_knows_is_one_line(url: str) -> None:
    """s3fs is not among the packages of the tests."""
    with pytest.raises(InputError) as caught:
        Place.of(url).check()
    assert url in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_is_a_place(tmp_path: Path) -> None:
    place = Place.of(str(tmp_path / "out")).inside(Path("a"))
    place.check()
    (place.folder / "file").touch()
    for step in (place.remove, place.hand_over, place.tidy):
        step()
    place.write(MARKER, [b"{", b"}"])
    assert sorted(p.name for p in place.folder.iterdir()) == ["file", MARKER]
