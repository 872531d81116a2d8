"""Who may talk to the server: pages of our own address that know the token, and nobody else.

The token is the first part of every path, so that a page's relative addresses carry it. Host is
checked against DNS rebinding, Origin because browsers let any site open a WebSocket. Everything
that fails here gets the same short answer, and has touched nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from tempomask.errors import InputError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'"
)
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


def new_token() -> str:
    """256 random bits, fit for an address."""
    return secrets.token_urlsafe(32)


def check_host(host: str, consent: bool) -> None:
    """InputError for an address that others can reach, unless a person has agreed to that."""
    if host not in LOOPBACK and not consent:
        raise InputError(
            f"--host {host} lets others on the network reach this page, and with its address all"
            " that it shows; leave it out, or add --i-know-others-can-connect"
        )


class Guard:
    """An app around the app that lets through what may pass.

    Args:
        app: Sees paths without the token.
        token: That the paths must begin with.
        hosts: Allowed values of Host, with port.
    """

    def __init__(self, app: App, token: str, hosts: Collection[str]) -> None:
        self._app, self._token = app, token
        self._hosts = frozenset(host.lower() for host in hosts)
        sockets = "".join(f" ws://{host}" for host in sorted(self._hosts))
        policy = (b"content-security-policy", (_POLICY + sockets).encode())
        self._headers = (policy, *HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        status = self._refusal(scope)
        if status is not None:
            await _refuse(scope["type"], status, receive, send)
            return
        path = scope["path"][len(self._token) + 1 :]
        inner = {**scope, "path": path, "raw_path": path.encode(), "root_path": ""}
        await self._app(inner, receive, self._with_headers(send))

    def _with_headers(self, send: Send) -> Send:
        async def wrapped(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                ours = (*self._headers, (b"cache-control", b"no-store"))
                more = [(name, value) for name, value in ours if name not in there]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        return wrapped

    def _refusal(self, scope: Scope) -> int | None:
        """The status of a refusal; None for what may pass."""
        given: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name.lower(), []).append(value)
        hosts, origins = given.get(b"host", []), given.get(b"origin", [])
        if len(hosts) != 1 or hosts[0].decode("latin-1").lower() not in self._hosts:
            return 403
        wanted = b"http://" + hosts[0].lower()
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if any(origin.lower() != wanted for origin in origins) or (changes and len(origins) != 1):
            return 403
        if given.get(b"sec-fetch-site", [b"same-origin"])[0] not in (b"same-origin", b"none"):
            return 403
        token, slash, _ = scope["path"].removeprefix("/").partition("/")
        known = secrets.compare_digest(token.encode(), self._token.encode())
        return None if known and slash else 404


async def _refuse(kind: str, status: int, receive: Receive, send: Send) -> None:
    if kind == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    text = b"not found\n" if status == 404 else b"forbidden\n"
    headers = [(b"content-type", b"text/plain"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
