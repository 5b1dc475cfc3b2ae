"""A streaming writer of GGUF files, version 3: one tensor in memory at a time.

Source: the GGUF specification in the ggml project. The file appears under its name when it is complete.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ostro.errors import CannotWrite, UnsupportedExport
from ostro.loading.gguf_values import encoded_text, encoded_value
from ostro.loading.mapped_file import release
from ostro.ops.tensor import BY_GGML_TYPE, Format, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from ostro.loading.checkpoint import Progress
    from ostro.loading.gguf_values import Value

ALIGNMENT = 32
MAX_DIMENSIONS = 4
_CHUNK = 16 << 20
_ACTIVATIONS = ("Q8_1", "Q8_K")
"""ggml knows these as formats of activations: it has no product with weights stored so."""


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor to be written: what is known before its weights are.

    shape: outermost dimension first. read: makes the bytes, when it is their turn; uint8 [bytes].
    """

    name: str
    format: Format
    shape: tuple[int, ...]
    read: Callable[[], NDArray[np.uint8]]

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> Part:
        """A tensor that is at hand, or mapped."""
        return cls(name, tensor.format, tensor.shape, lambda: tensor.data)

    def first_rows(self, rows: int) -> Part:
        """The first rows of a matrix."""
        size = self.format.row_bytes(self.shape[1]) * rows
        return replace(self, shape=(rows, self.shape[1]), read=lambda: self.read()[:size])

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return self.format.row_bytes(self.shape[-1]) * math.prod(self.shape[:-1])


def write_gguf(
    path: Path, metadata: Mapping[str, Value], parts: Sequence[Part], progress: Progress | None = None
) -> None:
    """Write `parts` in their order; `path` is replaced when everything is written, and untouched if not.

    progress: told the bytes of the whole file.
    UnsupportedExport for a number format that llama.cpp cannot multiply with; CannotWrite for a target that
    is a folder or not writable, or a disk without room, which is looked at before the work.
    """
    for part in parts:
        _check_format(part, path)
    head = _head(metadata, parts)
    total = len(head) + sum(_padded(part.size) for part in parts)
    _check_target(path, total)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    report = _Report(path.name, total, progress)
    try:
        try:
            with unfinished.open("wb") as file:
                _write(file, head, report)
                for part in parts:
                    _write_part(file, part, report)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise CannotWrite(f"{path}: {_explained(error, total)}") from error


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _check_format(part: Part, path: Path) -> None:
    if part.format.name in _ACTIVATIONS or part.format not in BY_GGML_TYPE.values():
        raise UnsupportedExport(
            f"{path}: {part.name} is {part.format.name}, and GGUF files have no such weights; write UQFF,"
            " which has all formats, or choose one of Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K"
        )
    if not 0 < len(part.shape) <= MAX_DIMENSIONS:
        raise UnsupportedExport(f"{path}: {part.name} has {len(part.shape)} dimensions; GGUF has 1 to 4")


def _check_target(path: Path, size: int) -> None:
    if path.is_dir():
        raise CannotWrite(f"{path}: is a folder; give the name of a file, such as {path / 'model.gguf'}")
    if not path.parent.is_dir():
        raise CannotWrite(f"{path}: there is no folder {path.parent}; make it first")
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise CannotWrite(
            f"{path}: needs {size / 1e9:.1f} GB, but {path.parent} has {free / 1e9:.1f} GB left; free some,"
            " or write to another disk"
        )


def _head(metadata: Mapping[str, Value], parts: Sequence[Part]) -> bytes:
    """Everything before the weights, which begin at a multiple of the alignment."""
    out = [b"GGUF", struct.pack("<IQQ", 3, len(parts), len(metadata))]
    for key, value in metadata.items():
        out += (encoded_text(key), encoded_value(value))
    offset = 0
    for part in parts:
        dims = tuple(reversed(part.shape))
        entry = struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, part.format.ggml_type, offset)
        out += (encoded_text(part.name), entry)
        offset += _padded(part.size)
    head = b"".join(out)
    return head + bytes(-len(head) % ALIGNMENT)


class _Report:
    """Bytes written so far, told to whoever wants to know."""

    def __init__(self, what: str, total: int, progress: Progress | None) -> None:
        self._what = what
        self._total = total
        self._progress = progress
        self._done = 0

    def add(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(self._what, self._done, self._total)


def _write(file: BinaryIO, data: bytes | memoryview, report: _Report) -> None:
    file.write(data)
    report.add(len(data))


def _write_part(file: BinaryIO, part: Part, report: _Report) -> None:
    data = np.ascontiguousarray(part.read()).reshape(-1).view(np.uint8)
    if data.size != part.size:
        raise ValueError(f"{part.name}: {data.size} bytes instead of {part.size}")
    for start in range(0, data.size, _CHUNK):
        chunk = data[start : start + _CHUNK]
        _write(file, chunk.data, report)
        release(chunk)
    _write(file, bytes(-data.size % ALIGNMENT), report)


def _explained(error: OSError, size: int) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full; the file needs {size / 1e9:.1f} GB"
    return f"cannot be written: {error.strerror or error}"
