"""Weights: checkpoints of every known layout, strictly checked, and every model by name."""

from tempomask.weights.own import save_segmenter
from tempomask.weights.segmenters import load_segmenter, to_official, to_transformers
from tempomask.weights.zoo import MODELS, ModelInfo

__all__ = [
    "MODELS",
    "ModelInfo",
    "load_segmenter",
    "save_segmenter",
    "to_official",
    "to_transformers",
]
