"""The old place of `tempomask.compat.sam2`, kept for scripts that import from here."""

from tempomask.compat.sam2 import InferenceState, VideoPredictor

__all__ = ["InferenceState", "VideoPredictor"]
