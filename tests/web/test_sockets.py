"""Ten pages at once for a minute, without a browser: nothing piles up."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.browser import Server, served
from tempomask.rle import encode_rle

websockets = pytest.importorskip("websockets")
pytestmark = pytest.mark.web

SECONDS, PAGES = 60.0, 10


def square(turn: int) -> str:
    mask = np.zeros((60, 90), dtype=bool)
    mask[5:30, turn % 60 : turn % 60 + 20] = True
    return str(encode_rle(mask)["counts"])


async def talk(address: str, until: float, number: int) -> tuple[int, int]:
    """One page that clicks, hovers, paints and undoes; messages said and events heard."""
    said = heard = 0
    origin = "/".join(address.split("/")[:3])
    place = address.replace("http", "ws") + "socket"
    async with websockets.connect(place, origin=origin, max_size=None) as socket:

        async def say(kind: str, **fields: object) -> None:
            nonlocal said
            said += 1
            await socket.send(json.dumps({"type": kind, **fields}))

        async def listen() -> None:
            nonlocal heard
            async for text in socket:
                heard += 1
                assert json.loads(text)["type"] != "error", text

        listening = asyncio.create_task(listen())
        await say("open", video=0)
        turn = number
        while time.monotonic() < until:
            turn += 1
            frame = turn % 12
            await say("masks", first=0, last=11)
            await say("look", frame=frame)
            await say("hover", frame=frame, object=0, x=25, y=30, label=1, id=turn)
            await say("paint", frame=frame, object=1, counts=square(turn))
            await say("undo" if turn % 2 else "redo")
            await asyncio.sleep(0.5)
        listening.cancel()
    return said, heard


async def hold(server: Server, seconds: float) -> list[tuple[int, int]]:
    until = time.monotonic() + seconds
    return await asyncio.gather(*(talk(server.address, until, i) for i in range(PAGES)))


def test_ten_sockets_for_a_minute(frames: Path, tmp_path: Path) -> None:
    with served(frames, "--project", tmp_path / "project") as server:

        async def first() -> None:
            origin = "/".join(server.address.split("/")[:3])
            place = server.address.replace("http", "ws") + "socket"
            async with websockets.connect(place, origin=origin) as socket:
                for message in ({"type": "open", "video": 0}, {"type": "add-object"}):
                    await socket.send(json.dumps(message))
                while json.loads(await socket.recv())["type"] != "added":
                    pass

        asyncio.run(first())
        asyncio.run(hold(server, 10))
        handles = len(os.listdir(f"/proc/{server.process.pid}/fd"))
        before = server.megabytes()
        counts = asyncio.run(hold(server, SECONDS))
        after = server.megabytes()
        assert len(counts) == PAGES and all(heard > said / 2 > 10 for said, heard in counts)
        assert after < before + 60
        assert len(os.listdir(f"/proc/{server.process.pid}/fd")) <= handles + 2
