"""The thread that owns an engine.

Requests come in from any thread, events go out through sinks; between steps the thread does what was asked of
it, and without work it sleeps.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, TypeVar

from ostro.errors import EngineError, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from ostro.engine.engine import Engine, EngineStats
    from ostro.engine.sequence import Sequence
    from ostro.ops.protocol import Ops
    from ostro.types import Event, Prompt, Sampling

    Sink = Callable[[Event], None]

_log = logging.getLogger(__name__)

CHORE_SECONDS = 0.02
"""Time for a chore behind a step, beyond which no part of it begins."""

T = TypeVar("T")


class Ticket:
    """A submitted request."""

    def __init__(self, loop: EngineLoop, sequence_id: int) -> None:
        self._loop = loop
        self.sequence_id = sequence_id

    def cancel(self) -> None:
        """Ask for the end of the sequence: its pages are freed before the next step.

        Its last event says "canceled". May be called from any thread, more than once, and after the end.
        """
        self._loop.cancel(self.sequence_id)


class EngineLoop:
    """Runs an engine in a daemon thread; the engine belongs to that thread from now on.

    Sinks are called in the engine thread and should only pass events on; one that raises has its sequence
    cancelled and hears no more.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._capacity = engine.config.max_seqs + engine.config.max_waiting
        self._changed = threading.Condition()
        self._inbox: deque[tuple[Callable[[], None], Future[Any] | None]] = deque()
        self._live = 0
        self._closed = False
        self._sinks: dict[int, Sink] = {}
        self._chore: Iterator[None] | None = None
        self._thread = threading.Thread(target=self._run, name="ostro-engine", daemon=True)
        self._thread.start()

    def submit(self, prompt: Prompt, sampling: Sampling, sink: Sink) -> Ticket:
        """Start a sequence; events go to `sink` until one with a finish_reason, which is the last.

        Raises in the caller: PromptTooLong, InvalidParameter, Overloaded, EngineError after close.
        """
        self._check_open()
        sequence = self._engine.prepare(prompt, sampling)
        with self._changed:
            self._check_open()
            if self._live >= self._capacity:
                message = (
                    f"{self._live:,} requests are running or waiting, limit {self._capacity:,}; try later"
                )
                raise Overloaded(message)
            self._live += 1
            self._post(lambda: self._admit(sequence, sink))
        return Ticket(self, sequence.id)

    def cancel(self, sequence_id: int) -> None:
        """See Ticket.cancel."""
        with self._changed:
            if not self._closed:
                self._post(lambda: self._engine.cancel(sequence_id))

    def run_between_steps(self, function: Callable[[], T]) -> Future[T]:
        """Call a function in the engine thread while no step runs; the future gets its result or exception.

        Waiting for the future in the engine thread itself would wait forever.
        """
        future: Future[T] = Future()

        def call() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:  # belongs to whoever waits for the future
                    future.set_exception(error)

        with self._changed:
            self._check_open()
            self._post(call, future)
        return future

    def begin_chore(self, chore: Iterator[None]) -> None:
        """Have the engine thread do some work in parts, instead of any chore before.

        For a moment behind each step, and for as long as there is nothing else to do.
        """

        def begin() -> None:
            self._chore = chore

        self.run_between_steps(begin)

    def await_chore(self) -> None:
        """Return when there is no chore any more. EngineError when the engine is closed."""
        while self._ask(lambda: self._chore is not None):
            time.sleep(CHORE_SECONDS)

    def replace_ops(self, ops: Ops[Any, Any]) -> None:
        """See Engine.replace_ops; returns when it is so. EngineError when the engine is closed."""
        self._ask(lambda: self._engine.replace_ops(ops))

    def stats(self) -> EngineStats:
        """A snapshot of the engine."""
        return self._engine.stats()

    def close(self) -> None:
        """Cancel everything, functions that have not begun included, and wait for the thread to end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> EngineLoop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the engine is closed")

    def _ask(self, function: Callable[[], T]) -> T:
        """What the function returns between two steps. EngineError when the engine is closed."""
        try:
            return self.run_between_steps(function).result()
        except CancelledError as error:
            raise EngineError("the engine is closed") from error

    def _post(self, command: Callable[[], None], future: Future[Any] | None = None) -> None:
        self._inbox.append((command, future))
        self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._inbox or self._engine.has_work or self._closed or self._chore is not None):
                    self._changed.wait()
                commands, self._inbox = self._inbox, deque()
                closed = self._closed
            for command, future in commands:
                if closed and future is not None:
                    future.cancel()
                    future.set_running_or_notify_cancel()
                else:
                    command()
            if closed:
                self._engine.cancel_all()
            seconds = CHORE_SECONDS
            if self._engine.has_work:
                start = time.perf_counter()
                self._step()
                # Nobody's answer takes more than twice as long.
                seconds = min(seconds, time.perf_counter() - start)
            if closed and not self._engine.has_work:
                return
            if self._chore is not None:
                self._work_on(self._chore, seconds)

    def _work_on(self, chore: Iterator[None], seconds: float) -> None:
        end = time.perf_counter() + seconds
        try:
            for _ in chore:
                if time.perf_counter() >= end:
                    return
        except BaseException:  # steps go on without it
            _log.exception("work between steps failed")
        self._chore = None

    def _admit(self, sequence: Sequence, sink: Sink) -> None:
        self._sinks[sequence.id] = sink
        self._engine.admit(sequence)

    def _step(self) -> None:
        try:
            events = self._engine.step()
        except BaseException as error:  # the thread must outlive any fault
            _log.exception("the engine failed")
            events = self._engine.fail_all(error)
        for event in events:
            self._deliver(event)

    def _deliver(self, event: Event) -> None:
        last = event.finish_reason is not None
        sink = self._sinks.pop(event.sequence_id, None) if last else self._sinks.get(event.sequence_id)
        if last:
            with self._changed:
                self._live -= 1
        if sink is None:
            return
        try:
            sink(event)
        except BaseException:  # a reader's fault must not reach its neighbours
            _log.exception("the sink of sequence %d failed", event.sequence_id)
            self._sinks.pop(event.sequence_id, None)
            self._engine.cancel(event.sequence_id)
