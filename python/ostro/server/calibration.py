"""The routes of calibration: an importance matrix from the server's own traffic, as mistral.rs spells it.

They are for programs of the server's own machine, but for the one that tells how far it is.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.responses import Response

from ostro.errors import UnsupportedField
from ostro.server.bodies import read_body, speaks
from ostro.server.local_only import check_own_machine
from ostro.server.schema import CalibrationApplyBody, judge_extra

if TYPE_CHECKING:
    from ostro.host import ModelHost
    from ostro.types import CalibrationStatus


def calibration_router(host: ModelHost, *, max_body_bytes: int) -> APIRouter:
    """Routes over one model."""
    router = APIRouter()

    @router.post("/calibration/start")
    async def start(request: Request) -> Response:
        """Begin to collect the importance of weights from requests."""
        check_own_machine(request.scope)
        return _status(await asyncio.to_thread(host.calibration.begin))

    @router.get("/calibration/status")
    async def status() -> Response:
        """How much was collected."""
        return _status(await asyncio.to_thread(host.calibration.status))

    @router.get("/calibration/imatrix")
    async def imatrix(request: Request) -> Response:
        """What was collected so far, as a GGUF file that llama.cpp reads."""
        check_own_machine(request.scope)
        content = await asyncio.to_thread(_gguf, host)
        headers = {"Content-Disposition": 'attachment; filename="imatrix.gguf"'}
        return Response(content, media_type="application/octet-stream", headers=headers)

    @router.post("/calibration/apply", openapi_extra=speaks(CalibrationApplyBody))
    async def apply(request: Request) -> Response:
        """Quantize the weights anew by what was collected, while requests go on."""
        check_own_machine(request.scope)
        body = await read_body(CalibrationApplyBody, request, max_body_bytes)
        judge_extra(body.model_extra or {}, CalibrationApplyBody.model_fields)
        if body.save_cimatrix is not None:
            # Programs of other users of this machine reach the port, too.
            raise UnsupportedField(
                "save_cimatrix is not offered over HTTP: get /calibration/imatrix before you apply",
                param="save_cimatrix",
            )
        return _status(await asyncio.to_thread(host.apply_calibration))

    return router


def _status(status: CalibrationStatus) -> Response:
    return JSONResponse(asdict(status))


def _gguf(host: ModelHost) -> bytes:
    from ostro.quant.imatrix import pack_gguf

    return pack_gguf(host.calibration.importance())
