"""SAM 2's image predictor and automatic mask generator: the same names, arguments and answers.

Not there: `build_sam2` and `from_pretrained` (use `load`), own `point_grids`, and the predictor's
`max_hole_area` and `max_sprinkle_area`, which need a CUDA extension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from tempomask.errors import InputError, check_choice
from tempomask.images.options import EverythingOptions
from tempomask.images.session import ImageSession
from tempomask.model import Model
from tempomask.models.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT
from tempomask.models.segmenter import Segmenter
from tempomask.rle import RLE, decode_rle, run_lengths
from tempomask.tracking.frame_step import FED_BACK_LOGIT

OutputMode = Literal["binary_mask", "uncompressed_rle", "coco_rle"]
# Masks, predicted IoU and low-resolution logits.
Answer = tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]


def as_model(model: Model | Segmenter) -> Model:
    """What `load` returns, or a network alone as one; InputError for anything else."""
    if isinstance(model, Segmenter):
        return Model(model, model.dtype)
    if not isinstance(model, Model):
        raise InputError(f"model must be what load returns, got {type(model).__name__}")
    return model


class ImagePredictor:
    """`SAM2ImagePredictor`'s methods.

    Args:
        model: What `load` returns, or a network alone.
        mask_threshold: Logit above which a pixel is in the mask.

    Example:
        >>> predictor = ImagePredictor(load("nano"))  # doctest: +SKIP
        >>> predictor.set_image(image)  # doctest: +SKIP
        >>> points, labels = np.array([[410, 260]]), np.array([1])  # doctest: +SKIP
        >>> masks, scores, logits = predictor.predict(points, labels)  # doctest: +SKIP
    """

    def __init__(self, model: Model | Segmenter, mask_threshold: float = 0.0) -> None:
        self.model, self.mask_threshold = as_model(model), mask_threshold
        self._sessions: list[ImageSession] = []

    @property
    def device(self) -> torch.device:
        return self.model.device

    def set_image(self, image: Any) -> None:
        """Encode an image: an array (H, W, 3), uint8 RGB, or one of PIL."""
        self.set_image_batch([image])

    def set_image_batch(self, image_list: Sequence[Any]) -> None:
        """Encode several images at once, for `predict_batch`."""
        self._sessions = self.model.image_sessions([np.asarray(image) for image in image_list])

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> Answer:
        """Masks of an object of the image, or of B objects.

        Args:
            point_coords: (P, 2) or (B, P, 2), x and y in pixels.
            point_labels: (P,) or (B, P), 1 on the object and 0 off it.
            box: (4,) or (B, 4), x0, y0, x1, y1 in pixels.
            mask_input: (1, h, w) or (B, 1, h, w), logits as they are returned.
            multimask_output: Three masks, not one.
            return_logits: Logits in place of masks.
            normalize_coords: Coordinates are in pixels; False: from 0 to 1.

        Returns:
            Masks (C, H, W) as 0.0 and 1.0, predicted IoU (C,), and logits (C, h, w) to be fed back;
            with a leading B for several objects.

        Raises:
            InputError: Without an image, and for prompts that do not go together.
        """
        session = self._session(-1)
        points, labels = self._points(session, point_coords, point_labels, box, normalize_coords)
        previous = None
        if mask_input is not None:
            previous = torch.as_tensor(np.asarray(mask_input), dtype=torch.float32)
            previous = previous.reshape(-1, 1, *previous.shape[-2:]).to(self.device)
            if points is None or labels is None:
                # The official predictor then gives no token at all.
                points = torch.zeros(len(previous), 0, 2, device=self.device)
                labels = points[..., 0].long()
        decoded = session.decode(points, labels, previous, multimask_output)
        low = decoded.all_logits.float()
        masks = F.interpolate(low, session.size, mode="bilinear", align_corners=False)
        if not return_logits:
            masks = (masks > self.mask_threshold).float()
        low = low.clamp(-FED_BACK_LOGIT, FED_BACK_LOGIT)
        parts = (masks, decoded.all_iou.float(), low)
        one = len(masks) == 1
        found = [(part[0] if one else part).cpu().numpy() for part in parts]
        return found[0], found[1], found[2]

    def predict_batch(
        self,
        point_coords_batch: Sequence[ArrayLike] | None = None,
        point_labels_batch: Sequence[ArrayLike] | None = None,
        box_batch: Sequence[ArrayLike] | None = None,
        mask_input_batch: Sequence[ArrayLike] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> tuple[list[NDArray[Any]], list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        """`predict` for each image of `set_image_batch`: three lists."""
        batches = (point_coords_batch, point_labels_batch, box_batch, mask_input_batch)
        answers, sessions = [], self._sessions
        self._session(-1)
        try:
            for index, session in enumerate(sessions):
                self._sessions = [session]
                coords, labels, box, mask = (b if b is None else b[index] for b in batches)
                rest = (multimask_output, return_logits, normalize_coords)
                answers.append(self.predict(coords, labels, box, mask, *rest))
        finally:
            self._sessions = sessions
        masks, scores, logits = map(list, zip(*answers, strict=True))
        return masks, scores, logits

    def get_image_embedding(self) -> Tensor:
        """Features (1, C, h, w) of the image."""
        return self._session(-1).features

    def reset_predictor(self) -> None:
        """Forget the images."""
        self._sessions = []

    def _session(self, index: int) -> ImageSession:
        if not self._sessions:
            raise InputError("there is no image; call set_image first")
        return self._sessions[index]

    def _points(
        self,
        session: ImageSession,
        coords: ArrayLike | None,
        labels: ArrayLike | None,
        box: ArrayLike | None,
        in_pixels: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Box corners, then points (B, P, 2) in pixels of the network's input, and labels."""
        points, marks = [], []
        if box is not None:
            corners = np.asarray(box, dtype=np.float32).reshape(-1, 2, 2)
            points.append(corners)
            marks.append(np.tile([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], (len(corners), 1)))
        if coords is not None:
            if labels is None:
                raise InputError("point_coords need point_labels, 1 on the object and 0 off it")
            given = np.asarray(coords, dtype=np.float32)
            points.append(given.reshape(-1, *given.shape[-2:]))
            marks.append(np.asarray(labels).reshape(points[-1].shape[:2]))
        if not points:
            return None, None
        if len({len(part) for part in points}) > 1:
            raise InputError(
                f"{len(points[0])} boxes and points of {len(points[1])} objects; give as many"
            )
        height, width = session.size
        scale = np.array([width, height] if in_pixels else [1, 1], np.float32)
        scaled = np.concatenate(points, axis=1) / scale * np.float32(self.model.image_size)
        kinds = np.concatenate(marks, axis=1).astype(np.int64)
        return (
            torch.from_numpy(scaled.astype(np.float32)).to(self.device),
            torch.from_numpy(kinds).to(self.device),
        )


