"""An image session: an image is encoded once and answers many prompts (SAM 2's image predictor).

It is a video's first frame (arXiv 2408.00714, section 4: no memory), with two differences of the
official predictor: the image is resized bilinearly, and an object is shown whatever its object
score says.

B images, N objects, P points, M masks that compete, S the network's image side, h = w = S / 16.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tempomask.errors import InputError
from tempomask.frames import Frame, Size, checked_frame
from tempomask.io.images import read_image
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import (
    MASK_PROMPT_BIAS,
    MASK_PROMPT_SCALE,
    Decoded,
    Encoded,
    Segmenter,
)
from tempomask.ops.normalise import normalise
from tempomask.ops.transfer import to_device
from tempomask.prompts import Prompt, check_given
from tempomask.results import FrameArrays, FrameResult
from tempomask.tracking.base import computing
from tempomask.tracking.frame_step import FED_BACK_LOGIT
from tempomask.tracking.state import Clicks

Image = str | Path | Frame
# Objects that are decoded together.
PER_BATCH = 64


class ImageSession:
    """One encoded image; made by `Model.image_session`.

    Args:
        segmenter: The network; it keeps nothing, so that several sessions can share it.
        encoded: Of this image alone.
        size: (H, W) of the image.
        index: Of the image among those that were encoded together.
        dtype: Of the computation, by autocast.

    Attributes:
        features: (1, C, h, w), conditioned as those of a frame without memories.

    Example:
        >>> image = model.image_session("photo.jpg")  # doctest: +SKIP
        >>> first = image.segment(Prompt(points=[(410, 260)]))  # doctest: +SKIP
        >>> more = Prompt(points=[(410, 260), (380, 300)], labels=[1, 0])  # doctest: +SKIP
        >>> image.segment(more, previous=first).masks  # doctest: +SKIP
    """

    def __init__(
        self,
        segmenter: Segmenter,
        encoded: Encoded,
        size: Size,
        index: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.segmenter, self.dtype = segmenter, dtype
        self.size, self.index = size, index
        self._encoded = encoded
        with computing(segmenter.device, dtype):
            self.features = segmenter.attend(encoded.features, None)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.segmenter.device

    @property
    def blocks(self) -> NDArray[np.bool_]:
        """Bool (L,), which encoder blocks ran."""
        return self._encoded.blocks.reshape(-1).cpu().numpy()

    def segment(
        self,
        prompts: Prompt | Iterable[Prompt],
        *,
        previous: FrameResult | None = None,
        multimask: bool | None = None,
    ) -> FrameResult:
        """The mask of each prompted object.

        Args:
            prompts: Of any objects. Those of one object act together; a mask is a hint as coarse as
                the network's logits, beside clicks or alone.
            previous: An earlier result of this image, whose logits are fed back for the objects in
                it.
            multimask: Whether three masks compete; None for the network's own rule, which lets them
                for a single click.

        Returns:
            Of the same kind as a frame's, with a row for each object in the order given.

        Raises:
            InputError: For prompts that do not fit the image.
        """
        return self._results(prompts, previous, multimask)[0]

    def candidates(
        self, prompts: Prompt | Iterable[Prompt], *, previous: FrameResult | None = None
    ) -> list[FrameResult]:
        """All three masks of each object: a result for each rank of predicted IoU, best first.

        Arguments as in `segment`.
        """
        return self._results(prompts, previous, True)

    def decode(
        self,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        mask_prompt: Tensor | None = None,
        multimask: bool = True,
    ) -> Decoded:
        """Masks of N objects, all that compete among them; arguments as in `Segmenter.decode`.

        An unstable single mask gives way to the best of three, as in the official builder.
        """
        given = points if points is not None else mask_prompt
        count = 1 if given is None else len(given)
        with computing(self.device, self.dtype):
            return self.segmenter.decode(
                self.features.expand(count, -1, -1, -1),
                self._encoded.high_resolution,
                points,
                labels,
                mask_prompt,
                multimask=multimask,
                dynamic_multimask=True,
                presence_threshold=-float("inf"),
            )

    def _results(
        self,
        prompts: Prompt | Iterable[Prompt],
        previous: FrameResult | None,
        multimask: bool | None,
    ) -> list[FrameResult]:
        """Results by rank of predicted IoU; objects with fewer masks repeat their last."""
        said = self._said(prompts, previous)
        groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
        for object_id, (clicks, logits) in said.items():
            groups[0 if clicks is None else len(clicks.labels), logits is not None].append(
                object_id
            )
        rows: dict[int, _Ranked] = {}
        for (num_points, _), ids in groups.items():
            config = self.segmenter.config
            several = config.multimask_min_points <= num_points <= config.multimask_max_points
            for first in range(0, len(ids), PER_BATCH):
                batch = ids[first : first + PER_BATCH]
                decoded = self._decode(
                    [said[i] for i in batch], several if multimask is None else multimask
                )
                rows.update(zip(batch, _ranked(decoded), strict=True))
        ranks = max(len(row[1]) for row in rows.values())
        return [self._result(rows, [*said], rank) for rank in range(ranks)]

    def _said(
        self, prompts: Prompt | Iterable[Prompt], previous: FrameResult | None
    ) -> dict[int, tuple[Clicks | None, Tensor | None]]:
        """By object, its clicks and the logits (4h, 4w) fed back."""
        listed = [prompts] if isinstance(prompts, Prompt) else list(prompts)
        known = {} if previous is None else _rows(previous, self.size)
        if not listed:
            raise InputError("no prompt given; say where the object is with a point, box or mask")
        check_given(listed, known)
        side = self.segmenter.config.image_size
        said: dict[int, tuple[Clicks | None, Tensor | None]] = {}
        for prompt in listed:
            prompt.check_inside(self.size)
            clicks, logits = said.get(prompt.object_id, (None, known.get(prompt.object_id)))
            if prompt.mask is not None:
                logits = self._low_resolution(np.array(prompt.mask))
            else:
                clicks = Clicks.of(prompt, self.size, side).after(clicks)
            said[prompt.object_id] = clicks, logits
        return said

    def _low_resolution(self, mask: NDArray[np.bool_]) -> Tensor:
        """A mask (H, W) as the logits (4h, 4w) that stand for a given mask in SAM 2."""
        side = self.segmenter.config.image_size // 4
        logits = torch.from_numpy(mask).float() * MASK_PROMPT_SCALE + MASK_PROMPT_BIAS
        size = (side, side)
        return F.interpolate(logits[None, None], size, mode="bilinear", antialias=True)[0, 0]

    def _decode(
        self, said: Sequence[tuple[Clicks | None, Tensor | None]], multimask: bool
    ) -> Decoded:
        """Masks of objects that have the same number of points and all or none logits."""
        clicks = [c for c, _ in said if c is not None]
        logits = [previous for _, previous in said if previous is not None]
        points = labels = fed_back = None
        if clicks:
            points = to_device(np.stack([c.points for c in clicks]), self.device)
            labels = to_device(np.stack([c.labels for c in clicks]), self.device)
        if logits:
            fed_back = torch.stack(logits)[:, None].to(self.device)
            fed_back = fed_back.clamp(-FED_BACK_LOGIT, FED_BACK_LOGIT)
        return self.decode(points, labels, fed_back, multimask)

    def _result(self, rows: dict[int, _Ranked], ids: Sequence[int], rank: int) -> FrameResult:
        chosen = [(rows[i], min(rank, len(rows[i][1]) - 1)) for i in ids]
        arrays = FrameArrays(
            np.stack([logits[k] for (logits, _, _), k in chosen]),
            np.stack([score for (_, _, score), _ in chosen]),
            np.stack([iou[k] for (_, iou, _), k in chosen]),
        )
        return FrameResult(self.index, self.size, tuple(ids), arrays, self.blocks)


# Of one object, best first: logits (M, 4h, 4w), predicted IoU (M,), and the object score.
_Ranked = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def _ranked(decoded: Decoded) -> list[_Ranked]:
    iou, order = decoded.all_iou.float().sort(dim=1, descending=True, stable=True)
    logits = decoded.all_logits.float().take_along_dim(order[..., None, None], dim=1)
    parts = (logits, iou, decoded.object_score.float())
    return list(zip(*(part.cpu().numpy() for part in parts), strict=True))


def _rows(result: FrameResult, size: Size) -> dict[int, Tensor]:
    """Logits (4h, 4w) by object of an earlier result; InputError for another image's."""
    if result.size != size:
        raise InputError(
            f"previous is a result of {result.size[1]} x {result.size[0]} pixels, and the image has"
            f" {size[1]} x {size[0]}; give a result of this image"
        )
    logits = torch.from_numpy(np.asarray(result.low_res_logits, dtype=np.float32))
    return dict(zip(result.object_ids, logits, strict=True))


