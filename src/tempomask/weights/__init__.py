"""Weights: checkpoints of every known layout, strictly checked, and every model by name."""

from tempomask.weights.convert import to_official, to_transformers
from tempomask.weights.loading import load_segmenter
from tempomask.weights.own import save_segmenter
from tempomask.weights.zoo import MODELS, ModelInfo

__all__ = [
    "MODELS",
    "ModelInfo",
    "load_segmenter",
    "save_segmenter",
    "to_official",
    "to_transformers",
]
