"""Keeps strangers' web pages away from a server that reads this machine's files.

A server that listens on loopback trusts its clients as programs of this machine. A browser is such a program,
and the pages in it come from anywhere: by requests of another origin, or by a name of their own that resolves
to 127.0.0.1 (DNS rebinding). Both show in a request's header fields.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from ostro.errors import RequestError
from ostro.server.failures import error_body

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class ForeignOrigin(RequestError):
    """The request comes from a page, or through a name, that is not of this machine."""

    status = 403
    code = "foreign_origin"


class OwnMachineOnly(RequestError):
    """The request changes the server for everybody, and comes from another machine."""

    status = 403
    code = "own_machine_only"


def check_own_machine(scope: Scope) -> None:
    """OwnMachineOnly unless a program of this machine, and not a page in its browser, sends the request."""
    client, headers = scope.get("client"), Headers(scope=scope)
    names = (headers.get("origin"), _with_scheme(headers.get("host")))
    near = client is None or _is_loopback(client[0])  # None: a socket of this machine
    if not near or not all(name is None or _is_local(name) for name in names):
        raise OwnMachineOnly(
            "this changes the model for everybody, so it is for programs on the server's own machine only"
        )


class LocalOnly:
    """ASGI middleware: 403 unless Host, and Origin if there is one, name this machine."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a local request on."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            for name, value in (
                ("Origin", headers.get("origin")),
                ("Host", _with_scheme(headers.get("host"))),
            ):
                if value is not None and not _is_local(value):
                    error = ForeignOrigin(
                        f"the {name} header names {value[:100]!r}, and this server answers its own machine "
                        "only, since requests may name any file as an image; to serve others, start it with "
                        "--allowed-image-root DIR"
                    )
                    await JSONResponse(error_body(error), error.status)(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def _with_scheme(host: str | None) -> str | None:
    return None if host is None else f"//{host}"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _is_local(url: str) -> bool:
    try:
        name = urlsplit(url).hostname or ""
        return name == "localhost" or name.endswith(".localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
