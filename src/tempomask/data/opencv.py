"""OpenCV, imported when first used: only making training clips needs it (the `train` extra)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tempomask.errors import InputError

if TYPE_CHECKING:
    import cv2
else:

    class _OpenCV:
        def __getattr__(self, name: str) -> Any:
            try:
                import cv2
            except ImportError:
                raise InputError(
                    "training clips need OpenCV: pip install 'tempomask[train]'"
                ) from None
            return getattr(cv2, name)

    cv2 = _OpenCV()
