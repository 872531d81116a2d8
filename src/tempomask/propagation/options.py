"""How labels are propagated: `PropagationOptions`, the published settings as defaults."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from tempomask.errors import InputError


@dataclass(frozen=True)
class PropagationOptions:
    """The published settings.

    Args:
        short_side: Of the images that the encoder sees, in pixels, rounded up to what it can take;
            the aspect is kept.
        context_frames: Last frames compared with, besides the first.
        radius: Of the neighbourhood that labels come from, a circle, in patches.
        top_k: Patches that give their labels.
        temperature: Of the softmax over their cosine similarities.

    Raises:
        InputError: For values out of range.
    """

    short_side: int = 960
    context_frames: int = 7
    radius: float = 12.0
    top_k: int = 5
    temperature: float = 0.2

    def __post_init__(self) -> None:
        for name in ("short_side", "context_frames", "top_k"):
            value, least = getattr(self, name), 0 if name == "context_frames" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be a whole number, {least} or more, got {value!r}")
        for name in ("radius", "temperature"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)!r}")

    def settings(self) -> dict[str, Any]:
        """The fields that are not at their defaults, as summaries and journals name them."""
        pairs = ((f, getattr(self, f.name)) for f in fields(self))
        # Summaries have the short side as image_size.
        return {f.name: v for f, v in pairs if v != f.default and f.name != "short_side"}
