"""`CpuOps.repack`: all weights of a model, in parts, where there is memory for it."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from ostro.ops import cpu
from ostro.ops.cpu import CpuOps
from ostro.ops.tensor import FORMATS, Tensor
from tests.unit.ops.weights import available_isas, results, stored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ostro.ops.cpu import CpuMatrix

SHAPES = (("Q4_K", 100, 512), ("F16", 40, 96), ("Q8_0", 16, 544), ("Q6_K", 33, 256))


@pytest.fixture(params=available_isas())
def ops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CpuOps:
    """On a machine with memory and huge pages, where a part is a single strip."""
    monkeypatch.setattr(cpu, "machine_memory", lambda: 1 << 40)
    monkeypatch.setattr(cpu, "has_huge_pages", lambda: True)
    monkeypatch.setattr(cpu, "REPACKED_AT_ONCE", 1)
    return CpuOps(2, request.param)


def matrices_of(ops: CpuOps) -> list[CpuMatrix]:
    return [
        ops.matrix(Tensor(f"w{i}", FORMATS[format], (rows, cols), stored(format, rows, cols, seed=i)))
        for i, (format, rows, cols) in enumerate(SHAPES)
    ]


def moved(matrices: list[CpuMatrix]) -> list[int]:
    return [matrix.moved for matrix in matrices]


def all_results(ops: CpuOps, matrices: list[CpuMatrix]) -> list[list[bytes]]:
    return [results(ops._team, matrix) for matrix in matrices]


def test_results_keep_their_bits_at_every_pause(ops: CpuOps) -> None:
    matrices = matrices_of(ops)
    before = all_results(ops, matrices)
    seen = []
    for _ in ops.repack(matrices):
        seen.append(sum(moved(matrices)))
        assert all_results(ops, matrices) == before
    assert moved(matrices) == [rows for _, rows, _ in SHAPES]
    assert seen == sorted(set(seen))
    assert len(seen) == 7 + 3 + 1 + 3


def test_parts_are_as_large_as_is_said(ops: CpuOps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "REPACKED_AT_ONCE", 3 * 16 * FORMATS["Q4_K"].row_bytes(512))
    [matrix] = matrices = matrices_of(ops)[:1]
    assert [matrix.moved for _ in ops.repack(matrices)] == [48, 96, 100]


def test_what_nobody_reads_any_more_is_told_once_and_in_order(ops: CpuOps) -> None:
    matrices = matrices_of(ops)
    sources = [matrix.data for matrix in matrices]
    told: list[tuple[int, int]] = []

    def consumed(data: NDArray[np.uint8]) -> None:
        told.append((data.__array_interface__["data"][0], data.nbytes))

    for _ in ops.repack(matrices, consumed):
        pass
    for source in sources:
        at = source.__array_interface__["data"][0]
        end = at + source.nbytes
        while at < end:
            start, size = told.pop(0)
            assert start == at
            assert size > 0
            at += size
        assert at == end
    assert told == []


def test_each_source_is_let_go_as_soon_as_it_is_moved(ops: CpuOps) -> None:
    matrices = matrices_of(ops)
    sources = [weakref.ref(matrix.data) for matrix in matrices]
    for _ in ops.repack(matrices):
        gc.collect()
        for index, (matrix, source) in enumerate(zip(matrices, sources, strict=True)):
            # The generator itself may hold the one that it is at.
            if matrix.moved == matrix.rows and index + 1 < len(matrices) and matrices[index + 1].moved:
                assert source() is None
    assert [source() for source in sources] == [None] * len(sources)


def test_matrices_lie_apart_in_one_piece_of_memory(ops: CpuOps) -> None:
    matrices = matrices_of(ops)
    list(ops.repack(matrices))
    end = matrices[0].data.__array_interface__["data"][0]
    assert end % (2 << 20) == 0
    for matrix in matrices:
        start = matrix.data.__array_interface__["data"][0]
        assert start % 64 == 0
        assert end <= start < end + 64
        end = start + matrix.data.nbytes


def test_half_of_the_memory_is_left_alone(ops: CpuOps, monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = matrices_of(ops)
    size = sum(-(-matrix.data.nbytes // 64) * 64 for matrix in matrices)
    monkeypatch.setattr(cpu, "machine_memory", lambda: 2 * size - 1)
    assert list(ops.repack(matrices)) == []
    assert moved(matrices) == [0] * len(matrices)
    monkeypatch.setattr(cpu, "machine_memory", lambda: 2 * size)
    list(ops.repack(matrices))
    assert moved(matrices) == [rows for _, rows, _ in SHAPES]


def test_without_memory_weights_stay_where_they_are(ops: CpuOps, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(size: int) -> None:
        raise OSError(12, f"no {size} bytes")

    monkeypatch.setattr(cpu, "huge_room", refused)
    matrices = matrices_of(ops)
    before = all_results(ops, matrices)
    assert list(ops.repack(matrices)) == []
    assert moved(matrices) == [0] * len(matrices)
    assert all_results(ops, matrices) == before


def in_strips(ops: CpuOps, matrices: list[CpuMatrix]) -> list[int]:
    """Rows of what is moved for the sake of strips."""
    return [m.rows if ops._team.reads_strips and m.has_strips else 0 for m in matrices]


def test_where_nothing_is_gained_nothing_is_moved(ops: CpuOps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "has_huge_pages", lambda: False)
    matrices = matrices_of(ops)
    list(ops.repack(matrices))
    assert moved(matrices) == in_strips(ops, matrices)


def test_many_weights_are_moved_into_strips_only(ops: CpuOps, monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = matrices_of(ops)
    size = sum(matrix.data.nbytes for matrix in matrices)
    monkeypatch.setattr(cpu, "LARGEST_COPY", size - 1)
    list(ops.repack(matrices))
    assert moved(matrices) == in_strips(ops, matrices)
    monkeypatch.setattr(cpu, "LARGEST_COPY", size)
    matrices = matrices_of(ops)
    list(ops.repack(matrices))
    assert moved(matrices) == [rows for _, rows, _ in SHAPES]


def test_no_weights_are_no_work(ops: CpuOps) -> None:
    assert list(ops.repack([])) == []


def test_products_with_f32_activations_keep_their_rows(ops: CpuOps) -> None:
    exact = CpuOps(2, ops.describe()["isa"], "f32")
    matrices = matrices_of(exact)
    assert list(exact.repack(matrices)) == []
    assert moved(matrices) == [0] * len(SHAPES)
