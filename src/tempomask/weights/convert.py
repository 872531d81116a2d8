"""Our weights in the layouts of others: the way back from `load_segmenter`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tempomask.errors import InputError
from tempomask.weights.efficienttam import EFFICIENTTAM
from tempomask.weights.layout import Layout, State
from tempomask.weights.sam2 import SAM2
from tempomask.weights.transformers_sam2 import TRANSFORMERS_SAM2


def to_official(state: Mapping[str, Tensor]) -> State:
    """The state of a segmenter as the official SAM 2 or EfficientTAM code names it.

    Save it as `torch.save({"model": to_official(segmenter.state_dict())}, path)`. Tensors that no
    network reads are zeros. InputError for networks that have no official twin.
    """
    return _converted(state, EFFICIENTTAM if "neck.project.weight" in state else SAM2)


def to_transformers(state: Mapping[str, Tensor]) -> State:
    """The state of a SAM 2 segmenter as transformers' Sam2VideoModel names it."""
    return _converted(state, TRANSFORMERS_SAM2)


def _converted(state: Mapping[str, Tensor], layout: Layout) -> State:
    try:
        return layout.to_theirs(state)
    except KeyError as error:
        raise InputError(f"cannot convert this model: {error.args[0]}") from None
