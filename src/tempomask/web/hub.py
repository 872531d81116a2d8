"""All that a server holds: the list of videos, those that are open, the models and the pages.

A video is opened when a page first asks for it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tempomask.errors import InputError
from tempomask.io.records import TRACK
from tempomask.io.result_folder import FORMATS
from tempomask.web import export as exporting
from tempomask.web.client import Client
from tempomask.web.messages import Message
from tempomask.web.models import Models
from tempomask.web.project import Project
from tempomask.web.room import Room
from tempomask.web.worker import Worker
from tempomask.web.workspace import Workspace, open_source


class Hub:
    """All that a server holds.

    Args:
        workspace: The list of videos.
        models: For clicks and tracking.
        options: That name the model on a command line.
        most_bytes: Of a dropped file.
    """

    def __init__(
        self, workspace: Workspace, models: Models, options: list[str], most_bytes: int
    ) -> None:
        self.workspace, self.models, self.options = workspace, models, options
        self.most_bytes = most_bytes
        self.worker = Worker()
        self.rooms: dict[int, Room] = {}
        self.clients: set[Client] = set()
        self.ready, self.problem = False, ""
        self._opening = asyncio.Lock()
        self._numbers = 0

    async def start(self) -> None:
        """Load the model while the page comes up."""
        loading = asyncio.wrap_future(self.worker.submit(self.models.plain))

        def loaded(done: asyncio.Future[Any]) -> None:
            failed = None if done.cancelled() else done.exception()
            self.ready = not done.cancelled() and failed is None
            self.problem = "" if failed is None else f"no model: {failed}"
            for client in self.clients:
                client.send(self.hello())

        loading.add_done_callback(loaded)

    async def close(self) -> None:
        """Stop tracking and let go of everything."""
        for room in self.rooms.values():
            await room.close()
        await asyncio.to_thread(self.worker.close)

    def new_client(self) -> Client:
        """For a page that has come."""
        self._numbers += 1
        client = Client(self._numbers)
        self.clients.add(client)
        return client

    def hello(self) -> dict[str, Any]:
        """What every page is told first."""
        return {
            "type": "hello",
            "videos": [entry.name for entry in self.workspace.entries],
            "model": self.models.name,
            "ready": self.ready,
            "problem": self.problem,
            "routed": self.models.can_route,
            "formats": list(FORMATS[TRACK]),
            "most_bytes": self.most_bytes,
        }

    def tell_videos(self) -> None:
        """Tell all pages of the list."""
        for client in self.clients:
            client.send(self.hello())

    async def room(self, number: int) -> Room:
        """The open video of a number; InputError if it cannot be opened."""
        if not 0 <= number < len(self.workspace.entries):
            raise InputError(f"there is no video {number}")
        async with self._opening:
            if number not in self.rooms:
                entry = self.workspace.entries[number]
                video, facts = await asyncio.to_thread(open_source, entry)
                try:
                    project = await asyncio.to_thread(Project.open, entry.folder, facts)
                except BaseException:
                    video.close()
                    raise
                self.rooms[number] = Room(number, video, project, self.models, self.worker)
            return self.rooms[number]

    async def handle(self, client: Client, message: Message) -> None:
        """Do what a page says."""
        if message["type"] == "open":
            room = await self.room(message["video"])
            if client.room is not None:
                client.room.leave(client)
            room.enter(client)
            self._tell_command(client, room)
        elif client.room is None:
            raise InputError("no video is open")
        elif message["type"] == "export":
            await self._export(client.room, message["formats"])
        else:
            await client.room.handle(client, message)
            if message["type"] in ("routing", "undo", "redo"):
                for each in client.room.clients:
                    self._tell_command(each, client.room)

    def _tell_command(self, client: Client, room: Room) -> None:
        text = exporting.command_line(room.project, self.options)
        client.send({"type": "command", "text": text})

    async def _export(self, room: Room, formats: list[str]) -> None:
        shot = exporting.snapshot(room.project, exporting.command_line(room.project, self.options))
        room.broadcast({"type": "exporting"})
        try:
            path = await asyncio.to_thread(exporting.export, shot, formats, room.pixels)
        except InputError as error:
            room.broadcast({"type": "exported", "error": str(error)})
            return
        room.broadcast(
            {"type": "exported", "folder": str(shot.folder / exporting.EXPORT),
             "archive": f"export/{room.number}", "bytes": path.stat().st_size}
        )  # fmt: skip
