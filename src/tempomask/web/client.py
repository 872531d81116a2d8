"""One page as the server sees it: a queue of what it is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tempomask.web.room import Room


class Client:
    """One page. Messages wait in a queue of bounded length; a page that does not read is dropped.

    Args:
        number: That no other page has.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(4096)
        self.room: Room | None = None

    def send(self, event: dict[str, Any]) -> None:
        """Queue an event."""
        try:
            self.queue.put_nowait(event)
        except asyncio.QueueFull:
            self.close()

    def close(self) -> None:
        """End the connection."""
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(None)
