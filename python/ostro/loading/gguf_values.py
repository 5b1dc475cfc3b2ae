"""GGUF metadata as bytes. Source: the GGUF specification in the ggml project, version 3."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TypeAlias

    from numpy.typing import NDArray

    Value: TypeAlias = bool | int | float | str | np.generic | NDArray[Any] | Sequence[str]
    """An int is written as u32, a float as f32, a numpy scalar or array in its own type."""

_BOOL, _STRING, _ARRAY = 7, 8, 9
_KINDS = {
    "u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": _BOOL, "u8": 10, "i8": 11, "f8": 12,
}  # fmt: skip


def encoded_text(text: str) -> bytes:
    """A length (u64) and UTF-8."""
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def encoded_value(value: Value) -> bytes:
    """The number of its type, then the value. ValueError for what GGUF has no type for."""
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + encoded_text(value)
    if isinstance(value, np.ndarray):
        if value.ndim != 1:
            raise ValueError(f"an array of {value.ndim} dimensions; metadata has lists")
        return struct.pack("<IIQ", _ARRAY, _kind(value.dtype), len(value)) + _little(value)
    if isinstance(value, np.generic):  # before float, since a float64 is one
        return struct.pack("<I", _kind(value.dtype)) + _little(value)
    if isinstance(value, (bool, int, float)):
        return encoded_value(np.asarray(value, _dtype(value))[()])
    return b"".join(_texts(value))


def _dtype(value: float) -> str:
    if isinstance(value, bool):
        return "?"
    if isinstance(value, int):
        return "u4" if 0 <= value < 1 << 32 else "i8"
    return "f4"


def _kind(dtype: np.dtype[Any]) -> int:
    kind = _KINDS.get(f"{dtype.kind}{dtype.itemsize}")
    if kind is None:
        raise ValueError(f"GGUF has no type for {dtype}")
    return kind


def _little(value: np.generic | NDArray[Any]) -> bytes:
    return np.asarray(value, value.dtype.newbyteorder("<")).tobytes()


def _texts(values: Sequence[str]) -> Iterable[bytes]:
    yield struct.pack("<IIQ", _ARRAY, _STRING, len(values))
    yield from map(encoded_text, values)