def image_sessions(
    segmenter: Segmenter,
    images: Sequence[Image],
    dtype: torch.dtype = torch.float32,
    policy: Policy | None = None,
) -> list[ImageSession]:
    """Encode images together, and give a session for each.

    Args:
        segmenter: The network.
        images: Paths, or arrays (H, W, 3), uint8 RGB, of any sizes.
        dtype: Of the computation, by autocast.
        policy: Which encoder blocks run; images then go through the encoder one by one.
    """
    if not images:
        raise InputError("no image given; give a path or an array (H, W, 3), uint8 RGB")
    frames = [opened_image(image) for image in images]
    together = len(frames) if policy is None else 1
    sessions = []
    for first in range(0, len(frames), together):
        part = frames[first : first + together]
        with computing(segmenter.device, dtype):
            batch = torch.cat([_network_input(frame, segmenter) for frame in part])
            fresh = None if policy is None else policy.fresh()
            if fresh is not None:
                fresh.begin_frame()
            encoded = segmenter.encode(batch, fresh)
        for row, frame in enumerate(part):
            fine = tuple(level[row : row + 1] for level in encoded.high_resolution)
            own = Encoded(encoded.features[row : row + 1], fine, encoded.blocks)
            size = (frame.shape[0], frame.shape[1])
            sessions.append(ImageSession(segmenter, own, size, len(sessions), dtype))
    return sessions


def opened_image(image: Any) -> Frame:
    """An image as an array (H, W, 3), uint8 RGB; InputError unless it is one or a path to one."""
    if isinstance(image, str | Path):
        return read_image(image)
    return checked_frame(image, "the image")


def _network_input(frame: Frame, segmenter: Segmenter) -> Tensor:
    """(1, 3, S, S), normalised: resized as floats with antialiasing, the aspect ignored."""
    size = (segmenter.config.image_size, segmenter.config.image_size)
    pixels = to_device(np.array(frame), segmenter.device).float().permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    return normalise(resized.permute(0, 2, 3, 1))
