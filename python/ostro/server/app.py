"""The HTTP application over one loaded model, and running it."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from ostro.responses import ChatCompletionResponse, CompletionResponse
from ostro.server import failures
from ostro.server.limits import MAX_BODY_BYTES
from ostro.server.local_only import LocalOnly
from ostro.server.routes import build_router
from ostro.server.schema import (
    CalibrationApplyBody,
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    ReIsqBody,
    TokenizeBody,
)
from ostro.server.sse import KEEP_ALIVE_SECONDS
from ostro.version import ostro_version

if TYPE_CHECKING:
    import socket

    from ostro.host import ModelHost

LOCAL = "127.0.0.1"
DEFAULT_PORT = 1234
GRACEFUL_SECONDS = 5


def create_app(
    host: ModelHost, *, max_body_bytes: int = MAX_BODY_BYTES, keep_alive: float = KEEP_ALIVE_SECONDS
) -> FastAPI:
    """An ASGI application; the host stays the caller's to close.

    max_body_bytes: larger bodies get 413. keep_alive: seconds of silence before a stream sends a comment.
    A host whose requests may name any file as an image answers pages and names of this machine only.
    """
    app = FastAPI(
        title="ostro",
        version=ostro_version(),
        description="Gemma 3 behind OpenAI's HTTP interface.",
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    if host.reads_any_file:
        app.add_middleware(LocalOnly)
    failures.install(app)
    app.include_router(build_router(host, max_body_bytes=max_body_bytes, keep_alive=keep_alive))

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _openapi(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way
    return app


class GracefulServer(uvicorn.Server):
    """Ends a host's answers `seconds` after shutdown began, so that every stream gets its last events."""

    def __init__(self, config: uvicorn.Config, host: ModelHost, seconds: float) -> None:
        # uvicorn's own deadline, which cuts connections, is only for clients that do not read.
        config.timeout_graceful_shutdown = math.ceil(seconds) + 5
        super().__init__(config)
        self._host = host
        self._seconds = seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.shutdown`."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._seconds, lambda: loop.run_in_executor(None, self._host.close))
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()


def serve(
    host: ModelHost,
    address: str = LOCAL,
    port: int = DEFAULT_PORT,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    log_level: str = "info",
) -> None:
    """Serve until SIGINT or SIGTERM.

    If answers still run GRACEFUL_SECONDS after that, they are ended and the host is closed; otherwise the
    host stays the caller's to close.
    """
    config = uvicorn.Config(
        create_app(host, max_body_bytes=max_body_bytes),
        host=address,
        port=port,
        log_level=log_level,
        lifespan="off",
    )
    GracefulServer(config, host, GRACEFUL_SECONDS).run()


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description, plus the bodies that the routes read and write themselves."""
    description = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    spoken: list[Any] = [
        ChatBody,
        CompletionBody,
        TokenizeBody,
        DetokenizeBody,
        ReIsqBody,
        CalibrationApplyBody,
    ]
    answered: list[Any] = [ChatCompletionResponse, CompletionResponse]
    _, definitions = TypeAdapter.json_schemas(
        [
            *((body.__name__, "validation", TypeAdapter(body)) for body in spoken),
            *((response.__name__, "serialization", TypeAdapter(response)) for response in answered),
        ],
        ref_template="#/components/schemas/{model}",
    )
    schemas = description.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(definitions["$defs"])
    return description
