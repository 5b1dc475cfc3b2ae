"""Weights of small models, copied from their file into huge pages.

Each step reads all weights. From a mapped file they come through pages of 4 KiB, at whose ends the
processor's prefetchers stop, and each of which needs an address translation of its own. Copying takes time,
and copies cannot be shared with other processes: large models, which gain less, are left where they are.
"""

from __future__ import annotations

import logging
import mmap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ostro.loading.mapped_file import release

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ostro.loading.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

LARGEST = 512 << 20
"""Bytes of the text half's weights above which they stay where they are: see docs/decisions.md."""
_HUGE_PAGE = 2 << 20
_CACHE_LINE = 64
_PART = 8 << 20
"""Bytes that are copied at a time: as many more than the weights are resident, for each thread."""
_THREADS = 2
"""More of them gain little: the system clears the pages."""
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def in_huge_pages(checkpoint: Checkpoint) -> Checkpoint:
    """The same with the text half's weights in huge pages; itself if they are many or there are none."""
    tensors = checkpoint.tensors
    # In the order of the file: a step reads them in nearly the same.
    order = sorted(tensors, key=lambda name: tensors[name].data.__array_interface__["data"][0])
    starts, size = {}, 0
    for name in order:
        starts[name] = size
        size += -(-tensors[name].data.nbytes // _CACHE_LINE) * _CACHE_LINE
    if not _HUGE_PAGE <= size <= LARGEST or not _available():
        return checkpoint
    try:
        room = _room(size)
    except OSError as error:
        logger.info("%s: no memory for huge pages: %s", checkpoint.name, error)
        return checkpoint

    def copy(part: tuple[str, int]) -> None:
        name, first = part
        source = tensors[name].data[first : first + _PART]
        np.copyto(room[starts[name] + first :][: source.nbytes], source)
        release(source)

    # numpy copies without Python's lock; new pages cost more than the copy.
    parts = [(name, first) for name in order for first in range(0, tensors[name].data.nbytes, _PART)]
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(copy, parts))
    room.flags.writeable = False
    copies = {name: room[starts[name] :][: tensors[name].data.nbytes] for name in order}
    return replace(
        checkpoint, tensors={name: replace(tensor, data=copies[name]) for name, tensor in tensors.items()}
    )


def _available() -> bool:
    try:
        setting = _SETTING.read_text()
    except OSError:
        return False
    return "[never]" not in setting and hasattr(mmap, "MADV_HUGEPAGE")


def _room(size: int) -> NDArray[np.uint8]:
    """New memory that starts with a huge page. OSError when there is not enough."""
    mapped = mmap.mmap(-1, size + 2 * _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = np.frombuffer(mapped, np.uint8)
    first = -memory.__array_interface__["data"][0] % _HUGE_PAGE
    mapped.madvise(mmap.MADV_HUGEPAGE)
    return memory[first : first + size]
