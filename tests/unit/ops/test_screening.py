"""Heads in few bits, made in parts where it pays: a coarse copy, or the upper one of two planes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ostro.ops import cpu
from ostro.ops.batch import Best
from ostro.ops.cpu import CpuOps
from ostro.ops.protocol import Norm
from ostro.ops.tensor import FORMATS, Tensor
from tests.unit.ops.weights import available_isas, results, stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ostro.ops.cpu import CpuMatrix

ROWS, COLS = 3_000, 96
NOTHING = np.array([], np.int32)


@pytest.fixture(params=[isa for isa in available_isas() if isa != "scalar"])
def ops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CpuOps:
    """On a machine with memory, where a part is a single strip."""
    monkeypatch.setattr(cpu, "machine_memory", lambda: 1 << 40)
    monkeypatch.setattr(cpu, "SCREENED_AT_ONCE", 1)
    return CpuOps(2, request.param)


def head_of(ops: CpuOps, format: str = "Q8_0", cols: int = COLS) -> CpuMatrix:
    return ops.matrix(Tensor("head", FORMATS[format], (ROWS, cols), stored(format, ROWS, cols)))


def logits(ops: CpuOps, head: CpuMatrix, best: Best | None, tokens: int = 3) -> NDArray[np.float32]:
    x = np.random.default_rng(3).standard_normal((tokens, head.cols), np.float32)
    norm = Norm(np.ones(head.cols, np.float32), 1e-6)
    return ops.head(x, np.arange(tokens, dtype=np.int32), norm, head, best)


def test_the_best_keep_their_bits_at_every_pause_and_others_do_not_matter(ops: CpuOps) -> None:
    head = head_of(ops)
    everything = logits(ops, head, None)
    best = Best(4, np.array([everything[0].argmax(), ROWS + 7], np.int32))
    expected = everything.copy()
    expected[:, best.excluded[:1]] = -np.inf
    ids, values = ops.top_k(expected, 4)
    for pauses, _ in enumerate(ops.screen(head, head.data.nbytes), 1):
        assert (head.screen_nbytes is not None) == (pauses == -(-ROWS // 16))
        found = logits(ops, head, best)
        if head.screen_nbytes is None:
            np.testing.assert_array_equal(found, everything)
        different = found != everything
        found[:, best.excluded[:1]] = -np.inf
        found_ids, found_values = ops.top_k(found, 4)
        np.testing.assert_array_equal(found_ids, ids)
        np.testing.assert_array_equal(found_values, values)
    # 5.5 bits a weight, and a few numbers for each row.
    assert head.screen_nbytes is not None
    assert ROWS * COLS * 5.5 / 8 < head.screen_nbytes < ROWS * COLS * 6.2 / 8
    assert different.mean() > 0.5
    # Who wants all of them gets all of them.
    np.testing.assert_array_equal(logits(ops, head, None), everything)
    np.testing.assert_array_equal(logits(ops, head, Best(4, NOTHING), tokens=17), logits(ops, head, None, 17))


def test_dense_heads_have_copies(ops: CpuOps) -> None:
    head = head_of(ops, "F16")
    everything = logits(ops, head, None)
    list(ops.screen(head, head.data.nbytes))
    assert head.screen_nbytes is not None
    np.testing.assert_array_equal(logits(ops, head, Best(1, NOTHING)).argmax(1), everything.argmax(1))


@pytest.mark.parametrize(
    ("format", "cols", "factor", "is_copied"),
    [
        ("Q8_0", 96, 4, True),
        ("Q8_0", 96, 5, False),
        ("Q5_0", 96, 1, False),
        ("Q6_K", 256, 1, True),
        ("F16", 33, 1, False),
    ],
)
def test_there_is_a_copy_where_it_saves_enough(
    ops: CpuOps, format: str, cols: int, factor: int, is_copied: bool
) -> None:
    # Of 8.5 bits 5.5 are left, of 6.6 as well: 35 and 16 % of the head are saved.
    head = head_of(ops, format, cols)
    list(ops.screen(head, factor * head.data.nbytes))
    assert (head.screen_nbytes is not None) == is_copied


def test_there_is_no_copy_without_memory_or_of_numbers_that_are_none(
    ops: CpuOps, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    head = head_of(ops)
    monkeypatch.setattr(cpu, "machine_memory", lambda: 100_000)
    assert list(ops.screen(head, head.data.nbytes)) == []
    assert "limit 25000" in caplog.text
    monkeypatch.setattr(cpu, "machine_memory", lambda: 1 << 40)
    values = np.ones((32, 32), np.float32)
    values[20, 3] = np.inf
    data = values.reshape(-1).view(np.uint8)
    data.flags.writeable = False
    broken = ops.matrix(Tensor("head", FORMATS["F32"], (32, 32), data))
    assert len(list(ops.screen(broken, data.nbytes))) == 1
    assert "row 20 has a weight that is not a finite number" in caplog.text
    assert broken.screen_nbytes is None


def test_exact_products_and_plain_code_have_no_copy() -> None:
    for ops in (CpuOps(2, compute="f32"), CpuOps(2, "scalar")):
        head = head_of(ops)
        assert list(ops.screen(head, head.data.nbytes)) == []
        assert head.screen_nbytes is None


def test_a_complete_copy_is_not_made_again(ops: CpuOps) -> None:
    head = head_of(ops)
    list(ops.screen(head, head.data.nbytes))
    with pytest.raises(ValueError, match="has all rows"):
        head.extend_screen(ops._team, ROWS)


HEAD_ROWS = 3_008


def split_head(ops: CpuOps, data: NDArray[np.uint8]) -> CpuMatrix:
    return ops.matrix(Tensor("head", FORMATS["Q8_0"], (HEAD_ROWS, COLS), data))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "has_huge_pages", lambda: True)
    monkeypatch.setattr(cpu, "REPACKED_AT_ONCE", 100_000)


@pytest.mark.usefixtures("small_parts")
def test_a_head_in_planes_keeps_its_bits_at_every_pause(ops: CpuOps) -> None:
    data = stored("Q8_0", HEAD_ROWS, COLS)
    head, plain = split_head(ops, data), split_head(ops, data)
    expected = results(ops._team, plain)
    everything = logits(ops, plain, None)
    consumed: list[int] = []
    for pauses, _ in enumerate(ops.repack([head], lambda part: consumed.append(part.nbytes), head), 1):
        assert head.moved == min(HEAD_ROWS, pauses * 976)
        assert (head.screen_nbytes is not None) == (head.moved == HEAD_ROWS)
        assert results(ops._team, head) == expected
        found = logits(ops, head, Best(1, NOTHING))
        np.testing.assert_array_equal(found.argmax(1), everything.argmax(1))
        np.testing.assert_array_equal(found.max(1), everything.max(1))
    assert pauses == 4
    assert sum(consumed) == data.nbytes
    assert head.screen_nbytes is not None
    assert HEAD_ROWS * COLS * 5.5 / 8 < head.screen_nbytes < HEAD_ROWS * COLS * 6.2 / 8
    assert (found != everything).mean() > 0.5
    # Two words and a half of a line for each row of three blocks, and no copy beside it.
    assert data.nbytes < head.split_nbytes == head.data.nbytes < 1.05 * data.nbytes
    assert list(ops.screen(head, data.nbytes)) == []


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("format", "rows", "others"), [("Q8_0", HEAD_ROWS, 5), ("Q8_0", 3_000, 0), ("Q6_K", HEAD_ROWS, 0)]
)
def test_heads_lie_in_strips_where_planes_save_little_or_do_not_fit(
    ops: CpuOps, format: str, rows: int, others: int
) -> None:
    cols = 256 if format == "Q6_K" else COLS
    matrices = [
        ops.matrix(Tensor("matrix", FORMATS[format], (rows, cols), stored(format, rows, cols, seed)))
        for seed in range(1 + others)
    ]
    expected = results(ops._team, matrices[0])
    list(ops.repack(matrices, head=matrices[0]))
    assert all(matrix.moved == rows for matrix in matrices)
    assert matrices[0].screen_nbytes is None
    assert results(ops._team, matrices[0]) == expected


@pytest.mark.usefixtures("small_parts")
def test_a_part_of_a_head_with_numbers_that_are_none_stays(
    ops: CpuOps, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    data = stored("Q8_0", HEAD_ROWS, COLS).copy()
    row_bytes = data.nbytes // HEAD_ROWS
    data[1_500 * row_bytes : 1_500 * row_bytes + 2] = np.array([np.inf], np.float16).view(np.uint8)
    data.flags.writeable = False
    head, plain = split_head(ops, data), split_head(ops, data)
    other = head_of(ops)
    pauses = len(list(ops.repack([head, other], head=head)))
    assert head.moved == 976
    assert "row 1500 has a weight that is not a finite number" in caplog.text
    assert head.screen_nbytes is None
    assert results(ops._team, head) == results(ops._team, plain)
    # What comes after it is moved.
    assert other.moved == ROWS
    assert pauses >= 4


def test_rows_are_split_in_order_and_into_one_room(ops: CpuOps) -> None:
    head = split_head(ops, stored("Q8_0", HEAD_ROWS, COLS))
    if not ops._team.reads_strips:
        pytest.skip("planes are for machines that read strips")
    room = np.empty(head.split_nbytes, np.uint8)
    with pytest.raises(ValueError, match="room"):
        head.split(ops._team, room[:-1], 16)
    with pytest.raises(ValueError, match="stop 8"):
        head.split(ops._team, room, 8)
    head.split(ops._team, room, 32)
    with pytest.raises(ValueError, match="stop 32"):
        head.split(ops._team, room, 32)
    with pytest.raises(ValueError, match="in planes"):
        head.repack(ops._team, room[: head.data.nbytes], 48)
    with pytest.raises(ValueError, match="not the one"):
        head.split(ops._team, np.empty_like(room), 48)
    moved = head_of(ops)
    moved.repack(ops._team, np.empty(moved.data.nbytes, np.uint8), 16)
    with pytest.raises(ValueError, match="whole strips"):
        moved.split(ops._team, np.empty(moved.split_nbytes, np.uint8), 32)
