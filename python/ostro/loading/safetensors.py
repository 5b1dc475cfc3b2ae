"""A memory-mapped reader of safetensors files. Source: the format's description in the project's README."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ostro.errors import CorruptFile, UnsupportedModel
from ostro.loading.fields import parse_json
from ostro.loading.mapped_file import map_file
from ostro.ops.tensor import FORMATS, Tensor

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAX_HEADER = 16 << 20

_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4,
    "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8,
}  # fmt: skip
_READ = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as the file has it, of any dtype."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def tensor(self) -> Tensor:
        """As a weight; UnsupportedModel unless the dtype is F32, F16 or BF16."""
        if self.dtype not in _READ:
            raise UnsupportedModel(
                f"{self.path}: tensor {self.name!r} has dtype {self.dtype}; ostro reads {', '.join(_READ)}. "
                "Repositories quantized with GPTQ, AWQ, bitsandbytes or FP8 are not supported: take the "
                "original one, or a GGUF file"
            )
        return Tensor(self.name, FORMATS[self.dtype], self.shape, self.data)


def read_safetensors(path: Path) -> dict[str, Stored]:
    """All tensors of a file by name, as views of its map.

    CorruptFile when the header is malformed or its extents overlap, leave gaps or leave the file.
    """
    return read_annotated(path)[0]


def read_annotated(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """The same, and the texts that the header's metadata has."""
    mapped = map_file(path)
    size = int.from_bytes(mapped[:8], "little")
    if len(mapped) < 8 or size > len(mapped) - 8 or size > MAX_HEADER:
        raise CorruptFile(
            f"{path}: claims a header of {size} bytes; the file has {len(mapped)}, the limit is {MAX_HEADER}"
        )
    header = parse_json(mapped[8 : 8 + size], f"{path}: header")
    metadata = header.pop("__metadata__", None)
    start = 8 + size
    result: dict[str, Stored] = {}
    extents: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(path, name, entry)
        if end > len(mapped) - start:
            raise CorruptFile(
                f"{path}: tensor {name!r} ends at byte {end} of the data, but the file holds "
                f"{len(mapped) - start}; it may be a partial download"
            )
        extents.append((begin, end, name))
        data = np.frombuffer(mapped, np.uint8, end - begin, start + begin)
        result[name] = Stored(path, name, dtype, shape, data)
    _check_extents(path, extents, len(mapped) - start)
    texts = metadata if isinstance(metadata, dict) else {}
    return result, {key: text for key, text in texts.items() if isinstance(text, str)}


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    problem = CorruptFile(f"{path}: tensor {name!r} has a malformed entry: {str(entry)[:120]}")
    if not isinstance(entry, dict):
        raise problem
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if (
        not isinstance(dtype, str)
        or not isinstance(shape, list)
        or not isinstance(offsets, list)
        or len(offsets) != 2
    ):
        raise problem
    numbers = [*shape, *offsets]
    if len(shape) > 8 or any(
        isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < 1 << 48 for n in numbers
    ):
        raise problem
    begin, end = offsets
    if begin > end or (dtype in _BYTES and math.prod(shape) * _BYTES[dtype] != end - begin):
        raise CorruptFile(f"{path}: tensor {name!r}: {dtype} {shape} does not fill bytes {begin} to {end}")
    return dtype, tuple(shape), begin, end


def _check_extents(path: Path, extents: list[tuple[int, int, str]], size: int) -> None:
    position = 0
    for begin, end, name in sorted(extents):
        if begin != position:
            problem = "overlaps the tensor before it" if begin < position else "leaves a gap before it"
            raise CorruptFile(f"{path}: tensor {name!r} {problem} (starts at {begin}, expected {position})")
        position = end
    if position != size:
        raise CorruptFile(f"{path}: {size - position} bytes after the last tensor belong to none")
