"""Unquantized weights as float32, and back into the bytes of a file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ostro.errors import BadTensor
from ostro.ops.tensor import FORMATS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ostro.ops.tensor import Tensor


def float32(tensor: Tensor) -> NDArray[np.float32]:
    """The weights of an F32, F16 or BF16 tensor [shape], exactly; BadTensor for other formats."""
    kind = tensor.format.name
    if kind == "BF16":
        values = (tensor.data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    elif kind in ("F32", "F16"):
        values = tensor.data.view({"F16": "<f2", "F32": "<f4"}[kind]).astype(np.float32)
    else:
        raise BadTensor(f"{tensor.name}: is stored as {kind}; F32, F16 or BF16 is needed here")
    return values.reshape(tensor.shape)


def as_f32(tensor: Tensor) -> Tensor:
    """The same weights stored as F32."""
    return tensor if tensor.format.name == "F32" else from_float32(tensor, float32(tensor))


def as_f16(tensor: Tensor) -> Tensor:
    """The weights rounded to F16; as F32 if one of them is too large for that."""
    values = float32(tensor)
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    if np.isinf(halves).any():
        return as_f32(tensor)
    return replace(tensor, format=FORMATS["F16"], data=halves.reshape(-1).view(np.uint8))


def from_float32(tensor: Tensor, values: NDArray[np.float32]) -> Tensor:
    """`tensor` with other weights [shape], stored as F32."""
    data = np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8)
    return replace(tensor, format=FORMATS["F32"], data=data)
