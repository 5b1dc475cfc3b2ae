"""The benchmark's arithmetic, on a loop whose speed is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ostro.cli.bench import Report
from ostro.cli.machine import cpu_name, memory, peak_rss, seconds_since_start, usable_cpus
from ostro.cli.measure import Bench, Rates
from ostro.errors import EngineError
from ostro.types import Event, Timing

if TYPE_CHECKING:
    from collections.abc import Callable

    from ostro.types import Prompt, Sampling

BOS = 2
VOCABULARY = 5000


class Clockwork:
    """Reads 1000 tokens per second and writes 50."""

    def __init__(self, *, missing: int = 0, error: EngineError | None = None) -> None:
        self.prompts: list[tuple[int, ...]] = []
        self._missing = missing
        self._error = error

    def submit(self, prompt: Prompt, sampling: Sampling, sink: Callable[[Event], None]) -> object:
        assert sampling.ignore_eos
        assert sampling.temperature == 0.0
        assert sampling.max_tokens is not None
        self.prompts.append(prompt.token_ids)
        if self._error is not None:
            sink(Event(0, finish_reason="error", error=self._error))
            return object()
        read, written = len(prompt.token_ids), sampling.max_tokens - self._missing
        sink(Event(0, text="x"))
        sink(
            Event(
                0,
                finish_reason="length",
                timing=Timing(read, written, read / 1000, (sampling.max_tokens - 1) / 50),
            )
        )
        return object()


def bench(loop: Clockwork) -> Bench:
    return Bench(loop, bos_id=BOS, vocab_size=VOCABULARY)


@pytest.mark.parametrize("depth", [0, 100])
def test_rates_count_only_the_tokens_of_the_question(depth: int) -> None:
    assert bench(Clockwork()).prefill(512, depth) == pytest.approx(1000)
    assert bench(Clockwork()).decode(128, depth) == pytest.approx(50)


def test_prompts_are_ordinary_tokens_and_never_the_same() -> None:
    loop = Clockwork()
    runs = bench(loop)
    runs.prefill(64)
    runs.prefill(64)
    first, second = loop.prompts
    assert len(first) == len(second) == 64
    assert first[0] == second[0] == BOS
    assert first != second
    assert all(1000 <= token < VOCABULARY for token in first[1:] + second[1:])
    again = Clockwork()
    bench(again).prefill(64)
    assert again.prompts[0] == first


def test_depth_is_read_first() -> None:
    loop = Clockwork()
    bench(loop).prefill(10, depth=30)
    bench(loop).decode(5, depth=7)
    bench(loop).decode(5)
    assert [len(prompt) for prompt in loop.prompts] == [30, 40, 7, 1]


def test_a_run_that_ends_early_is_no_measurement() -> None:
    with pytest.raises(EngineError, match=r"ended a run after 126 of 129 tokens \(length\)"):
        bench(Clockwork(missing=3)).decode(128)


def test_errors_of_the_engine_come_through() -> None:
    with pytest.raises(EngineError, match="broken"):
        bench(Clockwork(error=EngineError("broken"))).prefill(1)


def test_summary() -> None:
    assert Rates.of([3.0, 1.0, 2.0]) == Rates(median=2.0, min=1.0, max=3.0)
    assert Rates.of([4.0, 2.0]) == Rates(median=3.0, min=2.0, max=4.0)


def test_the_report_for_people() -> None:
    report = Report(
        version="1.0",
        model="gemma",
        cpu="CPU",
        isa="avx2",
        threads=2,
        compute="int14",
        prompt_len=512,
        gen_len=128,
        depth=4096,
        iterations=3,
        prefill=Rates(1234.56, 1000.0, 1300.0),
        decode=Rates(45.67, 40.0, 50.0),
        load_seconds=0.5,
        ready_seconds=1.25,
        peak_rss=512_000_000,
    )
    assert report.lines() == [
        "gemma on CPU: avx2, 2 threads",
        "prefill 512 tokens after 4,096     1,234.6 tok/s   min 1,000.0, max 1,300.0",
        "decode 128 tokens after 4,096         45.7 tok/s   min 40.0, max 50.0",
        "loaded in 0.50 s, ready 1.25 s after the program started, peak memory 512 MB",
    ]


def test_the_machine() -> None:
    assert cpu_name()
    assert usable_cpus() >= 1
    peak, size, age = peak_rss(), memory(), seconds_since_start()
    assert peak is None or peak > 10_000_000
    assert size is None or peak is None or peak < size
    assert age is None or 0 < age < 24 * 3600
