"""Driver and worker: values, errors, deaths and delays all arrive as what they are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from benches.compare.protocol import (
    BOS,
    ORDINARY,
    SHORT,
    VOCABULARY,
    Worker,
    WorkerError,
    answer,
    peak_memory,
    prompt_ids,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[3]
PROGRAM = """
import os, sys, time
from benches.compare.protocol import serve

class Fake:
    def about(self):
        return {"version": os.environ["FAKE"]}
    def load(self, model, threads):
        print("a library talks", flush=True)
        os.write(1, b"even below Python\\n")
        return threads + 0.5
    def prefill(self, ids):
        raise ValueError("no such thing\\nand a backtrace")
    def decode(self, ids, tokens):
        os._exit(3)
    def streams(self, prompts, tokens):
        time.sleep(60)

serve(Fake())
"""


class Recorder:
    """An engine that remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def about(self) -> dict[str, str]:
        return {"version": "1"}

    def load(self, model: Path, threads: int) -> float:
        self.seen.append((model, threads))
        return 1.0

    def prefill(self, ids: Sequence[int]) -> float:
        self.seen.append(list(ids))
        return 2.0

    def decode(self, ids: Sequence[int], tokens: int) -> float:
        self.seen.append((len(ids), tokens))
        return 3.0

    def streams(self, prompts: Sequence[Sequence[int]], tokens: int) -> float:
        self.seen.append(([list(ids) for ids in prompts], tokens))
        return 4.0


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    program = tmp_path / "fake.py"
    program.write_text(PROGRAM)
    environment = {"FAKE": "7", "PYTHONPATH": str(ROOT)}
    worker = Worker([sys.executable, str(program)], log=tmp_path / "log", environment=environment, cwd=ROOT)
    yield worker
    worker.close()
    assert not worker.alive


LOAD = {"task": "load", "model": "/m.gguf", "threads": 2}
READ = {"task": "prefill", "tokens": 16, "seed": 1}


def test_values_arrive_whatever_else_is_printed(worker: Worker, tmp_path: Path) -> None:
    assert worker.ask({"task": "about"}, limit=60) == {"version": "7"}
    assert worker.ask(LOAD, limit=60) == 2.5
    assert not worker.used
    assert (tmp_path / "log").read_text() == "a library talks\neven below Python\n"


def test_an_error_is_one_line_and_the_worker_lives_on(worker: Worker) -> None:
    with pytest.raises(WorkerError, match=r"^ValueError: no such thing$"):
        worker.ask(READ, limit=60)
    assert worker.used
    with pytest.raises(WorkerError, match=r"^WorkerError: unknown task 'dance'$"):
        worker.ask({"task": "dance", "tokens": 1, "seed": 1}, limit=60)
    assert worker.ask(LOAD, limit=60) == 2.5


def test_a_death_is_an_error(worker: Worker, tmp_path: Path) -> None:
    expected = f"the process ended with status 3; see {tmp_path / 'log'}"
    with pytest.raises(WorkerError) as caught:
        worker.ask({"task": "decode", "depth": 0, "tokens": 1, "seed": 1}, limit=60)
    assert str(caught.value) == expected
    with pytest.raises(WorkerError, match="status 3"):
        worker.ask(READ, limit=60)


def test_a_delay_is_an_error(worker: Worker) -> None:
    worker.ask({"task": "about"}, limit=60)
    with pytest.raises(WorkerError, match=r"^no result within 1 s$"):
        worker.ask({"task": "streams", "streams": 1, "tokens": 1, "seed": 1}, limit=0.6)
    assert not worker.alive


def test_prompts_are_the_same_for_all_and_new_for_each_seed() -> None:
    ids = prompt_ids(3, 200)
    assert len(ids) == 200
    assert ids[0] == BOS
    assert all(ORDINARY <= token < VOCABULARY for token in ids[1:])
    assert prompt_ids(3, 200) == ids != prompt_ids(4, 200)


def test_what_an_engine_is_asked_for() -> None:
    engine = Recorder()
    request = {"seed": 5, "tokens": 64, "depth": 0, "streams": 2}
    assert answer(engine, LOAD) == 1
    assert answer(engine, {**request, "task": "prefill"}) == 2
    assert answer(engine, {**request, "task": "decode"}) == 3
    assert answer(engine, {**request, "task": "decode", "depth": 1024}) == 3
    assert answer(engine, {**request, "task": "streams"}) == 4
    assert engine.seen == [
        (Path("/m.gguf"), 2),
        prompt_ids(5, 64),
        (SHORT, 64),
        (1024, 64),
        ([prompt_ids(5, SHORT), prompt_ids(6, SHORT)], 64),
    ]


def test_memory_is_asked_for_at_the_end_of_the_context() -> None:
    engine = Recorder()
    found = answer(engine, {"task": "memory", "seed": 5, "tokens": 16, "depth": 4096})
    assert engine.seen == [(4080, 16)]
    assert 10 << 20 < found <= peak_memory()
