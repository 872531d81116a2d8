"""Key table of the EfficientTAM checkpoints (`.pt`, state under `model`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tempomask.weights.layout import Conversion, Layout, rules
from tempomask.weights.sam2 import AFTER_ENCODER, CONVERSIONS, POINT_STACK, TRUNK, UNREAD

NECK = rules(
    """
    neck.                     image_encoder.neck.convs.0.
      {project,project_norm}  {conv_1x1,norm_0}
      {smooth,smooth_norm}    {conv_3x3,norm_1}
    """
)


def position_to_ours(theirs: Tensor) -> Tensor:
    """(1, 1 + n n, C), the class token first, to (C, n, n); the class token's row is never read."""
    side = math.isqrt(theirs.shape[1] - 1)
    return theirs[0, 1:].T.reshape(-1, side, side)


def position_to_theirs(ours: Tensor) -> Tensor:
    """(C, n, n) to (1, 1 + n n, C) with zeros for the class token."""
    rows = ours.flatten(1).T
    return torch.cat([torch.zeros_like(rows[:1]), rows])[None]


EFFICIENTTAM = Layout(
    title="EfficientTAM",
    marks=("image_encoder.trunk.pos_embed", "image_encoder.neck.convs.0.conv_1x1.weight"),
    rules=(*TRUNK, *NECK, *AFTER_ENCODER),
    stacks=(POINT_STACK,),
    conversions={
        **CONVERSIONS,
        "encoder.position": Conversion(position_to_ours, position_to_theirs),
    },
    unread=UNREAD,
)
