"""What a client may send, and noticing that it has left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from ostro.errors import RequestTooLarge
from ostro.server.failures import UnsupportedMediaType

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from starlette.requests import Request
    from starlette.types import Receive

MAX_BODY_BYTES = 50 * 1024 * 1024

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before it had its answer."""


async def read_json_body(request: Request, limit: int) -> bytes:
    """The raw body; RequestTooLarge as soon as it exceeds `limit` bytes, UnsupportedMediaType unless JSON.

    A body without a content type is refused, too: pages of other origins can send such bodies unasked.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        said = f"got {kind!r}" if kind else "got none"
        raise UnsupportedMediaType(f"the content-type header must be application/json, {said}")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
    return b"".join(parts)


async def disconnected(receive: Receive) -> None:
    """Return when the client has closed the connection; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves: ClientGone then."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(disconnected(request.receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for unfinished in (task, leaving):
            unfinished.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"the request's body exceeds {limit:,} bytes")
