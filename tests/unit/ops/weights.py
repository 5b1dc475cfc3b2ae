"""Weights for tests of the operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ostro import _kernels
from ostro.ops.tensor import FORMATS

if TYPE_CHECKING:
    from numpy.typing import NDArray


def available_isas() -> list[str]:
    """The instruction sets of this machine."""
    found = []
    for isa in ("scalar", "avx2", "avx512-vnni", "amx"):
        try:
            _kernels.Team(1, isa)
        except ValueError:
            continue
        found.append(isa)
    return found


def stored(format: str, rows: int, cols: int, seed: int = 0) -> NDArray[np.uint8]:
    """Normally distributed weights [rows, cols] in a format: the bytes, read-only."""
    values = np.random.default_rng(seed).standard_normal((rows, cols), np.float32)
    if format == "F16":
        data = values.astype(np.float16).reshape(-1).view(np.uint8)
    else:
        source = values.reshape(-1).view(np.uint8)
        source.flags.writeable = False
        data = np.empty(rows * FORMATS[format].row_bytes(cols), np.uint8)
        team = _kernels.Team(1, "scalar")
        _kernels.quantize(team, _kernels.Matrix(source, "F32", rows, cols), format, None, data)
    data.flags.writeable = False
    return data


def results(team: _kernels.Team, matrix: _kernels.Matrix) -> list[bytes]:
    """The bits of everything that is read from a matrix: products with 1 to 40 rows, and its own rows."""
    rng = np.random.default_rng(1)
    found = []
    for count in (1, 3, 8, 40):
        x = rng.standard_normal((count, matrix.cols), np.float32)
        out = np.empty((count, matrix.rows), np.float32)
        _kernels.head(
            team, x, np.arange(count, dtype=np.int32), np.ones(matrix.cols, np.float32), 1e-6, matrix, out
        )
        found.append(out.tobytes())
    ids = rng.permutation(matrix.rows).astype(np.int32)
    embedded = np.empty((len(ids), matrix.cols), np.float32)
    _kernels.embed(team, matrix, ids, 0.5, embedded)
    found.append(embedded.tobytes())
    found.append(matrix.dequantize(0, matrix.rows).tobytes())
    found.append(matrix.dequantize(matrix.rows - 5, matrix.rows - 1).tobytes())
    return found
