"""Operations that remember what the model multiplied its weights with, while computing as usual.

Source: llama.cpp's tools/imatrix, which sums the squares of the float32 inputs of every product, column by
column. The inputs are those before an implementation rounds them to its own number format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

import numpy as np

from ostro.errors import EngineError
from ostro.ops.protocol import MatrixT, StoreT
from ostro.quant.importance import CHUNK_SIZE, Importance

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ostro.ops.batch import Batch, Best
    from ostro.ops.protocol import LayerCache, LayerNorm, Linear, Norm, Ops, Rows
    from ostro.ops.tensor import Tensor

    Squares = NDArray[np.float64]

ROWS = 64
"""Rows that are squared at a time: bounds memory."""


class Recorder(Generic[MatrixT, StoreT]):
    """Implements `ostro.ops.protocol.Ops` around another implementation.

    matrices: (canonical name, matrix) of what to record; products of other matrices leave no trace.
    unneeded: a matrix whose products nobody reads, such as a head of 262,144 rows: they are zeros.

    Sums are float64 and taken row after row, so that they do not depend on how rows were put into batches.
    """

    def __init__(
        self,
        ops: Ops[MatrixT, StoreT],
        matrices: Iterable[tuple[str, MatrixT]],
        *,
        unneeded: MatrixT | None = None,
    ) -> None:
        self._ops = ops
        self._unneeded = unneeded
        self._sums: dict[str, Squares] = {}
        self._rows: dict[str, int] = {}
        self.follow(matrices)

    def follow(self, matrices: Iterable[tuple[str, MatrixT]]) -> None:
        """Go on with a model whose matrices were exchanged for others of the same names and widths."""
        # Matrices are told apart by identity, which is only theirs while they live: they are kept.
        self._matrices = {id(matrix): (name, matrix) for name, matrix in matrices}

    @property
    def rows(self) -> dict[str, int]:
        """Inputs seen by each matrix, 0 included; may be read from any thread."""
        return {name: self._rows.get(name, 0) for name, _ in list(self._matrices.values())}

    def importance(self, *, datasets: tuple[str, ...] = (), chunk_size: int = CHUNK_SIZE) -> Importance:
        """Mean squares of all that was seen; EngineError when an input was not finite."""
        for name, sums in self._sums.items():
            if not np.all(np.isfinite(sums)):
                raise EngineError(f"the inputs of {name} are not finite: this model overflows on the text")
        values = {name: (sums / self._rows[name]).astype(np.float32) for name, sums in self._sums.items()}
        return Importance(values, self._rows, datasets=datasets, chunk_size=chunk_size)

    def _record(self, inputs: Rows, *matrices: MatrixT) -> None:
        """Add the squares of inputs [n, cols], which all of the matrices are multiplied with."""
        names = [self._matrices[id(matrix)][0] for matrix in matrices if id(matrix) in self._matrices]
        if not names or len(inputs) == 0:
            return
        first = self._sums.get(names[0])
        sums = np.zeros(inputs.shape[1]) if first is None else first
        for start in range(0, len(inputs), ROWS):
            # The sums so far are the first row: numpy adds up rows of an array one after the other.
            block = np.concatenate([sums[None], inputs[start : start + ROWS]], dtype=np.float64)
            np.square(block[1:], out=block[1:])
            sums = np.add.reduce(block, axis=0)
        for name in names:
            self._sums[name] = sums
            self._rows[name] = self._rows.get(name, 0) + len(inputs)

    @property
    def every_row(self) -> bool:
        """See `Ops.every_row`: every input of the last layer is recorded, too."""
        return True

    def qkv(
        self,
        x: Rows,
        norm: Norm,
        proj: tuple[MatrixT, MatrixT, MatrixT],
        q_norm: Norm,
        k_norm: Norm,
        rope: Rows,
        batch: Batch,
        cache: LayerCache[StoreT],
    ) -> Rows:
        """See `Ops.qkv`."""
        self._record(_rms_norm(x, norm), *proj)
        return self._ops.qkv(x, norm, proj, q_norm, k_norm, rope, batch, cache)

    def project_add(self, x: Rows, h: Rows, proj: MatrixT, norm: Norm) -> None:
        """See `Ops.project_add`."""
        self._record(h, proj)
        self._ops.project_add(x, h, proj, norm)

    def feed_forward(
        self,
        x: Rows,
        norm: Norm,
        proj: tuple[MatrixT, MatrixT, MatrixT],
        post_norm: Norm,
        hidden: Rows | None = None,
    ) -> None:
        """See `Ops.feed_forward`."""
        gate, up, down = proj
        if hidden is None:
            hidden = np.empty((len(x), gate.rows), np.float32)
        self._record(_rms_norm(x, norm), gate, up)
        self._ops.feed_forward(x, norm, proj, post_norm, hidden)
        self._record(hidden, down)

    def head(
        self, x: Rows, rows: NDArray[np.int32], norm: Norm, proj: MatrixT, best: Best | None = None
    ) -> Rows:
        """See `Ops.head`."""
        self._record(_rms_norm(x[rows], norm), proj)
        if proj is self._unneeded:
            return np.broadcast_to(np.float32(0), (len(rows), proj.rows))
        return self._ops.head(x, rows, norm, proj, best)

    def linear(self, x: Rows, proj: Linear[MatrixT]) -> Rows:
        """See `Ops.linear`."""
        self._record(x, proj.matrix)
        return self._ops.linear(x, proj)

    def encoder_qkv(
        self,
        x: Rows,
        norm: LayerNorm,
        proj: tuple[Linear[MatrixT], Linear[MatrixT], Linear[MatrixT]],
        start: int,
        store: StoreT,
    ) -> Rows:
        """See `Ops.encoder_qkv`."""
        self._record(self._ops.layer_norm(x, norm), *(part.matrix for part in proj))
        return self._ops.encoder_qkv(x, norm, proj, start, store)

    def linear_add(self, x: Rows, h: Rows, proj: Linear[MatrixT]) -> None:
        """See `Ops.linear_add`."""
        self._record(h, proj.matrix)
        self._ops.linear_add(x, h, proj)

    def norm_gelu(self, x: Rows, norm: LayerNorm, proj: Linear[MatrixT]) -> Rows:
        """See `Ops.norm_gelu`."""
        self._record(self._ops.layer_norm(x, norm), proj.matrix)
        return self._ops.norm_gelu(x, norm, proj)

    def matrix(self, tensor: Tensor) -> MatrixT:
        """See `Ops.matrix`."""
        return self._ops.matrix(tensor)

    def vector(self, tensor: Tensor) -> Rows:
        """See `Ops.vector`."""
        return self._ops.vector(tensor)

    def kv_store(self, layers: int, kv_heads: int, head_dim: int) -> StoreT:
        """See `Ops.kv_store`."""
        return self._ops.kv_store(layers, kv_heads, head_dim)

    def encoder_store(self, heads: int, head_dim: int) -> StoreT:
        """See `Ops.encoder_store`."""
        return self._ops.encoder_store(heads, head_dim)

    def rope(self, positions: NDArray[np.int32], inv_freq: NDArray[np.float64]) -> Rows:
        """See `Ops.rope`."""
        return self._ops.rope(positions, inv_freq)

    def embed(self, table: MatrixT, token_ids: NDArray[np.int32], scale: float) -> Rows:
        """See `Ops.embed`."""
        return self._ops.embed(table, token_ids, scale)

    def attend(
        self, q: Rows, batch: Batch, cache: LayerCache[StoreT], scale: float, window: int | None
    ) -> Rows:
        """See `Ops.attend`."""
        return self._ops.attend(q, batch, cache, scale, window)

    def layer_norm(self, x: Rows, norm: LayerNorm) -> Rows:
        """See `Ops.layer_norm`."""
        return self._ops.layer_norm(x, norm)

    def attend_all(self, q: Rows, store: StoreT, length: int, scale: float) -> Rows:
        """See `Ops.attend_all`."""
        return self._ops.attend_all(q, store, length, scale)

    def top_k(self, logits: Rows, k: int) -> tuple[NDArray[np.int32], Rows]:
        """See `Ops.top_k`."""
        return self._ops.top_k(logits, k)

    def log_sum_exp(self, logits: Rows) -> NDArray[np.float64]:
        """See `Ops.log_sum_exp`."""
        return self._ops.log_sum_exp(logits)

    def describe(self) -> dict[str, Any]:
        """See `Ops.describe`."""
        return self._ops.describe()


def _rms_norm(x: Rows, norm: Norm) -> Rows:
    """The rows normed, [n, D] float32; a row does not depend on its neighbours."""
    mean = np.mean(np.square(x), axis=1, keepdims=True, dtype=np.float32)
    scale: Rows = np.float32(1) / np.sqrt(mean + np.float32(norm.eps))
    return x * scale * norm.weight
