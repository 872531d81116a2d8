"""The server of the page: its files, frames, uploads, exports, and one WebSocket a page."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tempomask.errors import InputError
from tempomask.files import replacing, write_errors
from tempomask.io.prompt_file import mask_prompts
from tempomask.web.client import Client
from tempomask.web.export import ARCHIVE
from tempomask.web.hub import Hub
from tempomask.web.messages import BadMessage, parse
from tempomask.web.security import Guard
from tempomask.web.workspace import Entry, open_source

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

PAGE = Path(__file__).parent / "page"
KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
MOST_MASK_BYTES = 64 * 2**20
# Of other messages a page is told when they are done.
QUIET = frozenset(("open", "look", "masks", "hover", "export"))


def build_app(hub: Hub, token: str, hosts: list[str]) -> Guard:
    """The whole app behind its guard.

    Args:
        hub: What it serves.
        token: First part of every path.
        hosts: Allowed values of the header Host.
    """
    return Guard(Site(hub).app(), token, hosts)


class Site:
    """What is behind the paths. The page's files are read once, and are all that there are."""

    def __init__(self, hub: Hub) -> None:
        from starlette import responses

        self.hub, self._responses = hub, responses
        self._files = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.is_file()}

    def app(self) -> Starlette:
        """The paths; bad input is an answer of one line."""
        from starlette.applications import Starlette
        from starlette.routing import Route, WebSocketRoute

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            await self.hub.start()
            yield
            await self.hub.close()

        async def refuse(_: Request, error: Exception) -> Response:
            return self._responses.JSONResponse({"error": str(error)}, 400)

        async def socket(connection: WebSocket) -> None:
            await _talk(self.hub, connection)

        routes = [
            Route("/", self.page),
            Route("/frame/{video:int}/{frame:int}", self.frame),
            Route("/export/{video:int}", self.exported),
            Route("/drop", self.drop, methods=["POST"]),
            Route("/mask/{video:int}/{frame:int}/{object:int}", self.mask, methods=["POST"]),
            WebSocketRoute("/socket", socket),
            Route("/{name}", self.page),
        ]
        return Starlette(routes=routes, lifespan=lifespan, exception_handlers={InputError: refuse})

    async def page(self, request: Request) -> Response:
        """A file of the page."""
        name = request.path_params.get("name", "index.html")
        if name not in self._files:
            return self._responses.Response("not found\n", 404)
        return self._responses.Response(self._files[name], media_type=KINDS[Path(name).suffix])

    async def frame(self, request: Request) -> Response:
        """A frame as JPEG, by number."""
        room = await self.hub.room(request.path_params["video"])
        data = await asyncio.to_thread(room.pixels.jpeg, request.path_params["frame"])
        kept = {"cache-control": "private, max-age=600"}
        return self._responses.Response(data, headers=kept, media_type="image/jpeg")

    async def drop(self, request: Request) -> Response:
        """Take in a dropped file, if it can be opened; its number in the list."""
        path = self.hub.workspace.drop_path(request.query_params.get("name", ""))
        await _receive(request, path, self.hub.most_bytes)
        try:
            video, _ = await asyncio.to_thread(open_source, Entry(path, path))
            video.close()
        except InputError:
            path.unlink()
            raise
        number = self.hub.workspace.add(path)
        self.hub.tell_videos()
        return self._responses.JSONResponse({"video": number})

    async def mask(self, request: Request) -> Response:
        """Take an image as the mask of an object, or of several by its ids."""
        room = await self.hub.room(request.path_params["video"])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mask.png"
            await _receive(request, path, MOST_MASK_BYTES)
            index, object_id = (request.path_params[name] for name in ("frame", "object"))
            given = await asyncio.to_thread(mask_prompts, path, index, object_id)
        await room.give_masks(index, given)
        return self._responses.JSONResponse({})

    async def exported(self, request: Request) -> Response:
        """The archive of the last export."""
        room = await self.hub.room(request.path_params["video"])
        path = room.project.folder / ARCHIVE
        if not path.exists():
            return self._responses.Response("not found\n", 404)
        name = f"{Path(room.project.video.name).stem}-masks.zip"
        return self._responses.FileResponse(path, filename=name)


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
