"""Routes that change how the weights are quantized, for programs of the server's own machine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.responses import Response

from ostro.host import DEFAULT_NAME
from ostro.isq_names import isq_name
from ostro.server.bodies import read_body, speaks
from ostro.server.local_only import check_own_machine
from ostro.server.schema import ReIsqBody

if TYPE_CHECKING:
    from ostro.host import ModelHost


def quantization_router(host: ModelHost, *, max_body_bytes: int) -> APIRouter:
    """The routes over one model."""
    router = APIRouter()

    @router.post("/re_isq", openapi_extra=speaks(ReIsqBody))
    async def re_isq(request: Request) -> Response:
        """Quantize again from the model's files; answers when the new weights are in use."""
        check_own_machine(request.scope)
        body = await read_body(ReIsqBody, request, max_body_bytes)
        host.check_name(body.model or DEFAULT_NAME)
        name = isq_name(body.ggml_type)
        await asyncio.to_thread(host.re_isq, name)
        return JSONResponse({"object": "re_isq", "model": host.name, "ggml_type": name})

    return router
