"""What automatic masks are asked for: SAM 2's generator and its defaults."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

from tempomask.errors import InputError, check_least


class Thresholds(NamedTuple):
    """What a mask must reach; names as in `EverythingOptions`."""

    pred_iou: float
    stability_score: float
    stability_offset: float


OFFICIAL = Thresholds(0.8, 0.95, 1.0)
# nano's masks are softer, and it thinks less of them.
NANO = Thresholds(0.6, 0.8, 0.25)


@dataclass(frozen=True)
class EverythingOptions:
    """Automatic masks by the names and with the defaults of SAM 2's generator.

    Args:
        points_per_side: Clicks along each side of the image.
        points_per_batch: Clicks that go through the decoder at once; they bound the memory.
        pred_iou_thresh: Masks of a predicted IoU above this are kept. Default: 0.8; of nano 0.6.
        stability_score_thresh: And those at least this stable: IoU of the mask at a logit
            stability_score_offset above and as far below the threshold. Default: 0.95; of nano 0.8.
        stability_score_offset: See there. Default: 1; of nano 0.25.
        mask_threshold: Logit above which a pixel is in the mask.
        box_nms_thresh: Of two masks whose boxes overlap by more, the worse one goes.
        crop_n_layers: Also look at crops of the image: 2 x 2 overlapping ones, then 4 x 4 ...
        crop_nms_thresh: Like box_nms_thresh, between crops; the mask of the smaller crop stays.
        crop_overlap_ratio: How far crops of the first layer overlap, in shares of the short side.
        crop_n_points_downscale_factor: Divides points_per_side from layer to layer.
        min_mask_region_area: Holes and islands of fewer pixels are removed.
        use_m2m: Each mask is fed back once.
        multimask_output: Three masks for each click, of which each stands alone.

    Raises:
        InputError: For numbers out of range.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float | None = None
    stability_score_thresh: float | None = None
    stability_score_offset: float | None = None
    mask_threshold: float = 0.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 0
    use_m2m: bool = False
    multimask_output: bool = True

    def __post_init__(self) -> None:
        check_least(
            self,
            points_per_side=1,
            points_per_batch=1,
            crop_n_layers=0,
            crop_n_points_downscale_factor=1,
            min_mask_region_area=0,
        )
        for field in fields(self):
            value = getattr(self, field.name)
            if (
                field.name.endswith(("_thresh", "_ratio"))
                and value is not None
                and not 0 <= value <= 1
            ):
                raise InputError(f"{field.name} must be from 0 to 1, got {value}")
        if self.points_of_layer(self.crop_n_layers) < 1:
            raise InputError(
                f"points_per_side {self.points_per_side} leaves no point for crops of layer"
                f" {self.crop_n_layers}; take more, or a smaller crop_n_points_downscale_factor"
            )

    def points_of_layer(self, layer: int) -> int:
        """Clicks along each side of a crop of a layer; layer 0 is the whole image."""
        return int(self.points_per_side / self.crop_n_points_downscale_factor**layer)

    def thresholds(self, model: str) -> Thresholds:
        """Those given, else those of a named model."""
        given = (self.pred_iou_thresh, self.stability_score_thresh, self.stability_score_offset)
        own = NANO if model == "nano" else OFFICIAL
        return Thresholds(*(o if g is None else g for g, o in zip(given, own, strict=True)))