class AutomaticMaskGenerator:
    """`SAM2AutomaticMaskGenerator`: `generate(image)` gives a list of dictionaries.

    Args:
        model: What `load` returns, or a network alone.
        output_mode: Form of `segmentation`: an array, or run lengths plain or compressed.
        options: Those of `EverythingOptions`, which are the official ones.

    Raises:
        InputError: For an unknown mode, and for numbers out of range.
    """

    def __init__(
        self,
        model: Model | Segmenter,
        output_mode: OutputMode = "binary_mask",
        **options: Any,
    ) -> None:
        check_choice("output_mode", output_mode, OutputMode)
        self.model, self.output_mode = as_model(model), output_mode
        self.options = EverythingOptions(**options)

    def generate(self, image: Any) -> list[dict[str, Any]]:
        """Everything in an image (H, W, 3), uint8 RGB.

        Returns:
            A dictionary for each mask: segmentation, area, bbox (x, y, w, h up to the last pixel),
            predicted_iou, point_coords, stability_score, crop_box.
        """
        found = self.model.everything(np.asarray(image), self.options)
        return [
            {
                "segmentation": self._segmentation(rle),
                "area": int(found.areas[row]),
                "bbox": _xywh(found.boxes[row], int(found.areas[row] > 0)),
                "predicted_iou": float(found.predicted_iou[row]),
                "point_coords": [found.points[row].tolist()],
                "stability_score": float(found.stability[row]),
                "crop_box": _xywh(found.crops[row]),
            }
            for row, rle in enumerate(found.encodings)
        ]

    def _segmentation(self, rle: RLE) -> NDArray[np.bool_] | dict[str, Any]:
        if self.output_mode == "binary_mask":
            return decode_rle(rle)
        if self.output_mode == "coco_rle":
            return dict(rle)
        return {"size": rle["size"], "counts": run_lengths(rle).tolist()}


def _xywh(box: NDArray[Any], past: int = 0) -> list[float]:
    """x, y, w, h of a box whose last edges lie so many pixels past the last ones."""
    x0, y0, x1, y1 = box.tolist()
    return [x0, y0, x1 - past - x0, y1 - past - y0]
