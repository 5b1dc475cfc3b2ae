"""One layer of a UQFF file, in each of the kinds that `uqff` describes, to and from a tensor.

Kinds whose bytes are blocks of one of ostro's formats stay views of the file. The others become copies: codes
in another order, and the scales of AFQ rounded to f16, which moves weights by far less than a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from ostro.errors import CorruptFile, UnsupportedModel
from ostro.loading.uqff_codes import afq_blocks, fp8_blocks, mxfp4_blocks
from ostro.ops.tensor import BY_GGML_TYPE, FORMATS, Format, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from ostro.loading.safetensors import Stored

GGUF, DENSE, HQQ, FP8, AFQ, F8Q8, MXFP4 = range(7)
E4M3 = 9
"""mistral.rs' number of that dtype."""

_MAX_RANK = 4
_FLOATS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class Layer:
    """A weight and what describes it. parts: "" is the weight itself, "format" and so on the rest."""

    name: str
    parts: Mapping[str, Stored]

    @property
    def path(self) -> Path:
        """The file that says how it is stored."""
        return self.parts["format"].path

    def tensor(self) -> Tensor:
        """As a weight; CorruptFile or UnsupportedModel name what is wrong with it."""
        kind = self._scalar("format", "U8")
        readers: dict[int, Callable[[], Tensor]] = {
            GGUF: self._gguf, DENSE: self._dense, HQQ: self._hqq, FP8: self._fp8, AFQ: self._afq,
            F8Q8: self._f8q8, MXFP4: self._mxfp4,
        }  # fmt: skip
        read = readers.get(kind)
        if read is None:
            self._unsupported(f"is stored in the unknown way {kind}")
        return read()

    def _gguf(self) -> Tensor:
        number = self._scalar("dtype", "U32")
        fmt = BY_GGML_TYPE.get(number)
        if fmt is None:
            self._unsupported(f"is stored as ggml's type {number}")
        return self._blocks(fmt)

    def _dense(self) -> Tensor:
        return self._part("").tensor()

    def _hqq(self) -> NoReturn:
        self._unsupported("is stored as HQQ with groups that run across rows, which ostro's HQQ has not")

    def _fp8(self) -> Tensor:
        fmt = self._format("FP8")
        shape, codes = self._matrix("", "F8_E4M3")
        scale = self._floats("dequant_w_scale")
        if scale.size != 1:
            self._corrupt(f"has {scale.size} scales, not one")
        self._check_block(fmt, shape)
        return self._copy(fmt, shape, fp8_blocks(codes, scale.reshape(())))

    def _afq(self) -> Tensor:
        bits, group = self._scalar("bits", "U8"), self._scalar("group_size", "U8")
        if bits not in (2, 3, 4, 6, 8):
            self._corrupt(f"has codes of {bits} bits")
        fmt = self._format(f"AFQ{bits}")
        if group % fmt.block or not group:
            self._unsupported(f"is stored as AFQ with groups of {group} weights, not of {fmt.block}")
        (rows, words), codes = self._matrix("", "U32", itemsize=4)
        cols = words * 32 // bits
        if words * 32 % bits:
            self._corrupt(f"has rows of {words} words, which hold no whole number of {bits}-bit codes")
        self._check_block(fmt, (rows, cols))
        scales, biases = (self._groups(part, rows, cols, group) for part in ("scales", "biases"))
        repeat = group // fmt.block
        try:
            blocks = afq_blocks(codes, np.repeat(scales, repeat, 1), np.repeat(biases, repeat, 1), bits)
        except OverflowError:
            self._unsupported("has scales or biases beyond the range of f16")
        return self._copy(fmt, (rows, cols), blocks)

    def _f8q8(self) -> Tensor:
        return self._blocks(self._format("F8Q8"))

    def _mxfp4(self) -> Tensor:
        fmt = self._format("MXFP4")
        (rows, half), codes = self._matrix("", "U8")
        shape, scales = self._matrix("scales", "U8")
        self._check_block(fmt, (rows, 2 * half))
        if shape != (rows, 2 * half // fmt.block):
            self._corrupt(f"has scales {list(shape)} for {[rows, 2 * half]} weights")
        return self._copy(fmt, (rows, 2 * half), mxfp4_blocks(codes, scales))

    def _blocks(self, fmt: Format) -> Tensor:
        """The weight's bytes as they are."""
        part, shape = self._part(""), self._shape()
        if part.dtype != "U8":
            self._corrupt(f"has dtype {part.dtype}, not U8")
        self._check_block(fmt, shape)
        expected = fmt.row_bytes(shape[-1]) * math.prod(shape[:-1])
        if part.data.size != expected:
            self._corrupt(f"has {part.data.size} bytes; {list(shape)} weights of {fmt.name} take {expected}")
        return Tensor(self.name, fmt, shape, part.data)

    def _shape(self) -> tuple[int, ...]:
        part = self._part("shape")
        if part.dtype != "U32" or len(part.shape) != 1 or not 0 < part.shape[0] <= _MAX_RANK:
            self._corrupt(f"has a shape stored as {part.dtype} {list(part.shape)}")
        shape = tuple(int(size) for size in np.frombuffer(part.data.tobytes(), "<u4"))
        if 0 in shape or math.prod(shape) >= 1 << 48:
            self._corrupt(f"claims shape {list(shape)}")
        return shape

    def _check_block(self, fmt: Format, shape: tuple[int, ...]) -> None:
        if shape[-1] % fmt.block:
            self._corrupt(f"has rows of {shape[-1]} weights, not a multiple of {fmt.name}'s {fmt.block}")

    def _matrix(self, name: str, dtype: str, itemsize: int = 1) -> tuple[tuple[int, int], NDArray[np.uint8]]:
        """Shape [rows, items] of a part of that dtype, and its bytes [rows, items * itemsize]."""
        part = self._part(name)
        if part.dtype != dtype or len(part.shape) != 2 or 0 in part.shape:
            self._corrupt(f"has {name or 'weights'} stored as {part.dtype} {list(part.shape)}")
        rows, items = part.shape
        return (rows, items), part.data.reshape(rows, items * itemsize)

    def _groups(self, name: str, rows: int, cols: int, group: int) -> NDArray[np.float32]:
        values = self._floats(name)
        if cols % group or values.shape != (rows, cols // group):
            self._corrupt(f"has {name} {list(values.shape)} for {[rows, cols]} weights in groups of {group}")
        return values

    def _floats(self, name: str) -> NDArray[np.float32]:
        part = self._part(name)
        dtype = _FLOATS.get(part.dtype)
        if dtype is None:
            self._corrupt(f"has {name} of dtype {part.dtype}")
        stored = np.frombuffer(part.data.tobytes(), dtype)
        if part.dtype == "BF16":
            return (stored.astype(np.uint32) << 16).view(np.float32).reshape(part.shape)
        return stored.astype(np.float32).reshape(part.shape)

    def _scalar(self, name: str, dtype: str) -> int:
        part = self._part(name)
        if part.dtype != dtype or part.shape != ():
            self._corrupt(f"has {name} stored as {part.dtype} {list(part.shape)}")
        return int.from_bytes(part.data.tobytes(), "little")

    def _part(self, name: str) -> Stored:
        part = self.parts.get(name)
        if part is None:
            self._corrupt(f"lacks {'.'.join(filter(None, (self.name, name)))!r}")
        return part

    def _format(self, name: str) -> Format:
        fmt = FORMATS.get(name)
        if fmt is None:
            self._unsupported(f"is stored as {name}")
        return fmt

    def _copy(self, fmt: Format, shape: tuple[int, int], data: NDArray[np.uint8]) -> Tensor:
        data = data.reshape(-1)
        data.flags.writeable = False
        return Tensor(self.name, fmt, shape, data)

    def _where(self) -> str:
        return f"{self.path}: tensor {self.name[:80]!r}"

    def _corrupt(self, problem: str) -> NoReturn:
        raise CorruptFile(f"{self._where()} {problem}")

    def _unsupported(self, problem: str) -> NoReturn:
        raise UnsupportedModel(f"{self._where()} {problem}; ostro reads {', '.join(FORMATS)}")
