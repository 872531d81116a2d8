"""Progress on stderr: bars and spinners on a terminal, and elsewhere a plain line now and then.

A log that a person follows, or reads after a night, so shows within seconds that work goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn
from rich.status import Status

# Seconds to the first line, so that what is quick says nothing, and between further ones.
FIRST = 4.0
EVERY = 30.0

err = Console(stderr=True, highlight=False, markup=False)


class _Lines:
    """Says something in a thread until it is stopped."""

    def __init__(self, say: Callable[[], None]) -> None:
        self._say, self._done = say, Event()
        self._thread: Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._done.clear()
            self._thread = Thread(target=self._run, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._done.set()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        pause = FIRST
        while not self._done.wait(pause):
            self._say()
            pause = EVERY


class Bars(Progress):
    """Rich's progress bars; without a terminal a line of the same text, bars and spinners left out.

    Args:
        columns: As of `Progress`.
        visible: Whether anything is shown.
    """

    def __init__(self, *columns: ProgressColumn, visible: bool = True) -> None:
        super().__init__(*columns, console=err, disable=not visible, refresh_per_second=4)
        drawn = SpinnerColumn, BarColumn
        self._text = [column for column in columns if not isinstance(column, drawn)]
        self._lines = _Lines(self._say)

    def start(self) -> None:
        """Begin to show it."""
        if self.disable or self.console.is_terminal:
            super().start()
        else:
            self._lines.start()

    def stop(self) -> None:
        """Show no more."""
        self._lines.stop()
        if self.disable or self.console.is_terminal:
            super().stop()

    def _say(self) -> None:
        for task in self.tasks:
            parts = (str(column.render(task)).strip() for column in self._text)
            self.console.print("  ".join(filter(None, parts)), soft_wrap=True)


class Waiting(Status):
    """Rich's spinner with a message; without a terminal the message alone, if it takes long."""

    def __init__(self, message: str) -> None:
        super().__init__(message, console=err)
        self._lines = _Lines(lambda: err.print(f"{self.status} ...", soft_wrap=True))

    def start(self) -> None:
        """Begin to show it."""
        if self.console.is_terminal:
            super().start()
        else:
            self._lines.start()

    def stop(self) -> None:
        """Show no more."""
        self._lines.stop()
        if self.console.is_terminal:
            super().stop()
