from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ostro.engine.loop import EngineLoop
from ostro.errors import EngineError, Overloaded, PromptTooLong
from ostro.types import Event, Prompt, Sampling
from tests.unit.engine.event_sink import Sink
from tests.unit.engine.mock_model import (
    BOS,
    GREEDY,
    MockModel,
    alone,
    assert_idle,
    ids_of,
    make_engine,
    prompt_of,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDLESS = replace(GREEDY, ignore_eos=True)


class SlowModel(MockModel):
    def forward(self, *args: Any) -> Any:
        time.sleep(0.002)
        return super().forward(*args)


@pytest.fixture
def loop() -> Iterator[EngineLoop]:
    with EngineLoop(make_engine(SlowModel(), context_length=5000)) as loop:
        yield loop


def settle(loop: EngineLoop) -> None:
    """Wait until the thread has done everything posted so far."""
    loop.run_between_steps(lambda: None).result(10)


def test_events_reach_the_sink(loop: EngineLoop) -> None:
    sink = Sink()
    ticket = loop.submit(prompt_of(1, 10), replace(ENDLESS, max_tokens=5), sink)
    assert sink.wait().finish_reason == "length"
    assert ids_of(sink.events, ticket.sequence_id) == ids_of(
        alone(prompt_of(1, 10), replace(ENDLESS, max_tokens=5)), 0
    )


def test_sinks_run_in_the_engine_thread(loop: EngineLoop) -> None:
    names: set[str] = set()
    sink = Sink()

    def note(event: Event) -> None:
        names.add(threading.current_thread().name)
        sink(event)

    loop.submit(prompt_of(1, 10), replace(ENDLESS, max_tokens=3), note)
    sink.wait()
    assert names == {"ostro-engine"}
    assert loop._thread.daemon


def test_cancel_ends_the_sequence_and_may_be_repeated(loop: EngineLoop) -> None:
    sink = Sink()
    ticket = loop.submit(prompt_of(1, 200), ENDLESS, sink)
    sink.arrived.get(timeout=10)
    ticket.cancel()
    ticket.cancel()
    assert sink.wait().finish_reason == "canceled"
    ticket.cancel()
    settle(loop)
    assert_idle(loop._engine)
    assert sum(event.finish_reason is not None for event in sink.events) == 1


def test_refusals_are_raised_in_the_caller(loop: EngineLoop) -> None:
    with pytest.raises(PromptTooLong, match="5,000 tokens, limit 4,999"):
        loop.submit(Prompt((BOS,) * 5000), GREEDY, Sink())
    assert loop.stats().waiting == 0


def test_the_waiting_line_is_bounded() -> None:
    with EngineLoop(make_engine(SlowModel(), max_seqs=2, max_waiting=3)) as loop:
        sinks = [Sink() for _ in range(5)]
        tickets = [loop.submit(prompt_of(1, 10), ENDLESS, sink) for sink in sinks]
        with pytest.raises(Overloaded, match="5 requests are running or waiting, limit 5; try later"):
            loop.submit(prompt_of(1, 10), ENDLESS, Sink())
        tickets[4].cancel()
        assert sinks[4].wait().finish_reason == "canceled"
        settle(loop)
        loop.submit(prompt_of(1, 10), ENDLESS, Sink())
        with pytest.raises(Overloaded):
            loop.submit(prompt_of(1, 10), ENDLESS, Sink())


def test_without_a_waiting_line_an_idle_engine_still_serves() -> None:
    with EngineLoop(make_engine(max_seqs=1, max_waiting=0)) as loop:
        sink = Sink()
        loop.submit(prompt_of(1, 10), replace(ENDLESS, max_tokens=2), sink)
        assert sink.wait().finish_reason == "length"


def test_a_failing_sink_harms_nobody_else(loop: EngineLoop, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[Event] = []

    def broken(event: Event) -> None:
        calls.append(event)
        raise KeyboardInterrupt("broken sink")

    sink = Sink()
    with caplog.at_level(logging.ERROR):
        ticket = loop.submit(prompt_of(1, 10), ENDLESS, broken)
        loop.submit(prompt_of(2, 10), replace(ENDLESS, max_tokens=20), sink)
        assert sink.wait().finish_reason == "length"
    settle(loop)
    assert len(calls) == 1
    assert f"the sink of sequence {ticket.sequence_id} failed" in caplog.messages
    assert_idle(loop._engine)


def test_close_cancels_what_runs_and_what_waits() -> None:
    loop = EngineLoop(make_engine(SlowModel(), max_seqs=1, context_length=5000))
    sinks = [Sink() for _ in range(3)]
    for sink in sinks:
        loop.submit(prompt_of(1, 10), ENDLESS, sink)
    loop.close()
    assert [sink.wait().finish_reason for sink in sinks] == ["canceled"] * 3
    assert not loop._thread.is_alive()
    assert_idle(loop._engine)
    loop.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        loop.submit(prompt_of(1, 10), ENDLESS, Sink())
    with pytest.raises(EngineError, match="the engine is closed"):
        loop.run_between_steps(lambda: None)


def test_cancelling_after_close_is_harmless() -> None:
    loop = EngineLoop(make_engine(SlowModel()))
    sink = Sink()
    ticket = loop.submit(prompt_of(1, 10), ENDLESS, sink)
    loop.close()
    ticket.cancel()
    assert sink.wait().finish_reason == "canceled"


def test_a_sink_may_close_the_loop() -> None:
    loop = EngineLoop(make_engine())
    sink = Sink()

    def closing(event: Event) -> None:
        sink(event)
        loop.close()

    loop.submit(prompt_of(1, 10), ENDLESS, closing)
    assert sink.wait().finish_reason == "canceled"
    loop._thread.join(10)
    assert not loop._thread.is_alive()


def test_functions_run_between_steps(loop: EngineLoop) -> None:
    sink = Sink()
    loop.submit(prompt_of(1, 10), replace(ENDLESS, max_tokens=30), sink)
    assert loop.run_between_steps(lambda: threading.current_thread().name).result(10) == "ostro-engine"
    with pytest.raises(ZeroDivisionError):
        loop.run_between_steps(lambda: 1 / 0).result(10)
    assert sink.wait().finish_reason == "length"


def test_functions_that_have_not_begun_are_cancelled_by_close() -> None:
    loop = EngineLoop(make_engine())
    begun, go = threading.Event(), threading.Event()

    def block() -> str:
        begun.set()
        go.wait(10)
        return "done"

    first = loop.run_between_steps(block)
    assert begun.wait(10)
    second = loop.run_between_steps(lambda: "never")
    closer = threading.Thread(target=loop.close)
    closer.start()
    while not loop._closed:
        time.sleep(0.001)
    go.set()
    closer.join(10)
    assert first.result(1) == "done"
    assert second.cancelled()


def test_an_idle_loop_sleeps() -> None:
    engine = make_engine()
    steps: list[int] = []
    step = engine.step

    def counted() -> list[Event]:
        steps.append(1)
        return step()

    engine.step = counted  # type: ignore[method-assign]
    with EngineLoop(engine) as loop:
        sink = Sink()
        loop.submit(prompt_of(1, 10), replace(ENDLESS, max_tokens=3), sink)
        sink.wait()
        settle(loop)
        cpu = time.process_time()
        time.sleep(0.3)
        assert len(steps) == 3
        assert time.process_time() - cpu < 0.1


def test_a_fault_in_the_engine_itself_ends_the_requests_not_the_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = make_engine()
    with EngineLoop(engine) as loop:
        vocabulary = engine._vocabulary
        token_bytes = vocabulary.token_bytes
        vocabulary.token_bytes = None  # type: ignore[method-assign, assignment]
        sink = Sink()
        loop.submit(prompt_of(1, 10), ENDLESS, sink)
        last = sink.wait()
        assert last.finish_reason == "error"
        assert "the engine failed: TypeError" in str(last.error)
        vocabulary.token_bytes = token_bytes  # type: ignore[method-assign]
        again = Sink()
        loop.submit(prompt_of(1, 10), replace(ENDLESS, max_tokens=2), again)
        assert again.wait().finish_reason == "length"
        settle(loop)
        assert_idle(engine)


def test_64_threads_get_what_each_gets_alone() -> None:
    model = MockModel()
    engine = make_engine(model, max_seqs=16, prefill_chunk=64, kv_bytes=60_000, context_length=400)
    results: dict[int, tuple[str, list[int], str | None]] = {}

    def sampling_of(i: int) -> Sampling:
        base = ENDLESS if i % 2 else Sampling(seed=i, top_k=20, ignore_eos=True)
        return replace(base, max_tokens=20 + i)

    def client(loop: EngineLoop, i: int) -> None:
        sink = Sink()
        ticket = loop.submit(prompt_of(i, 5 + 3 * i), sampling_of(i), sink)
        if i % 3 == 0:
            sink.arrived.get(timeout=60)
            ticket.cancel()
        last = sink.wait()
        key = ticket.sequence_id
        results[i] = text_of(sink.events, key), ids_of(sink.events, key), last.finish_reason

    with EngineLoop(engine) as loop:
        threads = [threading.Thread(target=client, args=(loop, i)) for i in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        settle(loop)
        assert_idle(engine)
    assert len(results) == 64
    for i, (text, ids, reason) in results.items():
        expected = alone(prompt_of(i, 5 + 3 * i), sampling_of(i))
        if reason == "canceled":
            assert i % 3 == 0
            assert ids == ids_of(expected, 0)[: len(ids)]
        else:
            assert (text, ids) == (text_of(expected, 0), ids_of(expected, 0))
