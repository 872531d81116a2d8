"""OpenCV, imported when first used: only making training clips needs it (the `train` extra)."""

from __future__ import annotations

from typing import Any

from tempomask.errors import InputError


def __getattr__(name: str) -> Any:
    # Attributes of modules themselves, asked for by the import machinery and by inspection.
    if name.startswith("__"):
        raise AttributeError(name)
    try:
        import cv2
    except ImportError:
        raise InputError("training clips need OpenCV: pip install 'tempomask[train]'") from None
    return getattr(cv2, name)
