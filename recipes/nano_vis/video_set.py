"""The synthetic set of `scenes` on disk, in YouTube-VIS format. Needs the extra `train`.

    python -m recipes.nano_vis.video_set OUT --stills DATA

    OUT/train.json        OUT/train/JPEGImages/0001/00000.jpg
    OUT/validation.json   OUT/validation/JPEGImages/0001/00000.jpg

Everything follows from the stills and the seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recipes.nano_vis.scenes import (
    CLASSES,
    SPLITS,
    InstanceImages,
    SceneConfig,
    Split,
    compose_scene,
    seen_ids,
)
from tempomask.data.motion import Stage
from tempomask.data.synthetic import LabelledVideo
from tempomask.errors import InputError
from tempomask.files import make_folder, replacing, replacing_folder, write_errors
from tempomask.frames import Size
from tempomask.results import mask_boxes
from tempomask.rle import encode_rle

# Called with the number of videos made, and the number of all.
Progress = Callable[[int, int], None]
JPEG_QUALITY = 85


@dataclass(frozen=True)
class VideoSetConfig:
    """How large the set is.

    Attributes:
        train: Number of videos.
        validation: Number of videos.
        length: Least and greatest number of frames.
        size: (H, W) of the frames.
        seed: Of everything.

    Raises:
        InputError: The numbers make no video.
    """

    train: int = 1200
    validation: int = 40
    length: tuple[int, int] = (12, 16)
    size: Size = (192, 256)
    seed: int = 1

    def __post_init__(self) -> None:
        if min(self.train, self.validation) < 0 or self.train + self.validation == 0:
            raise InputError(f"no videos to make: {self.train} train, {self.validation} validation")
        if not 1 <= self.length[0] <= self.length[1]:
            raise InputError(
                f"videos of {self.length[0]} to {self.length[1]} frames cannot be made"
            )
        if min(self.size) < 32:
            raise InputError(f"videos of {self.size[1]} x {self.size[0]} pixels; 32 is the least")


def write_video_set(
    root: str | Path,
    out: str | Path,
    config: VideoSetConfig | None = None,
    scene: SceneConfig | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Make the set.

    Args:
        root: Of the stills, see `InstanceImages`.
        out: Folder of the set.
        config: How large it is.
        scene: What its videos show.
        progress: Told about every video.

    Returns:
        Its annotation files.

    Raises:
        InputError: Stills are missing, or `out` holds such a set already or is not writable.
    """
    config, scene = config or VideoSetConfig(), scene or SceneConfig()
    sizes = {"train": config.train, "validation": config.validation}
    wanted: list[Split] = [split for split in SPLITS if sizes[split]]
    libraries = {split: InstanceImages(root, split) for split in wanted}
    folder = make_folder(out)
    for split in wanted:
        for there in (folder / split, folder / f"{split}.json"):
            if there.exists():
                raise InputError(f"{there} is there already; choose another folder, or remove it")
    done, total = 0, sum(sizes.values())
    for split in wanted:
        for number in _write_split(folder, split, libraries[split], sizes[split], config, scene):
            if progress is not None:
                progress(done + number, total)
        done += sizes[split]
    return [folder / f"{split}.json" for split in wanted]


def _write_split(
    folder: Path,
    split: Split,
    images: InstanceImages,
    count: int,
    config: VideoSetConfig,
    scene: SceneConfig,
) -> Iterator[int]:
    """Write one split whole or not at all; yields the number of videos done."""
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    height, width = config.size
    with replacing_folder(folder / split) as part:
        for number in range(1, count + 1):
            rng = np.random.default_rng((config.seed, SPLITS.index(split), number))
            length = int(rng.integers(config.length[0], config.length[1] + 1))
            video = compose_scene(rng, images, length, Stage.plain(width, height), scene)
            names = [f"{number:04d}/{index:05d}.jpg" for index in range(length)]
            with write_errors(folder):
                _write_frames(part / "JPEGImages", names, video.frames)
            entry = {"id": number, "width": width, "height": height, "length": length}
            videos.append({**entry, "file_names": names})
            annotations += _annotations(video, entry, len(annotations) + 1)
            yield number
        content = {
            "info": {"description": f"tempomask synthetic instances, {split}", "seed": config.seed},
            "videos": videos,
            "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)],
            "annotations": annotations,
        }
        path = folder / f"{split}.json"
        with write_errors(path), replacing(path) as unfinished:
            unfinished.write_text(json.dumps(content, separators=(",", ":")) + "\n", "utf-8")


def _write_frames(folder: Path, names: list[str], frames: NDArray[np.uint8]) -> None:
    (folder / names[0]).parent.mkdir(parents=True)
    for name, frame in zip(names, frames, strict=True):
        Image.fromarray(frame).save(folder / name, quality=JPEG_QUALITY)


def _annotations(
    video: LabelledVideo, entry: dict[str, Any], first_id: int
) -> list[dict[str, Any]]:
    """One annotation for every instance of a video that is seen on some frame."""
    seen = seen_ids(video.ids)
    made = []
    for number in np.flatnonzero(seen.any(axis=0)).tolist():
        masks = np.where(seen[:, number, None, None], video.ids == number, False)
        boxes = [[x, y, x1 - x, y1 - y] for x, y, x1, y1 in mask_boxes(masks).astype(int).tolist()]
        shown = list(zip(masks, boxes, seen[:, number], strict=True))
        made.append(
            {
                **entry,
                "id": first_id + len(made),
                "video_id": entry["id"],
                "category_id": CLASSES.index(video.categories[number - 1]) + 1,
                "iscrowd": 0,
                "segmentations": [encode_rle(mask) if there else None for mask, _, there in shown],
                "areas": [int(mask.sum()) if there else None for mask, _, there in shown],
                "bboxes": [box if there else None for _, box, there in shown],
            }
        )
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the set")
    parser.add_argument("--stills", type=Path, required=True, help="folder of stills-256/")
    parser.add_argument("--train", type=int, default=VideoSetConfig.train)
    parser.add_argument("--validation", type=int, default=VideoSetConfig.validation)
    parser.add_argument("--seed", type=int, default=VideoSetConfig.seed)
    given = parser.parse_args()
    chosen = VideoSetConfig(given.train, given.validation, seed=given.seed)
    for path in write_video_set(given.stills, given.out, chosen):
        print(path)
