"""Mapping a file of weights into memory."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

from ostro.errors import CorruptFile, ModelNotFound

if TYPE_CHECKING:
    from pathlib import Path

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
