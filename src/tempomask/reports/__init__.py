"""Figures that sum up a run."""
