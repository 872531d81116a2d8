"""`tempomask annotate`: a page in the browser to click objects, correct and track their masks."""

from __future__ import annotations

import asyncio
import socket
import threading
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from tempomask.cli import console
from tempomask.cli.options import ModelOptions, Positive, RoutingOptions, chosen
from tempomask.errors import InputError

if TYPE_CHECKING:
    from tempomask.web.models import Models

SERVER = Group.create_ordered("Server")


def annotate(
    source: list[str] | None = None,
    /,
    *,
    project: Path | None = None,
    model: ModelOptions = ModelOptions(),
    adapter: str | None = None,
    port: Annotated[int, Parameter(group=SERVER)] = 0,
    no_open: Annotated[bool, Parameter(group=SERVER)] = False,
    host: Annotated[str, Parameter(group=SERVER)] = "127.0.0.1",
    i_know_others_can_connect: Annotated[bool, Parameter(group=SERVER)] = False,
    upload_mib: Annotated[Positive, Parameter(group=SERVER)] = 2048,
) -> int:
    """Click objects in a video and get their masks, in a page of your browser.

    `tempomask annotate dog.mp4`

    `tempomask annotate frames/ photo.jpg --project work`

    Prints the page's address, opens it, and serves it until Ctrl-C. Nothing leaves this machine.
    Everything is saved as you go; the same command brings it back.

    Args:
        source: Videos, folders of images, images. Files can also be dropped onto the page.
        project: Folder of the project; of several sources, of their projects. Default:
            NAME-annotated for each.
        adapter: Whose router follows the page's budget. Default: the model's bundled one.
        port: Of the address; 0 takes a free one.
        no_open: Do not open the address.
        host: Address to serve at. Others than this machine's own need the next option.
        i_know_others_can_connect: Allow a --host that others on the network can reach.
        upload_mib: Largest dropped file, in MiB.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: ports go from 0 to 65535")
    with console.waiting("starting"):
        try:
            import starlette  # noqa: F401
            import uvicorn
            import websockets  # noqa: F401
        except ImportError:
            raise InputError("annotate needs the extra web: pip install 'tempomask[web]'") from None
        from tempomask.web.messages import LONGEST
        from tempomask.web.security import check_host, new_token
        from tempomask.web.server import Hub, build_app
        from tempomask.web.workspace import Workspace

        check_host(host, i_know_others_can_connect)
        workspace = Workspace(source or [], project)
    listener = _listen(host, port)
    name = f"[{host}]" if ":" in host else host
    place = f"{name}:{listener.getsockname()[1]}"
    token = new_token()
    address = f"http://{place}/{token}/"
    options = _words(model, adapter)

    async def serve() -> None:
        hub = Hub(workspace, _models(model, adapter), options, upload_mib * 2**20)
        config = uvicorn.Config(
            build_app(hub, token, [place]),
            log_level="warning",
            ws="websockets-sansio",
            ws_max_size=LONGEST,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        console.out.print(address, soft_wrap=True)
        console.out.file.flush()
        if not no_open:
            # A browser that runs in the terminal would hold up the server.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        await uvicorn.Server(config).serve(sockets=[listener])

    with suppress(KeyboardInterrupt):
        asyncio.run(serve())
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """A socket that waits for pages; InputError for an address that cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # Whoever comes before the server runs is kept waiting, not turned away.
        listener.listen(128)
    except OSError as error:
        listener.close()
        reason = error.strerror or error
        raise InputError(
            f"cannot serve at {host}:{port}: {reason}; leave --port out for a free one"
        ) from None
    return listener


def _models(model: ModelOptions, adapter: str | None) -> Models:
    """The networks of the page: the model, and its submodel with a router if there is one."""
    from tempomask.web.models import Models

    # A budget is what makes the command line look for a bundled adapter.
    wanted = RoutingOptions(0.5, adapter=adapter)
    router = wanted.adapter_for(model.model, model.checkpoint)
    return Models(model.load, router, model.model or "nano")


def _words(model: ModelOptions, adapter: str | None) -> list[str]:
    """The options that name the model, as they were given."""
    given = {**chosen(model), **({} if adapter is None else {"adapter": adapter})}
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in given.items())
    return [word for pair in pairs for word in pair]
