"""Work that the engine's thread does between steps, in parts."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ostro.engine import loop as engine_loop
from ostro.engine.loop import EngineLoop
from ostro.errors import EngineError
from tests.unit.engine.event_sink import Sink
from tests.unit.engine.mock_model import GREEDY, alone, ids_of, make_engine, prompt_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ostro.types import Event

ENDLESS = replace(GREEDY, ignore_eos=True)
PART = 0.002


class Chore:
    """Counts its parts, each of which takes some time. parts: how many; None for no end."""

    def __init__(self, parts: int | None = None) -> None:
        self.parts = parts
        self.done = 0
        self.threads: set[str] = set()
        self.begun = threading.Event()
        self.dropped = threading.Event()

    def work(self) -> Iterator[None]:
        try:
            for _ in itertools.count() if self.parts is None else range(self.parts):
                time.sleep(PART)
                self.threads.add(threading.current_thread().name)
                self.done += 1
                self.begun.set()
                yield
        finally:
            self.dropped.set()


@pytest.fixture
def loop() -> Iterator[EngineLoop]:
    with EngineLoop(make_engine(context_length=5000)) as loop:
        yield loop


def test_a_chore_is_done_while_there_is_nothing_else_to_do(loop: EngineLoop) -> None:
    chore = Chore(30)
    loop.begin_chore(chore.work())
    loop.await_chore()
    assert chore.done == 30
    assert chore.threads == {"ostro-engine"}


def test_without_a_chore_there_is_nothing_to_wait_for(loop: EngineLoop) -> None:
    loop.await_chore()
    loop.begin_chore(iter(()))
    loop.await_chore()


def test_after_a_chore_the_loop_sleeps(loop: EngineLoop) -> None:
    loop.begin_chore(Chore(3).work())
    loop.await_chore()
    cpu = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - cpu < 0.1


def test_between_steps_a_chore_gets_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_loop, "CHORE_SECONDS", 5 * PART)
    chore = Chore()
    engine = make_engine()
    step = engine.step
    done_before_step: list[int] = []

    def counted() -> list[Event]:
        done_before_step.append(chore.done)
        return step()

    engine.step = counted  # type: ignore[method-assign]
    sampling = replace(ENDLESS, max_tokens=20)
    with EngineLoop(engine) as loop:
        loop.begin_chore(chore.work())
        assert chore.begun.wait(10)
        submitted = threading.Event()
        loop.run_between_steps(lambda: submitted.wait(10))
        sinks = [Sink() for _ in range(3)]
        tickets = [loop.submit(prompt_of(i, 10), sampling, sink) for i, sink in enumerate(sinks)]
        submitted.set()
        for i, (ticket, sink) in enumerate(zip(tickets, sinks, strict=True)):
            assert sink.wait().finish_reason == "length"
            expected = ids_of(alone(prompt_of(i, 10), sampling), 0)
            assert ids_of(sink.events, ticket.sequence_id) == expected
    between = [after - before for before, after in itertools.pairwise(done_before_step)]
    assert len(between) >= 19
    assert min(between) >= 1
    # No part takes less than PART: none begins after five of them.
    assert max(between) <= 5


def test_a_command_does_not_wait_for_the_end_of_a_chore(loop: EngineLoop) -> None:
    chore = Chore()
    loop.begin_chore(chore.work())
    assert loop.run_between_steps(lambda: chore.done).result(10) >= 0
    assert not chore.dropped.is_set()


def test_a_new_chore_replaces_the_old_one(loop: EngineLoop) -> None:
    first, second = Chore(), Chore(5)
    loop.begin_chore(first.work())
    assert first.begun.wait(10)
    loop.begin_chore(second.work())
    loop.await_chore()
    assert second.done == 5
    # With the old one goes what it holds: the weights of a model that was replaced.
    assert first.dropped.wait(10)
    done = first.done
    time.sleep(5 * PART)
    assert first.done == done


def test_a_failing_chore_harms_nobody(loop: EngineLoop, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Iterator[None]:
        yield
        raise KeyboardInterrupt("broken chore")

    with caplog.at_level(logging.ERROR):
        loop.begin_chore(broken())
        loop.await_chore()
    assert "work between steps failed" in caplog.messages
    sampling = replace(ENDLESS, max_tokens=5)
    sink = Sink()
    ticket = loop.submit(prompt_of(1, 10), sampling, sink)
    assert sink.wait().finish_reason == "length"
    assert ids_of(sink.events, ticket.sequence_id) == ids_of(alone(prompt_of(1, 10), sampling), 0)
    chore = Chore(2)
    loop.begin_chore(chore.work())
    loop.await_chore()
    assert chore.done == 2


@pytest.mark.parametrize("busy", [False, True])
def test_close_does_not_wait_for_the_end_of_a_chore(loop: EngineLoop, busy: bool) -> None:
    chore = Chore()
    loop.begin_chore(chore.work())
    assert chore.begun.wait(10)
    sink = Sink()
    if busy:
        loop.submit(prompt_of(1, 10), ENDLESS, sink)
        sink.arrived.get(timeout=10)
    loop.close()
    assert not loop._thread.is_alive()
    assert not busy or sink.wait().finish_reason == "canceled"
    done = chore.done
    time.sleep(5 * PART)
    assert chore.done == done


def test_a_closed_loop_has_no_chores() -> None:
    loop = EngineLoop(make_engine())
    loop.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        loop.await_chore()
    with pytest.raises(EngineError, match="the engine is closed"):
        loop.begin_chore(Chore(1).work())


def test_who_waits_hears_that_the_loop_was_closed() -> None:
    loop = EngineLoop(make_engine())
    loop.begin_chore(Chore().work())
    waiting, heard = threading.Event(), []

    def wait() -> None:
        waiting.set()
        try:
            loop.await_chore()
        except EngineError as error:
            heard.append(str(error))

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert waiting.wait(10)
    time.sleep(5 * PART)
    loop.close()
    waiter.join(10)
    assert heard == ["the engine is closed"]
