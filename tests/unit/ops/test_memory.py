"""Memory of the machine, and pieces of it."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ostro.ops import memory
from ostro.ops.memory import has_huge_pages, huge_room, machine_memory

if TYPE_CHECKING:
    from pathlib import Path

HUGE_PAGE = 2 << 20


def test_machine_memory_is_plausible() -> None:
    assert 2**24 < machine_memory() < 2**50


def test_the_narrowest_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: dict[str, int | None] = {"/proc/meminfo": 5 << 30, "/sys/fs/cgroup/memory.max": None}

    def number(path: str, label: str = "", unit: int = 1) -> int | None:
        return limits.get(path)

    monkeypatch.setattr(memory, "_number", number)
    assert machine_memory() == 5 << 30
    limits["/sys/fs/cgroup/memory.max"] = 3 << 30
    assert machine_memory() == 3 << 30
    limits.clear()
    assert machine_memory() == 8 << 30


@pytest.mark.parametrize(
    ("text", "label", "number"),
    [
        ("MemTotal: 16 kB\nMemAvailable:   12 kB\n", "MemAvailable:", 12 << 10),
        ("MemTotal: 16 kB\n", "MemAvailable:", None),
        ("4096\n", "", 4 << 20),
        ("max\n", "", None),
        ("", "", None),
        (None, "", None),
    ],
)
def test_numbers_in_files_of_the_system(
    tmp_path: Path, text: str | None, label: str, number: int | None
) -> None:
    file = tmp_path / "limit"
    if text is not None:
        file.write_text(text)
    assert memory._number(str(file), label, 1 << 10) == number


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("always [madvise] never\n", True),
        ("[always] madvise never\n", True),
        ("always madvise [never]\n", False),
        (None, False),
    ],
)
def test_huge_pages_as_the_system_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str | None, expected: bool
) -> None:
    file = tmp_path / "enabled"
    if setting is not None:
        file.write_text(setting)
    monkeypatch.setattr(memory, "_SETTING", file)
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 14, raising=False)
    assert has_huge_pages() is expected


@pytest.mark.parametrize("huge", [True, False])
@pytest.mark.parametrize("size", [0, 1, 5000, HUGE_PAGE, 2 * HUGE_PAGE + 1])
def test_a_room_begins_with_a_huge_page_and_is_empty(
    monkeypatch: pytest.MonkeyPatch, size: int, huge: bool
) -> None:
    if huge and not has_huge_pages():
        pytest.skip("this system has no huge pages")
    monkeypatch.setattr(memory, "has_huge_pages", lambda: huge)
    room = huge_room(size)
    assert room.dtype == np.uint8
    assert room.shape == (size,)
    assert room.__array_interface__["data"][0] % HUGE_PAGE == 0
    assert not room.any()
    room[:] = 7
    assert (room == 7).all()
    assert not np.shares_memory(room, huge_room(size))


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(OSError, match="Cannot allocate memory"):
        huge_room(1 << 60)
