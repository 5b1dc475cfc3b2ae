"""GGUF files written byte by byte, so that every part of them can lie."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

UINT8, INT32, UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 0, 5, 4, 6, 7, 8, 9, 10
F32, Q8_0 = 0, 8


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def array(kind: int, count: int, payload: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + payload


def texts(values: list[str]) -> bytes:
    return array(STRING, len(values), b"".join(text(value) for value in values))


@dataclass
class GgufBytes:
    keys: list[tuple[str | bytes, int, bytes]] = field(default_factory=list)
    tensors: list[tuple[str | bytes, list[int], int, int]] = field(default_factory=list)
    data: bytes = b""
    magic: bytes = b"GGUF"
    version: int = 3
    key_count: int | None = None
    tensor_count: int | None = None
    alignment: int = 32

    def build(self) -> bytes:
        counts = (
            len(self.tensors) if self.tensor_count is None else self.tensor_count,
            len(self.keys) if self.key_count is None else self.key_count,
        )
        out = self.magic + struct.pack("<IQQ", self.version, *counts)
        for key, kind, payload in self.keys:
            out += text(key) + struct.pack("<I", kind) + payload
        for name, dims, kind, offset in self.tensors:
            out += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
        if self.tensors or self.data:
            out += bytes(-len(out) % self.alignment) + self.data
        return out


def key(name: str | bytes, kind: int, *values: float | str) -> tuple[str | bytes, int, bytes]:
    codes = {UINT8: "B", INT32: "i", UINT32: "I", FLOAT32: "f", BOOL: "B", UINT64: "Q"}
    if kind == STRING:
        return name, kind, text(str(values[0]))
    return name, kind, struct.pack("<" + codes[kind], *values)
