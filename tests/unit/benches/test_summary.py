"""Medians, ratios, table and record."""

from __future__ import annotations

import json

import pytest
from benches.compare.rows import ROWS
from benches.compare.summary import Cell, Table, lines, ratios, record

ENGINES = ["ostro", "llama.cpp", "llama.cpp repacked", "mistral.rs"]


@pytest.fixture
def table() -> Table:
    return {
        "load": {
            "ostro": Cell([0.5], others=[0.3]),
            "llama.cpp": Cell([2.0]),
            "llama.cpp repacked": Cell([4.0]),
            "mistral.rs": Cell([5.0]),
        },
        "prefill512": {
            "ostro": Cell([1000.0, 1200.0, 800.0]),
            "llama.cpp": Cell([90.0, 110.0, 100.0], others=[0.0, 0.0504, 0.09]),
            "llama.cpp repacked": Cell([400.0, 50.0]),
            "mistral.rs": Cell(error="no result within 600 s"),
        },
        "decode0": {"ostro": Cell(error="dead"), "llama.cpp": Cell([10.0])},
    }


def test_the_better_configuration_of_llama_cpp_counts_in_each_row(table: Table) -> None:
    assert ratios(table) == {
        "load": {"llama.cpp": 4.0, "mistral.rs": 10.0},
        "prefill512": {"llama.cpp": pytest.approx(1000 / 225), "mistral.rs": None},
        "decode0": {"llama.cpp": None},
    }


def test_table(table: Table) -> None:
    found = [" ".join(line.split()) for line in lines(table, ENGINES)]
    assert found == [
        "unit ostro llama.cpp llama.cpp repacked mistral.rs ostro : llama.cpp ostro : mistral.rs",
        "load to first token s 0.50 2.00 4.00 5.00 4.00x 10.00x",
        "prefill 512 tok/s 1,000 (800..1,200) 100 (90.0..110) 225 (50.0..400) - 4.44x -",
        "decode, empty context tok/s - 10.0 - - - -",
        "prefill 512, mistral.rs: no result within 600 s",
        "decode, empty context, ostro: dead",
        "other processes used more than 10% of the machine during 1 of 4 samples",
    ]
    assert len({len(line) for line in lines(table, ENGINES)[1:3]}) <= 2


def test_an_optional_peer_has_a_column_when_it_took_part(table: Table) -> None:
    table["prefill512"]["openvino"] = Cell([50.0])
    assert ratios(table)["prefill512"]["openvino"] == 20.0
    head, load, prefill, *_ = (" ".join(line.split()) for line in lines(table, [*ENGINES, "openvino"]))
    assert head.endswith("ostro : llama.cpp ostro : mistral.rs ostro : openvino")
    assert load.endswith("4.00x 10.00x -")
    assert prefill.endswith("4.44x - 20.00x")


def test_record_keeps_every_sample(table: Table) -> None:
    found = json.loads(json.dumps(record(table)))
    assert found["prefill512"]["unit"] == "tok/s"
    assert found["prefill512"]["engines"]["llama.cpp"] == {
        "median": 100.0,
        "min": 90.0,
        "max": 110.0,
        "samples": [90.0, 110.0, 100.0],
        "others": [0.0, 0.05, 0.09],
        "error": None,
    }
    assert found["prefill512"]["engines"]["mistral.rs"] == {
        "median": None,
        "min": None,
        "max": None,
        "samples": [],
        "others": [],
        "error": "no result within 600 s",
    }
    assert found["load"]["ratios"] == {"llama.cpp": 4.0, "mistral.rs": 10.0}


def test_rows() -> None:
    assert ROWS["prefill2048"].request(decode_tokens=24, seed=9) == {
        "task": "prefill",
        "tokens": 2048,
        "depth": 0,
        "streams": 1,
        "seed": 9,
    }
    assert ROWS["decode8k"].request(decode_tokens=24, seed=9)["tokens"] == 24
    assert {name: row.unit for name, row in ROWS.items() if row.less_is_better} == {
        "load": "s",
        "memory": "GB",
    }
    assert [ROWS[name].tokens_to_read() for name in ("decode0", "prefill128", "decode1k", "memory")] == [
        0,
        128,
        1024,
        4096,
    ]
