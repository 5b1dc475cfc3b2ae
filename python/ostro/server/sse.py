"""Server-sent events as OpenAI sends them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from ostro.answers import ChatAnswer
from ostro.responses import ChatCompletionChunkResponse
from ostro.server.failures import error_body, told
from ostro.server.limits import disconnected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from ostro.async_streams import AsyncStream
    from ostro.responses import CompletionChunkResponse

KEEP_ALIVE_SECONDS = 10.0
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


def frame(data: dict[str, Any]) -> bytes:
    """One event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class EventStream(Response):
    """A stream's chunks as events, then [DONE].

    A failure midway is an event {"error": ...} before [DONE]. A comment goes out when nothing else did for
    `keep_alive` seconds. When the client leaves, the stream is cancelled at once.
    """

    def __init__(
        self,
        stream: AsyncStream[Any, Any],
        *,
        include_usage: bool,
        keep_alive: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        super().__init__(headers=HEADERS)
        # The length of a stream is not known.
        del self.headers["content-length"]
        self._stream = stream
        self._include_usage = include_usage
        self._keep_alive = keep_alive

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or stop when the client leaves."""
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self._stream.cancel()
            for unfinished in (sending, leaving):
                unfinished.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for data in self._with_pauses():
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except OSError:
            return  # the connection broke while sending
        await send({"type": "http.response.body", "body": DONE, "more_body": False})

    async def _with_pauses(self) -> AsyncIterator[bytes]:
        """Frames, with a comment after every `keep_alive` seconds of silence."""
        chunks = wire_chunks(self._stream, include_usage=self._include_usage)
        while True:
            following = asyncio.ensure_future(anext(chunks, None))
            try:
                while not (await asyncio.wait({following}, timeout=self._keep_alive))[0]:
                    yield KEEP_ALIVE
            finally:
                following.cancel()
            try:
                data = following.result()
            except Exception as error:  # whatever it is, the client is told and the log knows
                yield frame(error_body(told(error)))
                return
            if data is None:
                return
            yield frame(data)


async def wire_chunks(stream: AsyncStream[Any, Any], *, include_usage: bool) -> AsyncIterator[dict[str, Any]]:
    """Chunks as OpenAI puts them on the wire.

    Chat: the role in each choice's first chunk only, an empty delta in the last. Usage: if asked for, null in
    every chunk and a chunk of its own, without choices, at the end.
    """
    answer = stream.answer
    if isinstance(answer, ChatAnswer):
        for chunk in answer.role_chunks():
            yield _dumped(chunk, include_usage)
    async for chunk in stream:
        usage, chunk.usage = chunk.usage, None
        if isinstance(chunk, ChatCompletionChunkResponse):
            for choice in chunk.choices:
                choice.delta.role = None
                if choice.finish_reason is not None:
                    choice.delta.content = None
        yield _dumped(chunk, include_usage)
        if usage is not None and include_usage:
            chunk.choices, chunk.usage = [], usage
            yield _dumped(chunk, include_usage)


def _dumped(
    chunk: ChatCompletionChunkResponse | CompletionChunkResponse, include_usage: bool
) -> dict[str, Any]:
    return {**({"usage": None} if include_usage else {}), **chunk.model_dump()}
