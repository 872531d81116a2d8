"""`tempomask annotate`: a page in the browser to click objects, correct and track their masks."""

from __future__ import annotations

import asyncio
import socket
import threading
import warnings
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from tempomask.cli import console
from tempomask.cli.options import ModelOptions, Positive, RoutingOptions, chosen
from tempomask.errors import InputError, InputWarning

if TYPE_CHECKING:
    from tempomask.web.hub import Hub
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
        _check_extra()
        _check_model(model)
        from tempomask.web.hub import Hub
        from tempomask.web.security import check_host
        from tempomask.web.workspace import Workspace

        check_host(host, i_know_others_can_connect)
        workspace = Workspace(source or [], project)
        workspace.check_free()
    models, words = _models(model, adapter), _words(model, adapter)

    def make_hub() -> Hub:
        return Hub(workspace, models, words, upload_mib * 2**20)

    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(make_hub, _listen(host, port), not no_open))
    return 0


def _check_extra() -> None:
    """InputError without the packages of the extra web."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ImportError:
        raise InputError("annotate needs the extra web: pip install 'tempomask[web]'") from None


async def _serve(make_hub: Callable[[], Hub], listener: socket.socket, opened: bool) -> None:
    """Print the address, open it if that is wanted, and serve until Ctrl-C."""
    import uvicorn

    from tempomask.web.messages import LONGEST
    from tempomask.web.security import new_token
    from tempomask.web.server import build_app

    # The page shows every mask that a click gives; doubts about each need not be told here.
    warnings.simplefilter("ignore", InputWarning)
    places, token = _places(*listener.getsockname()[:2]), new_token()
    config = uvicorn.Config(
        build_app(make_hub(), token, places),
        log_level="warning",
        ws="websockets-sansio",
        ws_max_size=LONGEST,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    address = f"http://{places[0]}/{token}/"
    console.out.print(address, soft_wrap=True)
    console.out.file.flush()
    if opened:
        # A browser that runs in the terminal would hold up the server.
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    await uvicorn.Server(config).serve(sockets=[listener])


def _places(host: str, port: int) -> list[str]:
    """The values of Host that pages of ours send; the first is that of the address."""
    hosts = [host]
    if host in ("0.0.0.0", "::"):
        name = socket.gethostname()
        hosts = [name, "localhost", "127.0.0.1"]
        with suppress(OSError):
            hosts += [str(info[4][0]) for info in socket.getaddrinfo(name, None)]
    return [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in hosts]


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


def _check_model(model: ModelOptions) -> None:
    """InputError for a name that the page cannot use, before an address is shown."""
    from tempomask.export.folder import is_export
    from tempomask.models.config import segmenter_config

    if model.matches:
        raise InputError(
            f"{model.model} tracks masks and knows no clicks, which the page is for; take nano or a"
            " SAM 2, EfficientTAM or EdgeTAM model, and give its masks to `tempomask track --mask`"
        )
    if model.model is not None and not is_export(model.model):
        segmenter_config(model.model)


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
