"""A memory-mapped reader of GGUF files, versions 2 and 3, that trusts nothing it reads.

Source: the GGUF specification in the ggml project. Every length is compared with the bytes that remain before
anything is allocated, so memory and time stay in proportion to the file.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ostro.errors import CorruptFile, UnsupportedModel
from ostro.loading.gguf_strings import short_strings
from ostro.loading.mapped_file import map_file, unload
from ostro.ops.tensor import BY_GGML_TYPE, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_ENTRIES = 1 << 16
"""Most metadata keys, and most tensors, of one file."""
MAX_OBJECTS = 1 << 20
"""Most elements of an array whose elements become Python objects."""
MAX_TEXT = 16 << 20
PACKED_FROM = 1 << 10
"""Arrays of texts are packed if they are at least this long."""
MAX_NAME = 1 << 10
MAX_NESTING = 4
MAX_DIMENSIONS = 4

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_STRUCTS = {kind: struct.Struct("<" + code) for kind, code in _SCALARS.items()}
_DTYPES = {
    0: "u1",
    1: "i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_BOOL, _STRING, _ARRAY = 7, 8, 9

_OTHER_TYPES = {
    4: "Q4_2", 5: "Q4_3", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32",
    27: "I64", 28: "F64", 29: "IQ1_M", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 34: "TQ1_0",
    35: "TQ2_0", 36: "IQ4_NL_4_4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Info:
    """A tensor's entry: dimensions innermost first, offset from the start of the data."""

    name: str
    dims: tuple[int, ...]
    ggml_type: int
    offset: int


class GgufFile:
    """An opened file. The map stays open for as long as any view of it lives.

    metadata: numbers, bools and texts as Python values, arrays of numbers as read-only numpy views, long
        arrays of texts as PackedTexts where that can hold them, other arrays as lists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        cursor = _Cursor(path)
        key_count, tensor_count = cursor.header()
        self.metadata: dict[str, Any] = {}
        for key, value in cursor.entries(key_count):
            if key in self.metadata:
                cursor.corrupt(f"metadata key {_shown(key)} appears twice")
            self.metadata[key] = value
        self._infos = [cursor.tensor_info(number) for number in range(tensor_count)]
        self._alignment = _alignment(self.metadata, path)
        self._map = cursor.map
        self._data_start = math.ceil(cursor.position / self._alignment) * self._alignment

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as views of the map, in the order of the file.

        CorruptFile when extents leave the file, overlap or repeat a name; UnsupportedModel for a number
        format that ostro does not read.
        """
        available = max(0, len(self._map) - self._data_start)
        result: dict[str, Tensor] = {}
        extents: list[tuple[int, int, str]] = []
        for info in self._infos:
            if info.name in result:
                self._corrupt(info, "appears twice")
            fmt = BY_GGML_TYPE.get(info.ggml_type)
            if fmt is None:
                kind = _OTHER_TYPES.get(info.ggml_type, f"the unknown type {info.ggml_type}")
                known = ", ".join(fmt.name for fmt in BY_GGML_TYPE.values())
                raise UnsupportedModel(
                    f"{self.path}: tensor {_shown(info.name)} is stored as {kind}, which ostro does not read;"
                    f" take a file in one of {known} (Q4_K_M, Q5_K_M, Q6_K and Q8_0 files are)"
                )
            if info.dims[0] % fmt.block:
                self._corrupt(
                    info, f"has rows of {info.dims[0]} weights, not a multiple of {fmt.name}'s {fmt.block}"
                )
            size = fmt.row_bytes(info.dims[0]) * math.prod(info.dims[1:])
            if info.offset % self._alignment:
                self._corrupt(
                    info, f"starts at {info.offset}, not a multiple of the alignment {self._alignment}"
                )
            if info.offset > available or size > available - info.offset:
                self._corrupt(
                    info,
                    f"needs {size} bytes at {info.offset}, but the file holds {available} bytes of data; "
                    "it may be a partial download",
                )
            extents.append((info.offset, info.offset + size, info.name))
            data = np.frombuffer(self._map, np.uint8, size, self._data_start + info.offset)
            result[info.name] = Tensor(info.name, fmt, tuple(reversed(info.dims)), data)
        extents.sort()
        for (_, end, name), (start, _, other) in pairwise(extents):
            if start < end:
                raise CorruptFile(f"{self.path}: tensors {_shown(name)} and {_shown(other)} overlap")
        return result

    def unload_metadata(self) -> None:
        """Give back the memory that reading the metadata took; views of it stay valid."""
        unload(self._map, self._data_start)

    def _corrupt(self, info: _Info, problem: str) -> NoReturn:
        raise CorruptFile(f"{self.path}: tensor {_shown(info.name)} {problem}")


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:80] + "...")


def _alignment(metadata: dict[str, Any], path: Path) -> int:
    value = metadata.get("general.alignment", 32)
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not 0 < value <= 1 << 20
        or value & (value - 1)
    ):
        raise CorruptFile(f"{path}: general.alignment is {str(value)[:40]}, not a power of two")
    return value


