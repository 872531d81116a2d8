"""The fast engine: the same networks, rearranged for speed; `accelerate` is the one way in."""

from tempomask.engine.accelerate import accelerate

__all__ = ["accelerate"]
