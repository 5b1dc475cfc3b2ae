"""The fused operations that a model is written against.

Arrays are C-contiguous float32 unless said otherwise; n is the number of rows (tokens) of the batch.
Implementations decide where weights, KV pages and scratch memory live: `Matrix` and `KvStore` are opaque here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ostro.ops.batch import Batch, LayerKind
    from ostro.ops.tensor import Tensor

    Rows = NDArray[np.float32]

PAGE_SIZE = 64
"""Positions per KV page."""


class Matrix(Protocol):
    """A weight matrix in its own number format."""

    @property
    def rows(self) -> int:
        """Output width."""

    @property
    def cols(self) -> int:
        """Input width."""


class KvStore(Protocol):
    """Pages of keys and values of all layers of one kind."""

    def reserve(self, pages: int) -> None:
        """Make page ids below `pages` usable; MemoryError when the machine has no room."""

    @property
    def nbytes(self) -> int:
        """Bytes held at present."""

    @property
    def page_nbytes(self) -> int:
        """Bytes of one page over all layers of the store."""


@dataclass(frozen=True, slots=True)
class Norm:
    """RMSNorm: x / sqrt(mean(x^2) + eps) * weight, where weight [D] already includes Gemma's 1 +."""

    weight: Rows
    eps: float


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Where one layer keeps its keys and values: layer `index` of the store of its kind."""

    store: KvStore
    index: int
    kind: LayerKind


class Ops(Protocol):
    """About five calls per layer; each is one parallel region."""

    def matrix(self, tensor: Tensor) -> Matrix:
        """Adopt a weight [rows, cols] without copying it; BadTensor if its bytes do not fit its shape."""

    def vector(self, tensor: Tensor) -> Rows:
        """A one-dimensional weight as float32."""

    def kv_store(self, layers: int, kv_heads: int, head_dim: int) -> KvStore:
        """An empty store for `layers` layers."""

    def rope(self, positions: NDArray[np.int32], inv_freq: NDArray[np.float64]) -> Rows:
        """Rotation table [n, head_dim]: cos(position * inv_freq) in the first half of a row, sin in the second."""

    def embed(self, table: Matrix, token_ids: NDArray[np.int32], scale: float) -> Rows:
        """Rows [n, D] of the table, times `scale`."""

    def qkv(
        self,
        x: Rows,
        norm: Norm,
        proj: tuple[Matrix, Matrix, Matrix],
        q_norm: Norm,
        k_norm: Norm,
        rope: Rows,
        batch: Batch,
        cache: LayerCache,
    ) -> Rows:
        """Queries [n, heads * head_dim], normed per head and rotated; keys (likewise) and values go to the cache."""

    def attend(self, q: Rows, batch: Batch, cache: LayerCache, scale: float, window: int | None) -> Rows:
        """softmax(scale * q k^T) v over the visible keys: [n, heads * head_dim]. window None: no lower bound."""

    def project_add(self, x: Rows, h: Rows, proj: Matrix, norm: Norm) -> None:
        """x += norm(h @ proj^T), in place."""

    def gated_gelu(self, x: Rows, norm: Norm, gate: Matrix, up: Matrix) -> Rows:
        """gelu_tanh(y @ gate^T) * (y @ up^T) with y = norm(x): [n, F]."""

    def head(self, x: Rows, rows: NDArray[np.int32], norm: Norm, proj: Matrix) -> Rows:
        """norm(x[rows]) @ proj^T: logits [w, V]."""

    def top_k(self, logits: Rows, k: int) -> tuple[NDArray[np.int32], Rows]:
        """The k largest of each row in falling order (ties: smaller id first): ids and values, both [w, k]."""

    def log_sum_exp(self, logits: Rows) -> NDArray[np.float64]:
        """log(sum(exp(row))) of each row, accumulated in float64: [w]."""

    def describe(self) -> dict[str, Any]:
        """What runs here: instruction set, threads, number formats; for logs and benchmark records."""
