"""Datasets: what is read from disk or drawn, as plain arrays."""
