"""Loading of instance segmenters."""
