"""`tempomask data`: check a data set of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tempomask.cli import console
from tempomask.errors import InputError

Layout = Literal[
    "youtube-vis",
    "davis",
    "youtube-vos",
    "mose",
    "sav",
    "coco",
    "sa1b",
    "lasot",
    "got10k",
    "otb",
    "trackingnet",
    "nfs",
    "uav123",
    "lasot-ext",
]


def check(
    data: Path,
    /,
    *,
    layout: Layout | None = None,
    images: Path | None = None,
    decode: bool = False,
) -> int:
    """Say what is wrong with a data set, one line for each problem; exit code 1 if there is any.

    Args:
        data: A file in YouTube-VIS format, or the folder of a set of any other layout. Of
            youtube-vos, mose and sav, training data.
        layout: How it is laid out. Default: the one that fits.
        images: Of YouTube-VIS, the folder that file names start from. Default: looked for beside
            the file.
        decode: Read every image to the end; slower.
    """
    from tempomask.data.folder_check import check_folder
    from tempomask.data.youtube_vis_check import check as check_file

    if layout == "youtube-vis" or (layout is None and not data.is_dir()):
        problems = check_file(data, images, decode=decode)
    elif images is not None:
        raise InputError("--images is for a file in YouTube-VIS format; leave it out")
    else:
        problems = check_folder(data, layout, decode=decode)
    count = 0
    for problem in problems:
        console.out.print(problem, soft_wrap=True)
        count += 1
    if count:
        console.note(f"{count} problem{'' if count == 1 else 's'}")
        return 1
    console.out.print("nothing wrong")
    return 0
