"""The arithmetic and the words of `ostro bench --roofline`, on a machine and a model of round numbers."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict

import pytest

from ostro.cli.bench import Report, with_roofline
from ostro.cli.measure import Rates
from ostro.cli.roofline import Roofline, compare
from ostro.errors import EngineError
from ostro.models.work import Attention, Work
from ostro.ops.roofline import Machine, Peak
from tests.server.fake_host import fake_host

MACHINE = Machine(
    threads=2,
    cache_bytes=1_000_000,
    read_bandwidth=20e9,
    read_bandwidth_one=12.5e9,
    peaks=(
        Peak("f32", "vfmadd ymm", 100e9),
        Peak("int16", "vpmaddwd + vpaddd ymm", 150e9),
        Peak("int16", "vpdpwssd zmm", 400e9),
        Peak("int8", "vpdpbusd zmm", 800e9),
    ),
)
WORK = Work(
    layer_bytes=60_000_000,
    prompt_macs=100_000_000,
    head_bytes=40_000_000,
    head_macs=50_000_000,
    attention=(Attention(position_bytes=1000, position_macs=2000, window=None),),
    dense=False,
)


def shares(
    *,
    machine: Machine = MACHINE,
    work: Work = WORK,
    depth: int = 0,
    prefill: float | None = 200.0,
    decode: float | None = 50.0,
    family: str | None = None,
) -> Roofline:
    return compare(
        machine,
        work,
        prompt_len=100,
        gen_len=3,
        depth=depth,
        prefill=prefill,
        decode=decode,
        family=family,
    )


def test_decode_is_compared_with_the_bandwidth_of_all_threads() -> None:
    found = shares().decode
    assert found is not None
    # The prompt is one token: the three steps see 2, 3 and 4 positions.
    assert found.per_token == 100_000_000 + 3 * 1000
    assert found.per_second == found.per_token * 50
    assert found.roof == 20e9
    assert found.share == pytest.approx(0.25, rel=1e-4)


def test_depth_adds_the_keys_and_values_that_are_already_there() -> None:
    found = shares(depth=1000).decode
    assert found is not None
    assert found.per_token == 100_000_000 + 1000 * (1001 + 1002 + 1003) / 3


def test_prefill_is_compared_with_the_fastest_way_to_multiply_its_numbers() -> None:
    result = shares()
    assert result.family == "int16"
    assert result.prefill is not None
    # One row of the head for a hundred tokens; token i sees i + 1 positions.
    assert result.prefill.per_token == 100_000_000 + 500_000 + 2000 * 5050 / 100
    assert result.prefill.roof == 400e9
    assert result.prefill.share == pytest.approx(result.prefill.per_token * 200 / 400e9)


def test_the_heads_row_cancels_out_after_other_tokens() -> None:
    found = shares(depth=100).prefill
    assert found is not None
    assert found.per_token == 100_000_000 + 2000 * (100 * 100 + 5050) / 100


def test_the_family_is_a_question_of_the_kernels() -> None:
    dense = dataclasses.replace(WORK, dense=True)
    assert shares(work=dense).family == "f32"
    given = shares(work=dense, family="int8")
    assert given.family == "int8"
    assert given.prefill is not None
    assert given.prefill.roof == 800e9


def test_what_was_not_measured_has_no_share() -> None:
    result = shares(prefill=None, decode=None)
    assert (result.prefill, result.decode, result.cached) == (None, None, False)
    assert not any(line.startswith(("prefill", "decode")) for line in result.lines())


@pytest.mark.parametrize(
    ("cache", "cached"), [(None, False), (100_000_000, False), (100_003_000, True), (2 << 30, True)]
)
def test_a_model_in_the_cache_is_not_bound_by_memory(cache: int | None, cached: bool) -> None:
    result = shares(machine=dataclasses.replace(MACHINE, cache_bytes=cache))
    assert result.cached is cached
    assert ("may exceed 100 %: the model fits the last-level cache" in result.lines()[-1]) is cached


def test_lines_for_people() -> None:
    assert shares().lines() == [
        "DRAM, reading                         20.0 GB/s   1 thread 12.5",
        "f32 products                         100.0 GMAC/s   vfmadd ymm",
        "int16 products                       400.0 GMAC/s   vpdpwssd zmm",
        "int8 products                        800.0 GMAC/s   vpdpbusd zmm",
        "prefill: 100.6 million MAC per token, 20.1 GMAC/s: 5.0% of the int16 peak",
        "decode: 100.0 MB per token, 5.0 GB/s: 25.0% of the DRAM bandwidth",
    ]


REPORT = Report(
    version="1.0",
    model="gemma",
    cpu="CPU",
    isa="avx2",
    threads=2,
    compute="int14",
    prompt_len=100,
    gen_len=3,
    depth=0,
    iterations=1,
    prefill=Rates(200.0, 200.0, 200.0),
    decode=Rates(50.0, 50.0, 50.0),
    load_seconds=0.5,
    ready_seconds=None,
    peak_rss=None,
)


def test_the_report_has_it_in_words_and_as_json() -> None:
    report = dataclasses.replace(REPORT, roofline=shares())
    assert report.lines()[-6:] == shares().lines()
    data = json.loads(json.dumps(asdict(report)))["roofline"]
    assert data["machine"]["peaks"][0] == {
        "family": "f32",
        "instructions": "vfmadd ymm",
        "macs_per_second": 100e9,
    }
    assert data["decode"]["share"] == pytest.approx(0.25, rel=1e-4)
    assert json.loads(json.dumps(asdict(REPORT)))["roofline"] is None
    assert len(REPORT.lines()) == len(report.lines()) - 6


def test_medians_are_compared_and_f32_computes_with_f32(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measure(threads: int) -> Machine:
        asked.append(threads)
        return MACHINE

    monkeypatch.setattr(Machine, "measure", measure)
    host = fake_host()
    host.work = WORK
    report = with_roofline(host, REPORT)
    assert asked == [2]
    assert report.roofline == shares()
    exact = with_roofline(host, dataclasses.replace(REPORT, compute="f32")).roofline
    assert exact is not None
    assert exact.family == "f32"


def test_a_model_without_counts_is_refused() -> None:
    with pytest.raises(EngineError, match="nothing is known about the work of fake-org/fake-gemma"):
        with_roofline(fake_host(), REPORT)


def test_this_machine() -> None:
    machine = Machine.measure(2)
    assert machine.threads == 2
    assert machine.cache_bytes is None or machine.cache_bytes > 1 << 16
    # Between a slow disk and the fastest caches: what is measured is memory, in the unit that is promised.
    assert 1e8 < machine.read_bandwidth < 1e13
    assert 1e8 < machine.read_bandwidth_one < 1e13
    assert {peak.family for peak in machine.peaks} == {"f32", "int16", "int8"}
    assert all(1e7 < peak.macs_per_second < 1e15 for peak in machine.peaks)
    assert all(machine.peak(peak.family).macs_per_second >= peak.macs_per_second for peak in machine.peaks)
