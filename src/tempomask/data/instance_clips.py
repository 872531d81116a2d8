"""Training clips of video instances: a few adjacent frames in YouTube-VIS format, cropped alike.

T frames in temporal order, H x W their size (multiples of 32; squares of side S where they are cut
to one size), N instances, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from tempomask.data.colour import ColourJitter, vary_colour
from tempomask.data.youtube_vis import VideoEntry, YouTubeVIS
from tempomask.errors import InputError
from tempomask.frames import Size

# Tries to make a clip that shows an instance.
ATTEMPTS = 10
# Share of clips that show the whole frame; the others are cropped to a square of this share, at
# least, of its shorter side.
WHOLE_FRAMES = 0.4
LEAST_CROP = 0.6
# Rows and columns are multiples of this, as the networks need them.
MULTIPLE = 32
# What lies beside a resized frame: ImageNet's mean colour, 0 once it is normalised.
MEAN_COLOUR = (124, 116, 104)


@dataclass(frozen=True)
class ShortSides:
    """Sizes of training clips as in the papers: whole frames, mirrored half of the time.

    Attributes:
        sides: Of which one is the shorter side of a clip, in pixels.
        longest: The longer side is at most this.
        crop: Least and greatest height and width of a part that is taken first; None takes all.

    Raises:
        InputError: A side is below 32 pixels.
    """

    sides: tuple[int, ...]
    longest: int = 1333
    crop: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.sides or min(self.sides) < MULTIPLE:
            raise InputError(f"short sides must be {MULTIPLE} pixels or more, got {self.sides}")

    def view(self, rng: np.random.Generator, size: Size) -> View:
        """Of frames (H, W)."""
        height, width = size
        x = y = 0
        if self.crop is not None:
            low, high = self.crop
            height, width = (
                int(rng.integers(min(side, low), min(side, high) + 1)) for side in size
            )
            y, x = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
        scale = int(rng.choice(self.sides)) / min(height, width)
        scale = min(scale, self.longest / max(height, width))
        return View((x, y, width, height), scale, bool(rng.random() < 0.5))


@dataclass(frozen=True, eq=False)
class InstanceClip:
    """A few frames of a video with its instances; a data set's item, a function of its index alone.

    Attributes:
        frames: uint8 (T, H, W, 3) RGB.
        masks: bool (T, N, H, W), may overlap; N may be 0.
        labels: int64 (N,) from 0 to C - 1.
        present: bool (T, N), the instance is to be found on the frame; its mask is else empty.

    Raises:
        InputError: The parts do not fit together.
    """

    frames: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    labels: NDArray[np.int64]
    present: NDArray[np.bool_]

    def __post_init__(self) -> None:
        times, height, width, *_ = self.frames.shape
        number = len(self.labels)
        for name, array, shape in (
            ("frames", self.frames, (times, height, width, 3)),
            ("masks", self.masks, (times, number, height, width)),
            ("labels", self.labels, (number,)),
            ("present", self.present, (times, number)),
        ):
            if array.shape != shape:
                raise InputError(f"a clip's {name} have shape {array.shape}, not {shape}")
        if (self.masks.any(axis=(2, 3)) & ~self.present).any():
            raise InputError("a clip has a mask of an instance that is not present")


class View(NamedTuple):
    """A part of an image (x, y, width, height), shown at `scale`."""

    part: tuple[int, int, int, int]
    scale: float
    mirrored: bool

    @property
    def size(self) -> Size:
        """(rows, columns) of what is shown."""
        _, _, width, height = self.part
        return max(1, round(height * self.scale)), max(1, round(width * self.scale))

    def show(
        self, image: NDArray[np.uint8], size: Size, fill: tuple[int, ...] = ()
    ) -> NDArray[np.uint8]:
        """An image (H, W) or (H, W, 3) at the top left of one of a size, 0 or `fill` beside it."""
        x, y, width, height = self.part
        rows, columns = (min(most, own) for most, own in zip(size, self.size, strict=True))
        part = Image.fromarray(np.ascontiguousarray(image[y : y + height, x : x + width]))
        resized = np.asarray(part.resize((columns, rows), Image.Resampling.BILINEAR))
        shown = np.zeros((*size, *image.shape[2:]), dtype=np.uint8)
        if fill:
            shown[:] = fill
        shown[:rows, :columns] = resized[:, ::-1] if self.mirrored else resized
        return shown


class VideoInstanceClips(Dataset[InstanceClip]):
    """Clips of T frames from annotated videos; clip i depends on the seed and i alone.

    Attributes:
        classes: Names that labels point to.
    """

    def __init__(
        self,
        dataset: YouTubeVIS,
        *,
        image_size: int = 480,
        num_frames: int = 2,
        seed: int = 1,
        augment: bool = True,
        short_sides: ShortSides | None = None,
    ) -> None:
        """Choose the videos that are long enough.

        Args:
            dataset: With annotations; groups (crowds) are left out.
            image_size: Side S of the square frames; what an image does not fill stays black, below
                or right of it, as at inference.
            num_frames: Of a clip.
            seed: Of all random choices.
            augment: Random crops, mirroring and colours; else the whole frame as it is.
            short_sides: Augment so instead, as the papers do; clips then differ in size.

        Raises:
            InputError: There are no annotations, or no video has num_frames frames.
        """
        if not dataset.annotated:
            raise InputError(f"{dataset.path} has no annotations; training needs the train file")
        self.dataset, self.side, self.num_frames = dataset, image_size, num_frames
        self.seed, self.augment, self.classes = seed, augment, dataset.classes
        self.short_sides = short_sides if augment else None
        self.videos = [
            video
            for video in dataset.videos
            if len(video) >= num_frames and dataset.annotations(video.id)
        ]
        if not self.videos:
            raise InputError(
                f"no video of {dataset.path} has annotations and {num_frames} frames or more"
            )

    def __len__(self) -> int:
        """One clip a video; larger indices give further clips."""
        return len(self.videos)

    def __getitem__(self, index: int) -> InstanceClip:
        """The first of some tries that shows an instance, else the last of them."""
        rng = np.random.default_rng((self.seed, index))
        # Every video once before any comes again, each time in another order.
        round_, place = divmod(index, len(self.videos))
        order = np.random.default_rng((self.seed, round_, len(self.videos)))
        video = self.videos[order.permutation(len(self.videos))[place]]
        for _ in range(ATTEMPTS - 1):
            clip = self._clip(rng, video)
            if clip.present.any():
                return clip
        return self._clip(rng, video)

    def _clip(self, rng: np.random.Generator, video: VideoEntry) -> InstanceClip:
        """Adjacent frames, and those instances that some of them show."""
        start = int(rng.integers(len(video) - self.num_frames + 1))
        times = range(start, start + self.num_frames)
        shape, fill = (self.side, self.side), ()
        view = whole_view(video.size, self.side)
        if self.short_sides is not None:
            view, fill = self.short_sides.view(rng, video.size), MEAN_COLOUR
            rows, columns = view.size
            shape = rows + -rows % MULTIPLE, columns + -columns % MULTIPLE
        elif self.augment:
            view = random_view(rng, video.size, self.side)
        frames = np.stack([view.show(self.dataset.frame(video, t), shape, fill) for t in times])
        if self.augment and self.short_sides is None:
            frames = vary_colour(rng, frames, ColourJitter(drift=0.005, flicker=0.005))
        wanted = [a for a in self.dataset.annotations(video.id) if not a.is_crowd]
        masks = np.zeros((len(times), len(wanted), *shape), dtype=bool)
        for number, annotation in enumerate(wanted):
            for place, t in enumerate(times):
                if annotation.seen[t]:
                    # Pixels that it covers by half or more.
                    grey = annotation.mask(t).astype(np.uint8) * np.uint8(255)
                    masks[place, number] = view.show(grey, shape) > 127
        labels = np.array([self.dataset.labels[a.category_id] for a in wanted], dtype=np.int64)
        present = np.asarray(masks.any(axis=(2, 3)))
        kept = present.any(axis=0)
        return InstanceClip(frames, masks[:, kept], labels[kept], present[:, kept])


def whole_view(size: Size, side: int) -> View:
    """All of an image (H, W), its longer side as long as the square's."""
    return View((0, 0, size[1], size[0]), side / max(size), mirrored=False)


def random_view(rng: np.random.Generator, size: Size, side: int) -> View:
    """The whole image, or a square part of it, maybe mirrored."""
    height, width = size
    mirrored = bool(rng.random() < 0.5)
    if rng.random() < WHOLE_FRAMES:
        return whole_view(size, side)._replace(mirrored=mirrored)
    crop = max(1, int(min(size) * rng.uniform(LEAST_CROP, 1.0)))
    x, y = int(rng.integers(width - crop + 1)), int(rng.integers(height - crop + 1))
    return View((x, y, crop, crop), side / crop, mirrored)
