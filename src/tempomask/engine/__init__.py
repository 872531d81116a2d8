"""The fast engine: the same networks, rearranged for speed.

`accelerate` makes it of a segmenter, `instances.accelerate_instances` of an instance segmenter;
`compiled.CompiledSegmenter` goes on from the former.
"""

from tempomask.engine.accelerate import accelerate

__all__ = ["accelerate"]