class _Cursor:
    """A position in the mapped file, moved only by what fits into the rest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self.map = map_file(path)

    def corrupt(self, problem: str) -> NoReturn:
        raise CorruptFile(f"{self.path}: {problem}")

    def header(self) -> tuple[int, int]:
        """Check magic and version; return the counts of metadata keys and tensors."""
        magic = self.map[:4]
        if magic != b"GGUF":
            if len(self.map) < 4 and b"GGUF".startswith(magic):
                self.corrupt("the file ends within its header")
            raise UnsupportedModel(f"{self.path}: not a GGUF file (it starts with {magic!r})")
        self.position = 4
        version = self.scalar(4, "the header")
        if version in (0x02000000, 0x03000000):
            raise UnsupportedModel(f"{self.path}: big-endian GGUF; ostro reads little-endian files")
        if version not in (2, 3):
            raise UnsupportedModel(f"{self.path}: GGUF version {version}; ostro reads versions 2 and 3")
        tensor_count, key_count = self.scalar(10, "the header"), self.scalar(10, "the header")
        for count, noun, smallest in ((key_count, "metadata keys", 13), (tensor_count, "tensors", 32)):
            if count > MAX_ENTRIES or count * smallest > len(self.map):
                self.corrupt(f"claims {count} {noun}, more than the file can hold")
        return key_count, tensor_count

    def entries(self, count: int) -> Iterator[tuple[str, Any]]:
        """The metadata in the order of the file."""
        for number in range(count):
            key = self.string(f"metadata key number {number}", MAX_NAME)
            what = f"metadata key {_shown(key)}"
            yield key, self.value(self.scalar(4, what), what, 0)

    def tensor_info(self, number: int) -> _Info:
        name = self.string(f"the name of tensor number {number}", MAX_NAME)
        what = f"tensor {_shown(name)}"
        rank = self.scalar(4, what)
        if not 0 < rank <= MAX_DIMENSIONS:
            self.corrupt(f"{what} has {rank} dimensions")
        dims = tuple(self.scalar(10, what) for _ in range(rank))
        if 0 in dims:
            self.corrupt(f"{what} has a dimension of zero: {list(dims)}")
        if math.prod(dims) >= 1 << 48:
            self.corrupt(f"{what} claims {list(dims)} weights, more than any model has")
        return _Info(name, dims, self.scalar(4, what), self.scalar(10, what))

    def advance(self, size: int, what: str) -> int:
        """Move past `size` bytes and return where they begin."""
        start = self.position
        if size > len(self.map) - start:
            self.corrupt(f"{what} needs {size} bytes at {start}, but the file ends at {len(self.map)}")
        self.position = start + size
        return start

    def scalar(self, kind: int, what: str) -> Any:
        layout = _STRUCTS[kind]
        return layout.unpack_from(self.map, self.advance(layout.size, what))[0]

    def string(self, what: str, limit: int) -> str:
        size = self.scalar(10, what)
        if size > limit:
            self.corrupt(f"{what} claims a text of {size} bytes; the limit is {limit}")
        start = self.advance(size, what)
        try:
            return self.map[start : self.position].decode()
        except UnicodeDecodeError as error:
            raise CorruptFile(
                f"{self.path}: {what} is not valid UTF-8 at byte {start + error.start}"
            ) from error

    def value(self, kind: int, what: str, depth: int) -> Any:
        if kind == _STRING:
            return self.string(what, MAX_TEXT)
        if kind == _ARRAY:
            return self.array(what, depth + 1)
        if kind not in _STRUCTS:
            self.corrupt(f"{what} has the unknown value type {kind}")
        value = self.scalar(kind, what)
        if kind != _BOOL:
            return value
        if value > 1:
            self.corrupt(f"{what} is a bool of value {value}")
        return bool(value)

    def array(self, what: str, depth: int) -> Any:
        if depth > MAX_NESTING:
            self.corrupt(f"{what} nests arrays deeper than {MAX_NESTING}")
        kind, count = self.scalar(4, what), self.scalar(10, what)
        if kind in _DTYPES:
            dtype = np.dtype(_DTYPES[kind])
            start = self.advance(count * dtype.itemsize, what)
            values = np.frombuffer(self.map, np.uint8 if kind == _BOOL else dtype, count, start)
            if kind == _BOOL and count and values.max() > 1:
                self.corrupt(f"{what} holds a bool of value {values.max()}")
            return values.view(dtype)
        smallest = {_STRING: 8, _ARRAY: 12}.get(kind)
        if smallest is None:
            self.corrupt(f"{what} is an array of the unknown value type {kind}")
        if count > MAX_OBJECTS or count * smallest > len(self.map) - self.position:
            self.corrupt(
                f"{what} claims {count} elements, more than fit into the file or the limit {MAX_OBJECTS}"
            )
        if kind == _ARRAY:
            return [self.array(what, depth + 1) for _ in range(count)]
        quick = short_strings(self.map, self.position, count) if count >= PACKED_FROM else None
        if quick is not None:
            strings, self.position = quick
            return strings
        return [self.string(f"element {number} of {what}", MAX_TEXT) for number in range(count)]
