"""How masks are tracked by matching: `MatchingOptions`, the published settings as defaults."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from tempomask.errors import InputError, check_least


@dataclass(frozen=True)
class MatchingOptions:
    """The settings of XMem's and Cutie's evaluation.

    Args:
        short_side: Larger videos are resized to this short side, in pixels.
        memory_every: A frame in so many is remembered.
        long_term: Old memories are consolidated into prototypes, else dropped; None: as the network
            was evaluated, which for Cutie is without, for XMem with.
        short_frames: Remembered frames without long-term memory, the first among them.
        working_frames: With it: after so many frames all but the first and the newest are
            consolidated.
        kept_frames: So many frames then stay, the first among them.
        prototypes: Pixels that consolidated frames become.
        long_tokens: Pixels of long-term memory at most; the least used go first.
        spare_tokens: How many more are dropped then, so that it is done less often.
        top_k: Remembered pixels that a pixel reads.

    Raises:
        InputError: For values out of range.
    """

    short_side: int = 480
    memory_every: int = 5
    long_term: bool | None = None
    short_frames: int = 5
    working_frames: int = 10
    kept_frames: int = 5
    prototypes: int = 128
    long_tokens: int = 10_000
    spare_tokens: int = 2_000
    top_k: int = 30

    def __post_init__(self) -> None:
        check_least(
            self,
            short_side=16,
            memory_every=1,
            short_frames=2,
            kept_frames=2,
            prototypes=1,
            spare_tokens=0,
            top_k=1,
        )
        if self.working_frames <= self.kept_frames:
            raise InputError(
                f"working_frames {self.working_frames} must be above kept_frames"
                f" {self.kept_frames}, or nothing is left to consolidate"
            )
        if self.long_tokens <= self.spare_tokens + self.prototypes:
            raise InputError(
                f"long_tokens {self.long_tokens} must be above spare_tokens + prototypes"
                f" {self.spare_tokens + self.prototypes}"
            )

    def settings(self) -> dict[str, Any]:
        """The fields that are not at their defaults, as summaries and journals name them."""
        pairs = ((f, getattr(self, f.name)) for f in fields(self))
        # Summaries have the short side as image_size.
        return {f.name: v for f, v in pairs if v != f.default and f.name != "short_side"}
