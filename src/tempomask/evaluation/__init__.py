"""Evaluation: a dataset and a model, or masks on disk, become tables of scores."""
