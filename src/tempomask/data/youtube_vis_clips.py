"""Training clips from videos in YouTube-VIS format: a few near frames, cropped alike."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from tempomask.data.colour import ColourJitter, vary_colour
from tempomask.data.instance_clip import InstanceClip, clip_with_an_instance, instances_in_view
from tempomask.data.youtube_vis import VideoEntry, YouTubeVIS
from tempomask.errors import InputError
from tempomask.frames import Size

# Share of clips that show the whole frame; the others are cropped to a square of this share, at
# least, of its shorter side.
WHOLE_FRAMES = 0.4
LEAST_CROP = 0.6


class View(NamedTuple):
    """A part of an image (x, y, width, height) shown at the top left of a square at `scale`."""

    part: tuple[int, int, int, int]
    scale: float
    mirrored: bool


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
        window: int | None = None,
        seed: int = 1,
        augment: bool = True,
    ) -> None:
        """Choose the videos that are long enough.

        Args:
            dataset: With annotations; groups (crowds) are left out.
            image_size: Side S of the square frames; what an image does not fill stays black, below
                or right of it, as at inference.
            num_frames: Of a clip.
            window: The frames lie among so many consecutive ones; None for adjacent frames.
            seed: Of all random choices.
            augment: Random crops, mirroring and colours; else the whole frame as it is.

        Raises:
            InputError: There are no annotations, or no video has num_frames frames.
        """
        if not dataset.annotated:
            raise InputError(f"{dataset.path} has no annotations; training needs the train file")
        if window is not None and window < num_frames:
            raise InputError(f"a window of {window} frames does not hold clips of {num_frames}")
        self.dataset, self.side, self.num_frames = dataset, image_size, num_frames
        self.window = window or num_frames
        self.seed, self.augment = seed, augment
        self.videos = [
            video
            for video in dataset.videos
            if len(video) >= num_frames and dataset.annotations(video.id)
        ]
        if not self.videos:
            raise InputError(
                f"no video of {dataset.path} has annotations and {num_frames} frames or more"
            )
        self.classes = dataset.classes

    def __len__(self) -> int:
        """One clip a video; larger indices give further clips."""
        return len(self.videos)

    def __getitem__(self, index: int) -> InstanceClip:
        rng = np.random.default_rng((self.seed, index))
        # Every video once before any comes again, each time in another order.
        round_, place = divmod(index, len(self.videos))
        order = np.random.default_rng((self.seed, round_, len(self.videos)))
        video = self.videos[order.permutation(len(self.videos))[place]]
        return clip_with_an_instance(lambda: self._clip(rng, video))

    def _clip(self, rng: np.random.Generator, video: VideoEntry) -> InstanceClip:
        times = self._times(rng, len(video))
        view = (
            random_view(rng, video.size, self.side)
            if self.augment
            else whole_view(video.size, self.side)
        )
        frames = np.stack([show(self.dataset.frame(video, t), view, self.side) for t in times])
        if self.augment:
            frames = vary_colour(rng, frames, ColourJitter(drift=0.005, flicker=0.005))
        wanted = [a for a in self.dataset.annotations(video.id) if not a.is_crowd]
        masks = np.zeros((len(times), len(wanted), self.side, self.side), dtype=bool)
        for number, annotation in enumerate(wanted):
            for place, t in enumerate(times):
                if annotation.seen[t]:
                    masks[place, number] = show_mask(annotation.mask(t), view, self.side)
        labels = [self.dataset.labels[a.category_id] for a in wanted]
        return instances_in_view(frames, masks, labels)

    def _times(self, rng: np.random.Generator, length: int) -> list[int]:
        """T frame numbers in order, within one window."""
        window = min(self.window, length)
        start = int(rng.integers(length - window + 1))
        chosen = rng.choice(window, self.num_frames, replace=False)
        return sorted(start + int(offset) for offset in chosen)


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


def show(image: NDArray[np.uint8], view: View, side: int) -> NDArray[np.uint8]:
    """An image (H, W, 3) in a view, (S, S, 3); black where the view ends."""
    shown = np.zeros((side, side, 3), dtype=np.uint8)
    resized = _resized(image, view, side)
    shown[: resized.shape[0], : resized.shape[1]] = resized
    return shown


def show_mask(mask: NDArray[np.bool_], view: View, side: int) -> NDArray[np.bool_]:
    """A mask (H, W) in a view, bool (S, S): pixels that it covers by half or more."""
    shown = np.zeros((side, side), dtype=bool)
    grey = mask.astype(np.uint8) * np.uint8(255)
    resized = np.asarray(_resized(grey, view, side)) > 127
    shown[: resized.shape[0], : resized.shape[1]] = resized
    return shown


def _resized(array: NDArray[np.uint8], view: View, side: int) -> NDArray[np.uint8]:
    x, y, width, height = view.part
    part = array[y : y + height, x : x + width]
    columns, rows = (min(side, max(1, round(extent * view.scale))) for extent in (width, height))
    image = Image.fromarray(np.ascontiguousarray(part))
    resized = np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR))
    return resized[:, ::-1] if view.mirrored else resized
