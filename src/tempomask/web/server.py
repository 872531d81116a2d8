"""The server of the page: its files, frames, uploads, exports, and one WebSocket a page.

The list of videos and all projects are in a `Hub`; a video is opened when a page first asks for it.
"""

from __future__ import annotations

import asyncio
import mimetypes
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempomask.errors import InputError
from tempomask.files import replacing, write_errors
from tempomask.io.prompt_file import mask_prompts
from tempomask.io.records import TRACK
from tempomask.io.result_folder import FORMATS
from tempomask.web import export as exporting
from tempomask.web.messages import BadMessage, Message, parse
from tempomask.web.models import Models
from tempomask.web.project import Project
from tempomask.web.room import Client, Room
from tempomask.web.security import Guard
from tempomask.web.worker import Worker
from tempomask.web.workspace import Entry, Workspace, open_source

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

PAGE = Path(__file__).parent / "page"
MOST_MASK_BYTES = 64 * 2**20
# Of other messages a page is told when they are done.
QUIET = frozenset(("open", "look", "masks", "hover", "export"))
Answer = Callable[["Request"], Coroutine[Any, Any, "Response"]]


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
        self.ready = False
        self._opening = asyncio.Lock()
        self._numbers = 0

    async def start(self) -> None:
        """Load the model while the page comes up."""
        loading = asyncio.wrap_future(self.worker.submit(self.models.plain))

        def loaded(done: asyncio.Future[Any]) -> None:
            self.ready = not done.cancelled() and done.exception() is None
            for client in self.clients:
                client.send(self.hello())
                if not self.ready and not done.cancelled():
                    client.send({"type": "error", "text": f"no model: {done.exception()}"})

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
            if message["type"] == "routing":
                self._tell_command(client, client.room)

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


def build_app(hub: Hub, token: str, hosts: list[str]) -> Guard:
    """The whole app behind its guard.

    Args:
        hub: What it serves.
        token: First part of every path.
        hosts: Allowed values of the header Host.
    """
    return Guard(_routes(hub), token, hosts)


def _routes(hub: Hub) -> Starlette:
    from starlette.applications import Starlette
    from starlette.responses import FileResponse, JSONResponse, Response
    from starlette.routing import Route, WebSocketRoute

    files = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.is_file()}

    def guarded(answer: Answer) -> Answer:
        async def wrapped(request: Request) -> Response:
            try:
                return await answer(request)
            except InputError as error:
                return JSONResponse({"error": str(error)}, 400)

        return wrapped

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:
            return Response("not found\n", 404)
        return Response(files[name], media_type=mimetypes.guess_type(name)[0])

    async def frame(request: Request) -> Response:
        room = await hub.room(request.path_params["video"])
        data = await asyncio.to_thread(room.pixels.jpeg, request.path_params["frame"])
        return Response(data, 200, {"cache-control": "private, max-age=600"}, "image/jpeg")

    async def drop(request: Request) -> Response:
        path = hub.workspace.drop_path(request.query_params.get("name", ""))
        await _receive(request, path, hub.most_bytes)
        try:
            video, _ = await asyncio.to_thread(open_source, Entry(path, path))
            video.close()
        except InputError:
            path.unlink()
            raise
        number = hub.workspace.add(path)
        hub.tell_videos()
        return JSONResponse({"video": number})

    async def mask(request: Request) -> Response:
        room = await hub.room(request.path_params["video"])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mask.png"
            await _receive(request, path, MOST_MASK_BYTES)
            index, object_id = (request.path_params[name] for name in ("frame", "object"))
            given = await asyncio.to_thread(mask_prompts, path, index, object_id)
        await room.give_masks(index, given)
        return JSONResponse({})

    async def exported(request: Request) -> Response:
        room = await hub.room(request.path_params["video"])
        path = room.project.folder / exporting.ARCHIVE
        if not path.exists():
            return Response("not found\n", 404)
        return FileResponse(path, filename=f"{Path(room.project.video.name).stem}-masks.zip")

    async def socket(connection: WebSocket) -> None:
        await _talk(hub, connection)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await hub.start()
        yield
        await hub.close()

    routes = [
        Route("/", page),
        Route("/frame/{video:int}/{frame:int}", guarded(frame)),
        Route("/export/{video:int}", guarded(exported)),
        Route("/drop", guarded(drop), methods=["POST"]),
        Route("/mask/{video:int}/{frame:int}/{object:int}", guarded(mask), methods=["POST"]),
        WebSocketRoute("/socket", socket),
        Route("/{name}", page),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def _receive(request: Request, path: Path, most: int) -> None:
    """Write the body of a request to a file, whole or not at all; InputError if it is too large."""
    size = 0
    with write_errors(path), replacing(path) as part, part.open("wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise InputError(f"the file is larger than {most // 2**20} MiB")
            await asyncio.to_thread(file.write, chunk)


async def _talk(hub: Hub, connection: WebSocket) -> None:
    """One page, from its first message to its last; a bad message ends it and nothing else."""
    from starlette.websockets import WebSocketDisconnect

    await connection.accept()
    client = hub.new_client()
    sender = asyncio.create_task(_send_all(client, connection))
    client.send(hub.hello())
    try:
        while True:
            message = parse(await connection.receive_text())
            try:
                await hub.handle(client, message)
            except InputError as error:
                client.send({"type": "error", "text": str(error)})
            if message["type"] not in QUIET:
                client.send({"type": "done"})
    except BadMessage as error:
        client.send({"type": "error", "text": str(error)})
    except (WebSocketDisconnect, KeyError, RuntimeError):
        pass  # it has gone, or sent bytes
    finally:
        hub.clients.discard(client)
        if client.room is not None:
            client.room.leave(client)
        client.queue.put_nowait(None)
        with suppress(Exception):
            await asyncio.wait_for(sender, 2)


async def _send_all(client: Client, connection: WebSocket) -> None:
    """Send what is queued, and close the connection at the end of it."""
    with suppress(Exception):  # it has gone
        while (event := await client.queue.get()) is not None:
            await connection.send_json(event)
        await connection.close(1008)
