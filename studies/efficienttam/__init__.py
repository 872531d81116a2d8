"""EfficientTAM: ablations of its memory attention."""
