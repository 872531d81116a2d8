"""Which tracks a frame shows: `InstanceOptions`."""

from __future__ import annotations

from dataclasses import dataclass

from tempomask.errors import InputError, check_least


@dataclass(frozen=True)
class InstanceOptions:
    """Which tracks a frame shows.

    Args:
        min_score: Show a track while its score is at least this; 0 shows all, also empty ones.
        score_frames: Frames that a score is averaged over.
        max_overlap: Of two tracks of one class whose masks have a larger IoU on a frame, show one:
            the one that was shown before, else the better one. 1 shows both.
    """

    min_score: float = 0.3
    score_frames: int = 10
    max_overlap: float = 0.8

    def __post_init__(self) -> None:
        for name in ("min_score", "max_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        check_least(self, score_frames=1)


# Everything that the YouTube-VIS protocol ranks.
PROTOCOL = InstanceOptions(min_score=0.0, max_overlap=1.0)
