"""Metrics: update, compute, reset, and a frozen result."""
