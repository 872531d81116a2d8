"""Adaptation of a trained segmenter to a budget: which blocks matter, what is trained, adapters."""
