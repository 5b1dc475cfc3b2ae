"""The edge of an answer for asyncio; `streams.py` is the one for threads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from types import TracebackType

    from ostro.answers import Answer
    from ostro.streams import Deliver
    from ostro.types import Event

ChunkT = TypeVar("ChunkT")
ResponseT = TypeVar("ResponseT")


class AsyncStream(AsyncIterator[ChunkT], Generic[ChunkT, ResponseT]):
    """Chunks as they are generated: `async for chunk in stream`. Belongs to the event loop that opened it.

    Closing or dropping it, or cancelling the task that waits for it, cancels what is still being generated.
    """

    def __init__(
        self,
        answer: Answer[ChunkT, ResponseT],
        events: asyncio.Queue[tuple[int, Event]],
        source: Callable[[Deliver], Answer[ChunkT, ResponseT]],
    ) -> None:
        # Keeps the model from being freed under a stream whose AsyncRunner was dropped.
        self._source = source
        self._answer: Answer[ChunkT, ResponseT] | None = answer
        self._events = events
        self._ready = deque(answer.opening())

    @classmethod
    async def open(
        cls, start: Callable[[Deliver], Answer[ChunkT, ResponseT]], threads: Executor | None = None
    ) -> AsyncStream[ChunkT, ResponseT]:
        """Start the request in a worker thread, since tokenizing a long prompt takes time.

        threads: None for the event loop's own.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

        def deliver(index: int, event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, (index, event))

        starting = loop.run_in_executor(threads, start, deliver)
        try:
            answer = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_cancel_started)
            raise
        return cls(answer, events, start)

    @property
    def answer(self) -> Answer[ChunkT, ResponseT]:
        """What the stream reads from; ValueError when it is closed."""
        if self._answer is None:
            raise ValueError("the stream is closed")
        return self._answer

    async def __anext__(self) -> ChunkT:
        while not self._ready:
            if self._answer is None or self._answer.finished:
                raise StopAsyncIteration
            event = await self._next_event()
            if self._answer is None:
                raise StopAsyncIteration
            try:
                self._ready.extend(self._answer.chunks(*event))
            except Exception:
                self.cancel()
                raise
        return self._ready.popleft()

    async def response(self) -> ResponseT:
        """Wait for the end and return the whole answer; instead of iterating, not after it."""
        answer = self.answer
        while not answer.finished:
            answer.feed(*await self._next_event())
        return answer.response()

    def cancel(self) -> None:
        """Cancel what is still being generated; iteration ends. Does not wait."""
        answer, self._answer = self._answer, None
        if answer is not None:
            self._ready.clear()
            answer.cancel()

    async def aclose(self) -> None:
        """The same as `cancel`, under the name that asynchronous iterators have for it."""
        self.cancel()

    async def _next_event(self) -> tuple[int, Event]:
        try:
            return await self._events.get()
        except BaseException:  # the task was cancelled while waiting
            self.cancel()
            raise

    async def __aenter__(self) -> AsyncStream[ChunkT, ResponseT]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        self.cancel()


def _cancel_started(started: asyncio.Future[Answer[ChunkT, ResponseT]]) -> None:
    if not started.cancelled() and started.exception() is None:
        started.result().cancel()
