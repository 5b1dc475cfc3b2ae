"""The edge of an answer for threads; `async_streams.py` is the one for asyncio."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

    from ostro.answers import Answer
    from ostro.types import Event

ChunkT = TypeVar("ChunkT")
ResponseT = TypeVar("ResponseT")

Deliver: TypeAlias = "Callable[[int, Event], None]"
"""Takes an event of sequence number `int`; called in the engine's thread."""


class Stream(Iterator[ChunkT], Generic[ChunkT, ResponseT]):
    """Chunks as they are generated: `for chunk in stream`. Belongs to one thread at a time.

    Closing, dropping or interrupting it cancels what is still being generated.
    """

    def __init__(self, start: Callable[[Deliver], Answer[ChunkT, ResponseT]]) -> None:
        self._answer: Answer[ChunkT, ResponseT] | None = None
        # A local, not self: the engine must not keep a dropped stream alive.
        events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        self._events = events
        # Keeps the model from being freed under a stream whose Runner was dropped.
        self._source = start
        answer = start(lambda index, event: events.put((index, event)))
        self._ready = deque(answer.opening())
        self._answer = answer

    def __next__(self) -> ChunkT:
        while not self._ready:
            if self._answer is None or self._answer.finished:
                raise StopIteration
            event = self._next_event()
            try:
                self._ready.extend(self._answer.chunks(*event))
            except Exception:
                self.close()
                raise
        return self._ready.popleft()

    def response(self) -> ResponseT:
        """Wait for the end and return the whole answer; instead of iterating, not after it."""
        if self._answer is None:
            raise ValueError("the stream is closed")
        answer = self._answer
        while not answer.finished:
            answer.feed(*self._next_event())
        return answer.response()

    def close(self) -> None:
        """Cancel what is still being generated; iteration ends."""
        answer, self._answer = self._answer, None
        if answer is not None:
            self._ready.clear()
            answer.cancel()

    def _next_event(self) -> tuple[int, Event]:
        try:
            return self._events.get()
        except BaseException:  # KeyboardInterrupt while waiting
            self.close()
            raise

    def __enter__(self) -> Stream[ChunkT, ResponseT]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
