"""`tempomask data`: make the synthetic set of video instances, and check sets of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tempomask.cli import console
from tempomask.cli.options import at_least


def synthetic(
    out: Path,
    /,
    *,
    stills: Path,
    train: Annotated[int, at_least(0)] = 1200,
    validation: Annotated[int, at_least(0)] = 40,
    seed: int = 1,
) -> None:
    """Compose videos of people, horses, nuclei and shapes, in YouTube-VIS format.

    Training and validation videos share no image. Needs the extra `train`.

    Args:
        out: Folder for the set.
        stills: Folder that holds stills-256/.
        train: Videos to train with.
        validation: Videos to validate with.
        seed: All of the set follows from it.
    """
    with console.waiting("starting"):
        from tempomask.data.video_instance_set import VideoSetConfig, write_video_set

    config = VideoSetConfig(train=train, validation=validation, seed=seed)
    with console.bars() as bar:
        task = bar.add_task("videos", total=train + validation)
        paths = write_video_set(
            stills, out, config, progress=lambda done, _total: bar.update(task, completed=done)
        )
    for path in paths:
        console.out.print(str(path), soft_wrap=True)


def check(annotations: Path, /, *, images: Path | None = None, decode: bool = False) -> int:
    """Say what is wrong with a data set, one line for each problem; exit code 1 if there is any.

    Args:
        annotations: A file in YouTube-VIS format.
        images: Folder that file names start from. Default: looked for beside the annotations.
        decode: Read every image to the end; slower.
    """
    with console.waiting("reading"):
        from tempomask.data.youtube_vis_check import check as problems

        found = problems(annotations, images, decode=decode, progress=None)
        first = next(found, None)
    count = 0
    while first is not None:
        console.out.print(first, soft_wrap=True)
        count, first = count + 1, next(found, None)
    if count:
        console.note(f"{count} problem{'' if count == 1 else 's'}")
        return 1
    console.out.print("nothing wrong")
    return 0
