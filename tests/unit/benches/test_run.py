"""The driver: who is measured when, and what happens to those who fail or are slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from benches.compare import run
from benches.compare.protocol import WorkerError
from benches.compare.rows import ROWS

if TYPE_CHECKING:
    from pathlib import Path

    from benches.compare.rows import Row
    from benches.compare.summary import Table

LOAD, MEMORY, READ, WRITE, DEEP = (
    ROWS[name] for name in ("load", "memory", "prefill512", "decode0", "decode8k")
)
PAIR = ["ostro", "llama.cpp"]


class Script:
    """Stands in for `measure`: gives each (row, engine) its next value."""

    def __init__(self, **values: list[float | str]) -> None:
        self.values = values
        self.asked: list[tuple[str, str, int]] = []

    def __call__(self, fleet: object, name: str, row: Row, *, tokens: int, seed: int, limit: float) -> float:
        self.asked.append((row.name, name, seed))
        value = self.values.get(row.name, [1.0])
        found = value.pop(0) if len(value) > 1 else value[0]
        if isinstance(found, str):
            raise WorkerError(found)
        return found


@pytest.fixture
def fleet(tmp_path: Path) -> run.Fleet:
    model = tmp_path / "model.gguf"
    model.write_bytes(bytes(100))
    return run.Fleet(dict.fromkeys(PAIR, model), threads=1, cache=tmp_path)


def compare(
    fleet: run.Fleet, monkeypatch: pytest.MonkeyPatch, script: Script, rows: list[Row], *, rounds: int = 3
) -> Table:
    monkeypatch.setattr(run, "measure", script)
    return run.compare(fleet, rows, PAIR, rounds=rounds, tokens=8, limit=100.0)


def test_together_engines_take_turns_within_a_row() -> None:
    order = list(run.turns([READ, WRITE], PAIR, together=True, shuffle=list.reverse))
    assert order == [(READ, "llama.cpp"), (READ, "ostro"), (WRITE, "ostro"), (WRITE, "llama.cpp")]


def test_alone_an_engine_measures_all_rows_of_a_round() -> None:
    order = list(run.turns([READ, WRITE], PAIR, together=False, shuffle=list.reverse))
    assert order == [(READ, "llama.cpp"), (WRITE, "llama.cpp"), (READ, "ostro"), (WRITE, "ostro")]


def test_every_round_has_its_own_prompts(fleet: run.Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script()
    table = compare(fleet, monkeypatch, script, [READ])
    assert table["prefill512"]["ostro"].samples == [1.0, 1.0, 1.0]
    assert sorted(script.asked) == sorted(
        (READ.name, name, seed) for name in PAIR for seed in (0, 1000, 2000)
    )


def test_memory_is_measured_once(fleet: run.Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    table = compare(fleet, monkeypatch, Script(), [MEMORY, READ])
    assert {name: len(table["memory"][name].samples) for name in PAIR} == {"ostro": 1, "llama.cpp": 1}


def test_slow_measurements_are_not_repeated(fleet: run.Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SLOW", -1.0)
    table = compare(fleet, monkeypatch, Script(), [READ])
    assert {name: len(table["prefill512"][name].samples) for name in PAIR} == {"ostro": 1, "llama.cpp": 1}


def test_a_failure_ends_its_own_cell_only(
    fleet: run.Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = compare(fleet, monkeypatch, Script(prefill512=["it died", 5.0]), [READ, WRITE])
    cells = sorted(table["prefill512"].values(), key=lambda cell: cell.error is None)
    assert [(cell.samples, cell.error) for cell in cells] == [([], "it died"), ([5.0] * 3, None)]
    assert all(cell.samples == [1.0] * 3 for cell in table["decode0"].values())
    assert "it died" in capsys.readouterr().out


def test_what_would_take_too_long_is_not_begun(fleet: run.Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(prefill512=[80.0])
    table = compare(fleet, monkeypatch, script, [READ, DEEP])
    assert {cell.error for cell in table["decode8k"].values()} == {"would take about 102 s"}
    assert all(row != "decode8k" for row, _, _ in script.asked)


def test_a_model_that_cannot_be_loaded_is_asked_nothing_more(
    fleet: run.Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benches.compare.peers.Engine.command", lambda self, cache: ["false"])
    (fleet._cache / "logs").mkdir()
    with pytest.raises(WorkerError, match="the process ended with status 1"):
        fleet.start("ostro")
    with pytest.raises(WorkerError, match="the model was not loaded"):
        fleet.worker("ostro")
    fleet.close()


def test_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    options = run.parse(["--models", "4b,270m", "--engines", "llama.cpp,ostro", "--rows", "decode0, load"])
    assert (options.models, options.engines, options.rows) == (["270m", "4b"], PAIR, ["load", "decode0"])
    assert run.parse([]).rows == [*ROWS]
    assert "openvino" not in run.parse([]).engines
    assert run.parse(["--engines", "openvino"]).engines == ["openvino"]
    with pytest.raises(SystemExit):
        run.parse(["--rows", "load,dance"])
    assert "unknown: dance; there are: load, memory, prefill128" in capsys.readouterr().err
