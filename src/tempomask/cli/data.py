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
