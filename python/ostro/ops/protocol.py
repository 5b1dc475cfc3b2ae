"""The fused operations that a model is written against.

Arrays are C-contiguous float32 unless said otherwise; n is the number of rows (tokens) of the batch.
Implementations decide where weights, KV pages and scratch memory live, and bring their own types of matrix
and store: `MatrixT` and `StoreT` tie what an implementation made to the calls that take it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ostro.ops.batch import Batch, Best, LayerKind
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


MatrixT = TypeVar("MatrixT", bound=Matrix)
StoreT = TypeVar("StoreT", bound=KvStore)


@dataclass(frozen=True, slots=True)
class Norm:
    """RMSNorm: x / sqrt(mean(x^2) + eps) * weight, where weight [D] already includes Gemma's 1 +."""

    weight: Rows
    eps: float


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """LayerNorm: (x - mean(x)) / sqrt(var(x) + eps) * weight + bias; weight, bias [D]."""

    weight: Rows
    bias: Rows
    eps: float


@dataclass(frozen=True, slots=True)
class Linear(Generic[MatrixT]):
    """x @ matrix^T + bias; bias [matrix.rows]."""

    matrix: MatrixT
    bias: Rows


@dataclass(frozen=True, slots=True)
class LayerCache(Generic[StoreT]):
    """Where one layer keeps its keys and values: layer `index` of the store of its kind."""

    store: StoreT
    index: int
    kind: LayerKind


class Ops(Protocol[MatrixT, StoreT]):
    """Four calls per layer; each is one parallel region.

    The decoder's come first, then those of the image encoder, whose rows may be computed in any slices.
    """

    @property
    def every_row(self) -> bool:
        """Whether rows are computed to the end even if nobody asked for their logits: somebody looks on."""

    def matrix(self, tensor: Tensor) -> MatrixT:
        """Adopt a weight [rows, cols] without copying it; BadTensor if its bytes do not fit its shape."""

    def vector(self, tensor: Tensor) -> Rows:
        """A one-dimensional weight as float32."""

    def kv_store(self, layers: int, kv_heads: int, head_dim: int) -> StoreT:
        """An empty store for `layers` layers."""

    def encoder_store(self, heads: int, head_dim: int) -> StoreT:
        """An empty store for one layer of an encoder at a time; never coarser than 16 bits a value."""

    def rope(self, positions: NDArray[np.int32], inv_freq: NDArray[np.float64]) -> Rows:
        """Rotation table [n, head_dim]: cos(position * inv_freq) in a row's first half, sin in its second."""

    def embed(self, table: MatrixT, token_ids: NDArray[np.int32], scale: float) -> Rows:
        """Rows [n, D] of the table, times `scale`."""

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
        """Queries [n, heads * head_dim], normed per head and rotated, used until the next call.

        Keys, treated likewise, and values go to the cache.
        """

    def attend(
        self, q: Rows, batch: Batch, cache: LayerCache[StoreT], scale: float, window: int | None
    ) -> Rows:
        """Attended values [n, heads * head_dim]: softmax(scale * q k^T) v over the visible keys.

        window None: no lower bound. The result is used until the next call.
        """

    def project_add(self, x: Rows, h: Rows, proj: MatrixT, norm: Norm) -> None:
        """Add norm(h @ proj^T) to x, in place."""

    def feed_forward(
        self,
        x: Rows,
        norm: Norm,
        proj: tuple[MatrixT, MatrixT, MatrixT],
        post_norm: Norm,
        hidden: Rows | None = None,
    ) -> None:
        """Add post_norm(h @ down^T) to x, in place, with h = gelu_tanh(y @ gate^T) * (y @ up^T), y = norm(x).

        proj: gate, up and down. hidden: [n, F], where h is left if somebody wants to see it.
        """

    def head(
        self, x: Rows, rows: NDArray[np.int32], norm: Norm, proj: MatrixT, best: Best | None = None
    ) -> Rows:
        """Logits norm(x[rows]) @ proj^T: [w, V]. best: which of each row have to be right; None: all."""

    def linear(self, x: Rows, proj: Linear[MatrixT]) -> Rows:
        """Products x @ proj^T + bias: [n, proj.matrix.rows]."""

    def layer_norm(self, x: Rows, norm: LayerNorm) -> Rows:
        """The rows normed: [n, D]."""

    def encoder_qkv(
        self,
        x: Rows,
        norm: LayerNorm,
        proj: tuple[Linear[MatrixT], Linear[MatrixT], Linear[MatrixT]],
        start: int,
        store: StoreT,
    ) -> Rows:
        """Queries [n, heads * head_dim] of y = norm(x): no rotation, no norm of their own.

        Keys and values go to layer 0 of the store as positions [start, start + n). Page j of it holds the
        positions [64 j, 64 j + 64) and is reserved.
        """

    def attend_all(self, q: Rows, store: StoreT, length: int, scale: float) -> Rows:
        """Attended values [n, heads * head_dim]: every query sees the positions [0, length) of layer 0."""

    def linear_add(self, x: Rows, h: Rows, proj: Linear[MatrixT]) -> None:
        """Add h @ proj^T + bias to x, in place."""

    def norm_gelu(self, x: Rows, norm: LayerNorm, proj: Linear[MatrixT]) -> Rows:
        """Activations gelu_tanh(norm(x) @ proj^T + bias): [n, F]."""

    def top_k(self, logits: Rows, k: int) -> tuple[NDArray[np.int32], Rows]:
        """Ids and values of the k largest of each row, falling, smaller ids first: both [w, k]."""

    def log_sum_exp(self, logits: Rows) -> NDArray[np.float64]:
        """Of each row log(sum(exp(row))), accumulated in float64: [w]."""

    def describe(self) -> dict[str, Any]:
        """What runs here: instruction set, threads, number formats; for logs and benchmark records."""
