"""`tempomask data`: check a data set of one's own."""

from __future__ import annotations

from pathlib import Path

from tempomask.cli import console


def check(annotations: Path, /, *, images: Path | None = None, decode: bool = False) -> int:
    """Say what is wrong with a data set, one line for each problem; exit code 1 if there is any.

    Args:
        annotations: A file in YouTube-VIS format.
        images: Folder that file names start from. Default: looked for beside the annotations.
        decode: Read every image to the end; slower.
    """
    from tempomask.data.youtube_vis_check import check as problems

    count = 0
    for problem in problems(annotations, images, decode=decode):
        console.out.print(problem, soft_wrap=True)
        count += 1
    if count:
        console.note(f"{count} problem{'' if count == 1 else 's'}")
        return 1
    console.out.print("nothing wrong")
    return 0
