"""`Matrix.repack`: weights move, results stay."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ostro import _kernels
from tests.unit.ops.weights import available_isas, results, stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLS = {"Q4_K": 512, "Q6_K": 768, "Q5_0": 288, "Q8_0": 544, "F16": 96, "MXFP4": 96}
IN_STRIPS = ("Q4_K", "Q5_0", "Q6_K", "Q8_0")


@pytest.fixture(scope="module", params=available_isas())
def team(request: pytest.FixtureRequest) -> _kernels.Team:
    return _kernels.Team(2, request.param)


def some(format: str = "Q8_0", rows: int = 40) -> tuple[_kernels.Matrix, NDArray[np.uint8]]:
    """A matrix and a room for it."""
    data = stored(format, rows, COLS[format])
    return _kernels.Matrix(data, format, rows, COLS[format]), np.empty(data.nbytes, np.uint8)


@pytest.mark.parametrize("rows", [16, 40, 100])
@pytest.mark.parametrize("format", COLS)
def test_results_keep_their_bits_all_the_way(team: _kernels.Team, format: str, rows: int) -> None:
    matrix, room = some(format, rows)
    before = results(team, matrix)
    for stop in [*range(16, rows, 32), rows]:
        matrix.repack(team, room, stop)
        assert matrix.moved == stop
        assert results(team, matrix) == before


@pytest.mark.parametrize("format", COLS)
def test_whole_strips_are_packed_where_products_read_them_faster(team: _kernels.Team, format: str) -> None:
    rows = 40
    matrix, room = some(format, rows)
    source = matrix.data
    matrix.repack(team, room, rows)
    size = len(source) // rows
    packed = 32 if team.reads_strips and format in IN_STRIPS else 0
    for start in range(0, packed, 16):
        strip = slice(start * size, (start + 16) * size)
        assert room[strip].tobytes() != source[strip].tobytes()
    assert room[packed * size :].tobytes() == source[packed * size :].tobytes()


def test_a_room_may_begin_anywhere(team: _kernels.Team) -> None:
    matrix, room = some()
    before = results(team, matrix)
    matrix.repack(team, np.empty(len(room) + 1, np.uint8)[1:], 40)
    assert results(team, matrix) == before


def test_the_source_is_let_go_when_all_is_moved(team: _kernels.Team) -> None:
    matrix, room = some()
    source = weakref.ref(matrix.data)
    matrix.repack(team, room, 16)
    assert matrix.data is source()
    matrix.repack(team, room, 40)
    assert source() is None
    assert matrix.data is room


def test_a_matrix_keeps_its_room_alive(team: _kernels.Team) -> None:
    matrix, room = some()
    before = results(team, matrix)
    matrix.repack(team, room, 32)
    kept = weakref.ref(room)
    del room
    assert kept() is not None
    assert results(team, matrix) == before


def wrong_calls() -> dict[str, tuple[type[Exception], str]]:
    return {
        "too small": (ValueError, "room: not the one for this matrix"),
        "too large": (ValueError, "room: not the one for this matrix"),
        "with gaps": (ValueError, "room: not contiguous"),
        "another room": (ValueError, "room: not the one for this matrix"),
        "read-only": (TypeError, "not writeable"),
        "no whole strip": (ValueError, "stop 24: 16 of 40 rows are moved, in strips of 16"),
        "beyond the end": (ValueError, "stop 48: 16 of 40 rows are moved, in strips of 16"),
        "not beyond what is moved": (ValueError, "stop 16: 16 of 40 rows are moved, in strips of 16"),
    }


@pytest.mark.parametrize("wrong", wrong_calls())
def test_wrong_arguments_are_refused_and_change_nothing(team: _kernels.Team, wrong: str) -> None:
    matrix, room = some()
    before = results(team, matrix)
    matrix.repack(team, room, 16)
    read_only = room.view()
    read_only.flags.writeable = False
    other: dict[str, NDArray[np.uint8]] = {
        "too small": room[:-1],
        "too large": np.empty(len(room) + 1, np.uint8),
        "with gaps": np.empty(2 * len(room), np.uint8)[::2],
        "another room": np.empty_like(room),
        "read-only": read_only,
    }
    stops = {"no whole strip": 24, "beyond the end": 48, "not beyond what is moved": 16}
    error, message = wrong_calls()[wrong]
    with pytest.raises(error, match=message):
        matrix.repack(team, other.get(wrong, room), stops.get(wrong, 32))
    assert matrix.moved == 16
    assert results(team, matrix) == before
    matrix.repack(team, room, 40)
    assert matrix.moved == 40
    assert results(team, matrix) == before
    with pytest.raises(ValueError, match="stop 40: 40 of 40 rows are moved"):
        matrix.repack(team, room, 40)


def test_others_read_meanwhile(team: _kernels.Team) -> None:
    rows = 16 * 100
    matrix, room = some("Q4_K", rows)
    expected = matrix.dequantize(0, rows).tobytes()
    done, wrong = threading.Event(), threading.Event()
    readings: list[int] = []

    def read() -> None:
        while not done.is_set():
            if matrix.dequantize(0, rows).tobytes() != expected:
                wrong.set()
            readings.append(matrix.moved)

    reader = threading.Thread(target=read)
    reader.start()
    for stop in range(16, rows + 1, 16):
        matrix.repack(team, room, stop)
    while not readings or readings[-1] < rows:
        assert reader.is_alive()
        time.sleep(0.001)
    done.set()
    reader.join(30)
    assert not wrong.is_set()
