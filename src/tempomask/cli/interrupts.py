"""Ctrl-C as a wish to stop between two frames, so that what is finished is kept whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, current_thread, main_thread
from types import FrameType

from tempomask.cli import console


@contextmanager
def stop_wish() -> Iterator[Event]:
    """An event that the first Ctrl-C sets; the second interrupts at once, as usual."""
    wish = Event()
    if current_thread() is not main_thread():
        # Only the main thread may handle signals.
        yield wish
        return

    def note_wish(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        wish.set()
        console.note("stopping after this frame; Ctrl-C again to stop at once")

    before = signal.signal(signal.SIGINT, note_wish)
    try:
        yield wish
    finally:
        signal.signal(signal.SIGINT, before)
