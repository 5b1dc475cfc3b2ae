"""A streaming writer of safetensors files: nothing is copied but what the system's cache takes.

Source: the format's description in the project's README.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ostro.ops.tensor import Tensor

_ITEM_BYTES = {"F32": 4, "U32": 4, "F16": 2, "BF16": 2, "U8": 1, "F8_E4M3": 1}
_PART = 16 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor to be written. data: uint8 [bytes]."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    @classmethod
    def of(cls, name: str, array: NDArray[np.float32 | np.float16 | np.uint32 | np.uint8]) -> Entry:
        """An array of one of the dtypes that have a name of their own in numpy."""
        dtype = {"<f4": "F32", "<f2": "F16", "<u4": "U32", "|u1": "U8"}[array.dtype.str]
        return cls(name, dtype, array.shape, np.ascontiguousarray(array).reshape(-1).view(np.uint8))

    @classmethod
    def dense(cls, name: str, tensor: Tensor) -> Entry:
        """An F32, F16 or BF16 tensor as it is."""
        return cls(name, tensor.format.name, tensor.shape, tensor.data)


def write_safetensors(
    path: Path,
    entries: Sequence[Entry],
    metadata: Mapping[str, str],
    written: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a file, wide items first so that all are aligned, then by name. OSError as the system says it.

    written: told how many bytes were added.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    ordered = sorted(entries, key=lambda entry: (-_ITEM_BYTES[entry.dtype], entry.name))
    position = 0
    for entry in ordered:
        end = position + entry.data.size
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for entry in ordered:
            for start in range(0, entry.data.size, _PART):
                part = entry.data[start : start + _PART]
                file.write(part.data)
                written(part.size)
