"""Errors of the quantizers beside those of llama.cpp's, on the same tensors.

    .venv/bin/python benches/quantizer_error.py [--formats Q4_K,Q6_K] [--weights 2000000]

Needs the environment of llama.cpp that `make compare` builds, for its ggml library, and the package with the
real 270m. Tensors: matrices of the 270m as float32 (rows joined where 640 columns are no whole blocks), and
Student t noise of 3 and 5 degrees of freedom.

Columns are relative root mean square errors (percent), of ostro / of llama.cpp, and their ratio (below 1:
ostro is better). Three of each:

    plain       no importance given, all errors alike
    implicit    no importance given, errors as llama.cpp weighs them then
    importance  importance given (log-normal, one number for each column), errors weighed by it

Exit status 1 if a ratio exceeds 1.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benches.compare.peers import LLAMA_CPP, cache_folder, python_of

from ostro import _kernels
from ostro.cli.model import demo_file
from ostro.loading.gguf import GgufFile
from ostro.ops.tensor import FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Rows = NDArray[np.float32]
    Bytes = NDArray[np.uint8]

GGML_TYPES = {
    "Q4_0": 2,
    "Q4_1": 3,
    "Q5_0": 6,
    "Q5_1": 7,
    "Q8_0": 8,
    "Q2_K": 10,
    "Q3_K": 11,
    "Q4_K": 12,
    "Q5_K": 13,
    "Q6_K": 14,
}
REAL = ("blk.5.attn_q", "blk.9.attn_output", "blk.3.ffn_gate", "blk.14.ffn_down", "token_embd")


class Peer:
    """llama.cpp's quantizers."""

    def __init__(self) -> None:
        folder = python_of(cache_folder(), LLAMA_CPP).parents[1]
        found = sorted(folder.glob("lib/python*/site-packages/llama_cpp/lib/libggml-base.so"))
        if not found:
            raise SystemExit(f"no ggml library in {folder}: `make compare` builds it")
        self._quantize = ctypes.CDLL(str(found[0])).ggml_quantize_chunk
        self._quantize.restype = ctypes.c_size_t
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        self._quantize.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]

    def quantize(self, x: Rows, format: str, importance: Rows | None) -> Bytes:
        rows, cols = x.shape
        out = np.empty(rows * FORMATS[format].row_bytes(cols), np.uint8)
        weights = None if importance is None else importance.ctypes.data
        self._quantize(GGML_TYPES[format], x.ctypes.data, out.ctypes.data, 0, rows, cols, weights)
        return out


class Ours:
    def __init__(self) -> None:
        self._team = _kernels.Team()

    def quantize(self, x: Rows, format: str, importance: Rows | None) -> Bytes:
        rows, cols = x.shape
        out = np.empty(rows * FORMATS[format].row_bytes(cols), np.uint8)
        data = x.reshape(-1).view(np.uint8)
        data.flags.writeable = False
        source = _kernels.Matrix(data, "F32", rows, cols)
        _kernels.quantize(self._team, source, format, importance, out)
        return out


def tensors(weights: int) -> Iterator[tuple[str, Rows]]:
    """Matrices of about `weights` weights."""
    stored = GgufFile(demo_file()).tensors()
    for name in REAL:
        tensor = stored[f"{name}.weight"]
        rows, cols = tensor.shape
        matrix = _kernels.Matrix(tensor.data, tensor.format.name, rows, cols)
        rows = min(rows, weights // cols) // 2 * 2
        values = matrix.dequantize(0, rows)
        joined = values if cols % 256 == 0 else values.reshape(rows // 2, 2 * cols)
        yield f"{name} ({tensor.format.name})", np.ascontiguousarray(joined)
    noise = np.random.default_rng(7)
    for freedom in (3, 5):
        heavy: Rows = (noise.standard_t(freedom, (weights // 2048, 2048)) * 0.02).astype(np.float32)
        yield f"Student t, {freedom}", heavy


def implicit(format: str, x: Rows) -> NDArray[np.float64]:
    """What llama.cpp lets errors count where no importance is given."""
    wide: NDArray[np.float64] = x.astype(np.float64)
    if format in ("Q3_K", "Q6_K"):
        return np.square(wide)
    if format == "Q2_K":
        return np.abs(wide)
    if format in ("Q4_K", "Q5_K"):
        blocks = wide.reshape(-1, 32)
        rms = np.sqrt((blocks**2).mean(axis=1, keepdims=True))
        weights: NDArray[np.float64] = rms + np.abs(blocks)
        return weights.reshape(x.shape)
    return np.ones_like(wide)


def error(x: Rows, format: str, data: Bytes, weights: NDArray[np.float64]) -> float:
    """Weighted relative root mean square error."""
    data.flags.writeable = False
    y = _kernels.Matrix(data, format, *x.shape).dequantize(0, x.shape[0])
    wide = x.astype(np.float64)
    return float(np.sqrt((weights * (y - wide) ** 2).sum() / (weights * wide**2).sum()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--formats", default=",".join(GGML_TYPES))
    parser.add_argument("--weights", type=int, default=1 << 20)
    arguments = parser.parse_args()
    ours, peer = Ours(), Peer()
    worst = 0.0
    print(f"{'format':6} {'tensor':26} {'plain':>22} {'implicit':>22} {'importance':>22}")
    for format in arguments.formats.split(","):
        for name, x in tensors(arguments.weights):
            importance: Rows = np.random.default_rng(1).lognormal(0.0, 1.0, (x.shape[1],)).astype(np.float32)
            plain = [engine.quantize(x, format, None) for engine in (ours, peer)]
            weighted = [engine.quantize(x, format, importance) for engine in (ours, peer)]
            cells = []
            for data, weights in (
                (plain, np.ones(x.shape)),
                (plain, implicit(format, x)),
                (weighted, np.broadcast_to(importance.astype(np.float64), x.shape)),
            ):
                mine, theirs = (error(x, format, part, weights) for part in data)
                ratio = mine / theirs if theirs else float(mine > 0) + 1.0
                worst = max(worst, ratio)
                cells.append(f"{100 * mine:7.4f}/{100 * theirs:7.4f} {ratio:5.3f}")
            print(f"{format:6} {name:26} " + "  ".join(cells), flush=True)
    print(f"largest ratio: {worst:.4f}")
    return int(worst > 1.0)


if __name__ == "__main__":
    raise SystemExit(main())
