"""A small video, a project of it, and a server with nano behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tempomask.io.video import open_video
from tempomask.model import Model, load
from tempomask.web.project import Project, VideoFacts
from tempomask.web.workspace import Entry, open_source

SIZE = (60, 90)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A folder of 12 frames with a bright disc that moves to the right."""
    folder = tmp_path / "frames"
    folder.mkdir()
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    for index in range(12):
        disc = (rows - 30) ** 2 + (columns - 25 - 2 * index) ** 2 < 12**2
        image = np.where(disc[..., None], (230, 180, 40), (30, 60, 90)).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{index:05d}.png")
    return folder


@pytest.fixture
def facts(frames: Path) -> VideoFacts:
    with open_video(frames) as video:
        assert video.num_frames == 12
    _, facts = open_source(Entry(frames, frames))
    return facts


@pytest.fixture
def open_project(tmp_path: Path, facts: VideoFacts) -> Iterator[Callable[[], Project]]:
    """Opens the project again and again; closes the one before."""
    opened: list[Project] = []

    def again() -> Project:
        for project in opened:
            project.close()
        opened.append(Project.open(tmp_path / "project", facts))
        return opened[-1]

    yield again
    for project in opened:
        project.close()


@pytest.fixture(scope="session")
def nano() -> Model:
    return load("nano", image_size=128, device="cpu", dtype="float32")
