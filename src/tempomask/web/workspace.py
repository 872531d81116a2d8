"""The videos of a page and where their projects are; nothing here takes a path from the browser."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tempomask.errors import InputError
from tempomask.files import FolderLock, given_path, make_folder, read_json
from tempomask.io.images import IMAGE_SUFFIXES
from tempomask.io.journal import read_header
from tempomask.io.records import TRACK
from tempomask.io.result_folder import JOURNAL
from tempomask.io.sources import VIDEO_SUFFIXES, Video
from tempomask.io.video import open_video
from tempomask.web.project import PROJECT, VideoFacts

# Where dropped files are kept, in the workspace.
DROPPED = "dropped"
_SUFFIX = "-annotated"


@dataclass(frozen=True)
class Entry:
    """A video of the list. source: file or folder; folder: of its project."""

    source: Path
    folder: Path

    @property
    def name(self) -> str:
        """What the list calls it."""
        return self.source.name


class Workspace:
    """The list of videos.

    Args:
        sources: As given on the command line.
        project: The folder given there: of the project of one source, or of those of several.

    Raises:
        InputError: For sources that are not there, and a project folder without a known source.
    """

    def __init__(self, sources: Sequence[str], project: Path | None = None) -> None:
        paths = [_existing(source) for source in sources]
        # Dropped files and the projects of several sources go here.
        self.folder = (project or Path("annotations")).absolute()
        if project is not None and given_path(project).is_file():
            raise InputError(f"--project {project} is a file; name a folder")
        self.entries: list[Entry] = []
        if project is not None and len(paths) <= 1:
            known = _source_of(self.folder)
            path = paths[0] if paths else known
            if path is not None:
                self.entries.append(Entry(path, self.folder))
        else:
            for path in paths:
                base = self.folder if project is not None else Path.cwd()
                self.entries.append(Entry(path, self._project_folder(base, path)))
        if project is not None and self.folder.is_dir():
            for folder in sorted(self.folder.iterdir()):
                source = _source_of(folder) if folder.is_dir() else None
                if source is not None and all(each.folder != folder for each in self.entries):
                    self.entries.append(Entry(source, folder))

    def check_free(self) -> None:
        """InputError if the only project is open elsewhere; of several, the page tells which is."""
        if len(self.entries) == 1 and self.entries[0].folder.is_dir():
            FolderLock(self.entries[0].folder).release()

    def drop_path(self, name: str) -> Path:
        """Where a dropped file of this name is to be written.

        Raises:
            InputError: For a file that is neither a video nor an image.
        """
        plain = safe_name(name)
        if Path(plain).suffix.lower() not in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
            raise InputError(f"{plain} is neither a video nor an image; drop such a file")
        folder = make_folder(self.folder / DROPPED)
        stem, suffix = Path(plain).stem, Path(plain).suffix
        names = (f"{stem}{f'-{n}' if n > 1 else ''}{suffix}" for n in range(1, 10_000))
        return next(path for path in (folder / each for each in names) if not path.exists())

    def add(self, path: Path) -> int:
        """Take a dropped file into the list; its number there."""
        self.entries.append(Entry(path, self._project_folder(self.folder, path)))
        return len(self.entries) - 1

    def _project_folder(self, base: Path, source: Path) -> Path:
        """A folder for the project of a source that no other source has taken."""
        stem = source.stem if source.is_file() else source.name
        taken = {each.folder for each in self.entries}
        for n in range(1, 10_000):
            folder = base / f"{stem}{_SUFFIX}{f'-{n}' if n > 1 else ''}"
            known = _source_of(folder)
            if folder not in taken and known in (None, source):
                return folder
        raise InputError(f"there are too many projects of {source.name} in {base}")


def open_source(entry: Entry) -> tuple[Video, VideoFacts]:
    """The video of an entry, with its exact number of frames.

    Raises:
        InputError: If it cannot be read, or only once.
    """
    video = open_video(entry.source)
    try:
        if not video.seekable or video.live:
            raise InputError(f"{entry.name} is a live source; record it to a file first")
        count = video.num_frames
        if count is None:
            # Files whose packets do not tell: reading once does.
            count = video.num_frames = sum(1 for _ in video.frames())
        names = None if video.frame_names is None else tuple(video.frame_names)
        return video, VideoFacts(str(entry.source), video.size, count, video.fps, names)
    except BaseException:
        video.close()
        raise


def safe_name(name: str) -> str:
    """A name that somebody gave, as a plain name of a file."""
    text = unicodedata.normalize("NFKC", name).replace("\\", "/").rsplit("/", 1)[-1]
    text = re.sub(r"[^\w.\- ]+", "_", text).strip(" .")
    stem, suffix = Path(text).stem.strip(" .")[:80], Path(text).suffix[:10]
    return f"{stem or 'file'}{suffix}"


def _existing(source: str) -> Path:
    path = given_path(source)
    if not path.exists():
        raise InputError(
            f"no such file or folder: {source}; annotate takes video files, folders of images and"
            " images"
        )
    return path.resolve()


def _source_of(folder: Path) -> Path | None:
    """The source of the project or the command line's run in a folder; None without one."""
    if (folder / PROJECT).exists():
        facts = read_json(folder / PROJECT, "the project")
        source = facts.get("source") if isinstance(facts, dict) else None
        return Path(source) if isinstance(source, str) else None
    if (folder / JOURNAL).exists():
        source = read_header(folder / JOURNAL, TRACK).source
        return None if source is None else Path(source)
    return None
