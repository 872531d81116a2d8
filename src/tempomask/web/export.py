"""Files made of a project: every format of `tempomask track`, by the same writer."""

from __future__ import annotations

import shlex
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tempomask.errors import InputError
from tempomask.files import replacing, write_errors
from tempomask.io.journal import VideoInfo
from tempomask.io.records import TRACK, FrameRecord
from tempomask.io.writer import ResultWriter, check_formats
from tempomask.web.pixels import Pixels
from tempomask.web.project import PROMPTS, Project

EXPORT, ARCHIVE, COMMAND = "export", "export.zip", "command.txt"


@dataclass(frozen=True)
class Snapshot:
    """What is to be exported, as it was when asked for."""

    info: VideoInfo
    records: Sequence[FrameRecord]
    folder: Path
    command: str


def snapshot(project: Project, command: str) -> Snapshot:
    """The masks of a project; InputError if there are none."""
    records = [project.record(frame) for frame in project.state.frames()]
    if not records:
        raise InputError("there are no masks to export yet; click an object first")
    return Snapshot(project.info(), records, project.folder, command)


def export(shot: Snapshot, formats: Sequence[str], pixels: Pixels) -> Path:
    """Write formats into the project's folder `export`, and all of them into one archive.

    Args:
        shot: What to write.
        formats: As `--save` names them.
        pixels: The frames, for overlays and cut-outs.

    Returns:
        The archive.

    Raises:
        InputError: For unknown formats, ids that do not fit one, and what cannot be written.
    """
    if not formats:
        raise InputError("choose at least one format")
    chosen = check_formats(formats, TRACK)
    folder = shot.folder / EXPORT
    with ResultWriter(folder, shot.info, chosen, video=pixels.video) as writer:
        for record in shot.records:
            writer.add(pixels.frame(record.index) if writer.draws else None, record)
    files = [path for path in writer.finish().values() if path.name != writer.journal.path.name]
    archive = shot.folder / ARCHIVE
    with write_errors(archive), replacing(archive) as part:
        _write_archive(part, folder, files, shot.command)
    return archive


def command_line(project: Project, options: Sequence[str]) -> str:
    """What repeats a project without the page, from its prompts, in one pass.

    Args:
        project: Of the prompts.
        options: That name the model, as on the command line.
    """
    settings = project.settings
    words = ["tempomask", "track", _from_here(Path(project.video.source)), *options]
    words += ["--prompts", _from_here(project.folder / PROMPTS)]
    words += ["--direction", "both", "--preset", "interactive", "--lookahead"]
    if settings.budget is not None:
        words += ["--budget", f"{settings.budget:g}"]
    if settings.fps is not None:
        words += ["--fps", f"{settings.fps:g}"]
    return shlex.join(words)


def _from_here(path: Path) -> str:
    """A path as one would type it in the folder in which annotate was started."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _write_archive(part: Path, folder: Path, files: Sequence[Path], command: str) -> None:
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in files:
            inside = sorted(each.rglob("*")) if each.is_dir() else [each]
            beside = sorted(each.with_suffix("").glob("*.txt")) if each.is_file() else []
            for path in [*inside, *beside]:
                if path.is_file():
                    archive.write(path, path.relative_to(folder))
        archive.writestr(COMMAND, command + "\n")
