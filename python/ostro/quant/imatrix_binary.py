"""The two layouts of importance matrices that are not GGUF: llama.cpp's older one and mistral.rs's.

Both are little-endian lists of (name, values) without a magic number. Lengths are compared with the bytes
that remain before anything is read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from ostro.errors import CorruptFile, UnknownTensor
from ostro.loading.mapped_file import map_file
from ostro.loading.names import as_mistral_rs, canonical_to_gguf, gguf_to_canonical, hugging_face_to_canonical
from ostro.quant.importance import CHUNK_SIZE, Importance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

MAX_NAME = 1 << 10


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor under the file's own name: mean squares float32 [cols], and rows seen."""

    name: str
    values: NDArray[np.float32]
    rows: int


def to_importance(
    entries: Iterable[Entry],
    rename: Callable[[str], str | None],
    path: Path,
    *,
    datasets: tuple[str, ...] = (),
    chunk_size: int = CHUNK_SIZE,
) -> Importance:
    """Rename and check; CorruptFile for repeated names and values that no mean square has, UnknownTensor."""
    values: dict[str, NDArray[np.float32]] = {}
    rows: dict[str, int] = {}
    for entry in entries:
        canonical = rename(entry.name)
        if canonical is None:
            raise UnknownTensor(
                f"{path}: Gemma 3 has no place for {entry.name[:80]!r}; "
                "the importance matrix is that of another model"
            )
        if canonical in values:
            raise CorruptFile(f"{path}: {entry.name[:80]!r} appears twice")
        if not np.all((entry.values >= 0) & np.isfinite(entry.values)):
            raise CorruptFile(f"{path}: the values of {entry.name!r} must be finite and not negative")
        values[canonical], rows[canonical] = entry.values, entry.rows
    if not values:
        raise CorruptFile(f"{path}: the importance matrix is empty")
    return Importance(values, rows, datasets=datasets, chunk_size=chunk_size)


def parse_dat(path: Path) -> Importance:
    """llama.cpp's older layout: `int32` counts, names, numbers of chunks, values times those."""
    cursor = _Cursor(path)
    entries = []
    for _ in range(cursor.count("<i", smallest=16)):
        name = cursor.text("<i")
        (chunks,) = cursor.unpack("<i")
        values = cursor.floats("<i")
        if chunks < 0:
            cursor.corrupt(f"{name!r} claims {chunks} chunks")
        # What is no number is refused by `to_importance`.
        with np.errstate(invalid="ignore"):
            values = values / np.float32(chunks or 1)
        entries.append(Entry(name, values, chunks * CHUNK_SIZE))
    datasets: tuple[str, ...] = ()
    if cursor.left >= 8:  # the oldest files end before
        cursor.unpack("<i")
        datasets = (cursor.text("<i", limit=1 << 16),)
    return to_importance(entries, gguf_to_canonical, path, datasets=datasets)


def pack_dat(importance: Importance) -> bytes:
    """What `parse_dat` and llama.cpp read. The layout knows one text and no size of chunks."""
    parts = [struct.pack("<i", len(importance))]
    chunks = 0
    for name, values in importance.items():
        own = canonical_to_gguf(name).encode()
        count = max(1, -(-importance.rows[name] // importance.chunk_size))
        chunks = max(chunks, count)
        parts += [struct.pack("<i", len(own)), own, struct.pack("<ii", count, len(values))]
        parts.append((values * np.float32(count)).astype("<f4").tobytes())
    text = (importance.datasets[-1] if importance.datasets else "").encode()
    return b"".join([*parts, struct.pack("<ii", chunks, len(text)), text])


def parse_collected(path: Path) -> Importance:
    """mistral.rs's `.cimatrix`: `uint64` lengths, names without ".weight", values times a number of calls.

    The file does not tell that number; it is the same for all columns of a tensor.
    """
    cursor = _Cursor(path)
    entries = []
    for _ in range(cursor.count("<Q", smallest=20)):
        name = cursor.text("<Q")
        entries.append(Entry(name, cursor.floats("<Q"), 0))
    if cursor.left:
        cursor.corrupt(f"{cursor.left:,} bytes follow the last tensor")
    return to_importance(entries, lambda name: hugging_face_to_canonical(f"{name}.weight"), path)


def pack_collected(importance: Importance, *, vision: bool) -> bytes:
    """What mistral.rs reads for the text model; it knows no importance of the image half.

    vision: the checkpoint has an image half, which is part of the names of the text model.
    """
    parts = []
    for name, values in importance.items():
        if name.startswith(("vision.", "projector.")):
            continue
        own = as_mistral_rs(name, sees=vision).removesuffix(".weight").encode()
        parts += [struct.pack("<Q", len(own)), own, struct.pack("<Q", len(values))]
        parts.append(values.astype("<f4").tobytes())
    return struct.pack("<Q", len(parts) // 4) + b"".join(parts)


class _Cursor:
    """A position in the mapped file, moved only by what fits into the rest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.map = map_file(path)
        self.position = 0

    @property
    def left(self) -> int:
        return len(self.map) - self.position

    def corrupt(self, problem: str) -> NoReturn:
        raise CorruptFile(f"{self.path}: not an importance matrix, or a damaged one: {problem}")

    def advance(self, size: int) -> int:
        if not 0 <= size <= self.left:
            self.corrupt(f"{size:,} bytes are claimed at {self.position:,}, {self.left:,} are left")
        start = self.position
        self.position += size
        return start

    def unpack(self, layout: str) -> tuple[int, ...]:
        return struct.unpack_from(layout, self.map, self.advance(struct.calcsize(layout)))

    def count(self, layout: str, *, smallest: int) -> int:
        """A number of entries, each of which takes at least `smallest` bytes."""
        (count,) = self.unpack(layout)
        if not 0 < count <= self.left // smallest:
            self.corrupt(f"{count:,} tensors are claimed by {self.left:,} bytes")
        return count

    def text(self, layout: str, *, limit: int = MAX_NAME) -> str:
        (size,) = self.unpack(layout)
        if size > limit:
            self.corrupt(f"a text of {size:,} bytes is claimed, the limit is {limit:,}")
        start = self.advance(size)
        try:
            return self.map[start : self.position].decode()
        except UnicodeDecodeError:
            self.corrupt(f"the text at {start:,} is not UTF-8")

    def floats(self, layout: str) -> NDArray[np.float32]:
        (count,) = self.unpack(layout)
        if count < 1:
            self.corrupt(f"{count} values are claimed at {self.position:,}")
        start = self.advance(count * 4)
        return np.frombuffer(self.map, "<f4", count, start).astype(np.float32)
