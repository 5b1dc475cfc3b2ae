"""The HTTP routes; each hands a request to the host and its answer to the client."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.requests import Request
from starlette.responses import Response

from ostro.async_streams import AsyncStream
from ostro.errors import InvalidParameter
from ostro.host import DEFAULT_NAME
from ostro.server.bodies import read_body, speaks
from ostro.server.calibration import calibration_router
from ostro.server.docs_page import render_docs
from ostro.server.failures import gone
from ostro.server.limits import ClientGone, while_connected
from ostro.server.quantization import quantization_router
from ostro.server.schema import (
    Body,
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    GenerationBody,
    TokenizeBody,
)
from ostro.server.sse import EventStream

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from ostro.answers import Answer
    from ostro.host import ModelHost
    from ostro.responses import Response as Answered
    from ostro.streams import Deliver

BodyT = TypeVar("BodyT", bound=Body)


def build_router(host: ModelHost, *, max_body_bytes: int, keep_alive: float) -> APIRouter:
    """All routes over one model."""
    router = APIRouter()
    router.include_router(quantization_router(host, max_body_bytes=max_body_bytes))
    router.include_router(calibration_router(host, max_body_bytes=max_body_bytes))

    async def read(kind: type[BodyT], request: Request) -> BodyT:
        return await read_body(kind, request, max_body_bytes)

    async def answer(
        request: Request,
        body: GenerationBody,
        start: Callable[[Deliver], Answer[Any, Any]],
        threads: Executor | None = None,
    ) -> Response:
        async def whole() -> Answered:
            async with await AsyncStream.open(start, threads) as stream:
                response: Answered = await stream.response()
                return response

        if body.stream:
            stream = await AsyncStream.open(start, threads)
            return EventStream(stream, include_usage=body.include_usage(), keep_alive=keep_alive)
        try:
            return JSONResponse((await while_connected(request, whole())).model_dump())
        except ClientGone:
            return gone()

    @router.post("/v1/chat/completions", openapi_extra=speaks(ChatBody, "ChatCompletionResponse"))
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation."""
        body = await read(ChatBody, request)
        host.check_name(body.model or DEFAULT_NAME)
        threads = host.threads_for(body.messages)
        return await answer(request, body, partial(host.start_chat, body.to_request()), threads)

    @router.post("/v1/completions", openapi_extra=speaks(CompletionBody, "CompletionResponse"))
    async def completions(request: Request) -> Response:
        """Continue one or several texts."""
        body = await read(CompletionBody, request)
        host.check_name(body.model or DEFAULT_NAME)
        return await answer(request, body, partial(host.start_completion, body.to_request()))

    @router.get("/v1/models")
    async def models() -> Response:
        """What is loaded."""
        names = [DEFAULT_NAME, host.name]
        return JSONResponse({"object": "list", "data": [_model_entry(host, name) for name in names]})

    @router.get("/v1/models/{model:path}")
    async def one_model(model: str) -> Response:
        """One of the loaded models, under any of its names."""
        host.check_name(model)
        return JSONResponse(_model_entry(host, model))

    @router.post("/tokenize", openapi_extra=speaks(TokenizeBody))
    async def tokenize(request: Request) -> Response:
        """Token ids of a text or of messages."""
        body = await read(TokenizeBody, request)
        host.check_name(body.model or DEFAULT_NAME)
        loop = asyncio.get_running_loop()
        tokens = await loop.run_in_executor(host.threads_for(body.messages), _tokenizing(host, body))
        return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": host.context_length})

    @router.post("/detokenize", openapi_extra=speaks(DetokenizeBody))
    async def detokenize(request: Request) -> Response:
        """The text of token ids."""
        body = await read(DetokenizeBody, request)
        host.check_name(body.model or DEFAULT_NAME)
        text = await asyncio.to_thread(
            host.detokenize, body.tokens, skip_special_tokens=body.skip_special_tokens
        )
        return JSONResponse({"text": text})

    @router.get("/health")
    async def health() -> Response:
        """200 while requests are answered, else 503."""
        if host.closed:
            return JSONResponse({"status": "closed"}, 503)
        return JSONResponse({"status": "ok", "model": host.name})

    @router.get("/")
    async def index() -> Response:
        """Where things are."""
        return JSONResponse(
            {"name": "ostro", "model": host.name, "docs": "/docs", "openapi": "/openapi.json"}
        )

    @router.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return HTMLResponse(render_docs(request.app.openapi()))

    return router


def _tokenizing(host: ModelHost, body: TokenizeBody) -> Callable[[], list[int]]:
    if (body.text is None) == (body.messages is None):
        raise InvalidParameter("give either text or messages", param="text")
    if body.text is None:
        return partial(host.tokenize_chat, body.messages)
    return partial(host.tokenize, body.text, add_special_tokens=body.add_special_tokens)


def _model_entry(host: ModelHost, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": host.created,
        "owned_by": "local",
        "root": host.name,
        "max_model_len": host.context_length,
    }
