"""What real passes of an encoder cost, with whatever its policy computes and decides on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tempomask.errors import InputError
from tempomask.metrics.flops import Macs, counting, total
from tempomask.models.encoder import Encoder


@dataclass
class EncoderMeter:
    """Counts real passes of an encoder, with whatever its policy computes and decides on them.

    every: of so many passes one is counted, because counting takes time. The encoder must be a
    plain one: torch's counter does not see into the packed layers of the fast engine.

    >>> with EncoderMeter(segmenter.encoder).attached() as meter:  # doctest: +SKIP
    ...     evaluate(model, root, policy=policy)
    >>> meter.mean  # doctest: +SKIP
    """

    encoder: Encoder
    every: int = 1
    counts: list[Macs] = field(default_factory=list)
    passes: int = 0

    @contextmanager
    def attached(self) -> Iterator[EncoderMeter]:
        """Meter the encoder's calls for as long as the block runs."""
        forward: Callable[..., Any] = self.encoder.forward

        def metered(*arguments: Any, **named: Any) -> Any:
            self.passes += 1
            if (self.passes - 1) % self.every:
                return forward(*arguments, **named)
            with counting() as counted:
                output = forward(*arguments, **named)
            self.counts.append(counted.macs)
            return output

        self.encoder.forward = metered
        try:
            yield self
        finally:
            del self.encoder.forward

    @property
    def mean(self) -> Macs:
        """Of the passes that were counted; InputError if there was none."""
        if not self.counts:
            raise InputError("no pass of the encoder was counted; run it while it is metered")
        summed, count = total(self.counts), len(self.counts)
        return Macs(round(summed.weights / count), round(summed.products / count))
