"""Memory of this machine: how much there is, and large pieces of it."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HUGE_PAGE = 2 << 20
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def machine_memory() -> int:
    """Bytes that this process may use, as far as the operating system tells: a bound, not a promise."""
    limits = [
        _number("/proc/meminfo", "MemAvailable:", 1 << 10),
        _number("/sys/fs/cgroup/memory.max"),
        _number("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ]
    return min((limit for limit in limits if limit is not None), default=8 << 30)


def has_huge_pages() -> bool:
    """Whether the system makes huge pages for whoever asks."""
    try:
        setting = _SETTING.read_text()
    except OSError:
        return False
    return "[never]" not in setting and hasattr(mmap, "MADV_HUGEPAGE")


def huge_room(size: int) -> NDArray[np.uint8]:
    """New memory that starts with a page, a huge one where there are some. OSError when there is not enough.

    Nothing is resident before it is written.
    """
    mapped = mmap.mmap(-1, size + 2 * _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = np.frombuffer(mapped, np.uint8)
    first = -memory.__array_interface__["data"][0] % _HUGE_PAGE
    if has_huge_pages():
        mapped.madvise(mmap.MADV_HUGEPAGE)
    return memory[first : first + size]


def _number(path: str, label: str = "", unit: int = 1) -> int | None:
    """The number after `label` in a file, times `unit`; None without such a file or number ("max")."""
    try:
        text = Path(path).read_text()
        return int(text[text.index(label) + len(label) :].split(maxsplit=1)[0]) * unit
    except (OSError, ValueError, IndexError):
        return None
