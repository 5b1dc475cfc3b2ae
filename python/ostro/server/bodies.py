"""Bodies of requests: read within limits, checked, and described for OpenAPI."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from ostro.server.limits import read_json_body
from ostro.server.schema import Body, parse

if TYPE_CHECKING:
    from starlette.requests import Request

BodyT = TypeVar("BodyT", bound=Body)

PARSE_IN_THREAD_BYTES = 64 * 1024


async def read_body(kind: type[BodyT], request: Request, max_bytes: int) -> BodyT:
    """The request's body as `kind`; RequestError if it is too large or not that."""
    raw = await read_json_body(request, max_bytes)
    if len(raw) < PARSE_IN_THREAD_BYTES:
        return parse(kind, raw)
    return await asyncio.to_thread(parse, kind, raw)


def speaks(body: type[Body], response: str | None = None) -> dict[str, Any]:
    """OpenAPI of a route that reads its body itself."""
    spoken: dict[str, Any] = {"requestBody": {"required": True, "content": _json_of(body.__name__)}}
    if response is not None:
        spoken["responses"] = {"200": {"description": "The answer", "content": _json_of(response)}}
    return spoken


def _json_of(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
