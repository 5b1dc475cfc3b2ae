"""Everything that can go wrong, told as OpenAI does: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import http
import logging
from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ostro.errors import OstroError, Overloaded, RequestError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

logger = logging.getLogger("ostro.server")

RETRY_AFTER_SECONDS = 1
CLIENT_CLOSED_REQUEST = 499  # nginx's number; nobody is left to read it


class InvalidJson(RequestError):
    """The body is not JSON."""

    code = "invalid_json"


class UnsupportedMediaType(RequestError):
    """The body does not say that it is JSON."""

    status = 415
    code = "unsupported_media_type"


def error_body(error: OstroError) -> dict[str, Any]:
    """The JSON of an error; also what a stream ends with when it fails midway."""
    return _body(error.message, error.kind, error.param, error.code)


def told(error: Exception) -> OstroError:
    """The error as a client may see it; what is not the client's doing is logged here."""
    if isinstance(error, RequestError):
        return error
    logger.error("a request failed: %s", error, exc_info=error)
    return (
        error if isinstance(error, OstroError) else OstroError("internal error; the server's log says more")
    )


def gone() -> Response:
    """For a client that has left."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def install(app: FastAPI) -> None:
    """Make the app answer every failure in this shape."""
    app.add_exception_handler(OstroError, _on_ostro_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_bug)


async def _on_ostro_error(_request: Request, error: Exception) -> Response:
    told_error = told(error)
    headers = {"retry-after": str(RETRY_AFTER_SECONDS)} if isinstance(error, Overloaded) else None
    return JSONResponse(error_body(told_error), told_error.status, headers)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: f"there is nothing at {request.url.path}; see /docs",
        405: f"{request.method} is not allowed at {request.url.path}",
    }
    message = messages.get(error.status_code, str(error.detail))
    code = http.HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    kind = RequestError.kind if error.status_code < 500 else OstroError.kind
    return JSONResponse(_body(message, kind, None, code), error.status_code, error.headers)


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return gone()


async def _on_bug(_request: Request, _error: Exception) -> Response:
    # Starlette raises the exception again after this answer, and uvicorn logs it.
    bug = OstroError("internal error; the server's log says more")
    return JSONResponse(error_body(bug), bug.status)


def _body(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
