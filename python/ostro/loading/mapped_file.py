"""Mapping a file of weights into memory."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from ostro.errors import CorruptFile, ModelNotFound

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_POINTER = b"version https://git-lfs"


def map_file(path: Path) -> mmap.mmap:
    """The whole file, read-only.

    ModelNotFound without such a file; CorruptFile when it cannot be read, is empty, or is a pointer that
    Git LFS left in place of the model.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path}: no such file") from error
    except ValueError as error:
        raise CorruptFile(f"{path}: the file is empty") from error
    except OSError as error:
        raise CorruptFile(f"{path}: cannot be read: {error.strerror}") from error
    if mapped[: len(_POINTER)] == _POINTER:
        raise CorruptFile(f"{path}: this is a Git LFS pointer, not the model itself; run `git lfs pull`")
    return mapped


def unload(mapped: mmap.mmap, size: int) -> None:
    """Give back the memory of the first `size` bytes; what is read again comes from the file again.

    Without effect where the system cannot do that, and on what shares a page with the bytes that follow.
    """
    whole_pages = min(size, len(mapped)) // mmap.PAGESIZE * mmap.PAGESIZE
    if whole_pages and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED, 0, whole_pages)


def release(data: NDArray[np.uint8]) -> None:
    """Give back the memory of a view of a mapped file; what is read again comes from the file again.

    Without effect on anything else, and on what shares a page with the bytes around it.
    """
    if hasattr(mmap, "MADV_DONTNEED"):
        _advise(data, mmap.MADV_DONTNEED)


def will_need(data: NDArray[np.uint8]) -> None:
    """Have the system read a view of a mapped file ahead of its use; without effect on anything else."""
    if hasattr(mmap, "MADV_WILLNEED"):
        _advise(data, mmap.MADV_WILLNEED)


def _advise(data: NDArray[np.uint8], advice: int) -> None:
    owner: Any = data
    while isinstance(owner, np.ndarray):
        owner = owner.base
    mapped = owner.obj if isinstance(owner, memoryview) else owner
    if not isinstance(mapped, mmap.mmap) or not len(data):
        return
    start = _address(data) - _address(np.frombuffer(mapped, np.uint8))
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (start + data.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last:
        mapped.madvise(advice, first, last - first)


def _address(data: NDArray[np.uint8]) -> int:
    return int(data.__array_interface__["data"][0])
