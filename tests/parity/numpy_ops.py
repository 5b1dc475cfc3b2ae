"""The fused operations in plain numpy float32: the reference that the kernels are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize as gguf_dequantize

from ostro.ops.protocol import PAGE_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ostro.ops.batch import Batch, Best
    from ostro.ops.protocol import LayerCache, LayerNorm, Linear, Norm, Rows
    from ostro.ops.tensor import Tensor


def dequantize(tensor: Tensor) -> Rows:
    """The tensor's real numbers, by the gguf package."""
    if tensor.format.name == "F32":
        return tensor.data.view(np.float32).reshape(tensor.shape)
    if tensor.format.name == "BF16":
        bits = tensor.data.view(np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).reshape(tensor.shape)
    assert tensor.format.ggml_type is not None, "the package knows the formats of GGUF files"
    rows = tensor.data.reshape(*tensor.shape[:-1], -1)
    return np.asarray(gguf_dequantize(rows, GGMLQuantizationType(tensor.format.ggml_type)), np.float32)


class NumpyMatrix:
    def __init__(self, weights: Rows) -> None:
        self.weights = weights
        self.rows, self.cols = weights.shape


class NumpyKv:
    def __init__(self, layers: int, kv_heads: int, head_dim: int) -> None:
        self.shape = (layers, 2, PAGE_SIZE, kv_heads, head_dim)
        self.kv = np.zeros((0, *self.shape), np.float32)

    def reserve(self, pages: int) -> None:
        grow = pages - len(self.kv)
        if grow > 0:
            self.kv = np.concatenate([self.kv, np.full((grow, *self.shape), np.nan, np.float32)])

    @property
    def nbytes(self) -> int:
        return self.kv.nbytes

    @property
    def page_nbytes(self) -> int:
        return int(np.prod(self.shape)) * 4


def rms_norm(x: Rows, norm: Norm) -> Rows:
    mean = np.mean(x.astype(np.float64) ** 2, axis=-1, keepdims=True)
    return np.asarray(x / np.sqrt(mean + norm.eps) * norm.weight, np.float32)


def gelu_tanh(x: Rows) -> Rows:
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x.astype(np.float64) ** 3)
    return np.asarray(0.5 * x * (1 + np.tanh(inner)), np.float32)


def rotate(heads: Rows, rope: Rows) -> Rows:
    half = heads.shape[-1] // 2
    cos, sin = rope[:, None, :half], rope[:, None, half:]
    a, b = heads[..., :half], heads[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class NumpyOps:
    """Implements `ostro.ops.protocol.Ops`; slow, readable, float32 (norms and softmax in float64)."""

    every_row = False

    def matrix(self, tensor: Tensor) -> NumpyMatrix:
        return NumpyMatrix(dequantize(tensor))

    def vector(self, tensor: Tensor) -> Rows:
        return dequantize(tensor)

    def kv_store(self, layers: int, kv_heads: int, head_dim: int) -> NumpyKv:
        return NumpyKv(layers, kv_heads, head_dim)

    def encoder_store(self, heads: int, head_dim: int) -> NumpyKv:
        return NumpyKv(1, heads, head_dim)

    def rope(self, positions: NDArray[np.int32], inv_freq: NDArray[np.float64]) -> Rows:
        angles = positions[:, None] * inv_freq
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def embed(self, table: NumpyMatrix, token_ids: NDArray[np.int32], scale: float) -> Rows:
        return np.asarray(table.weights[token_ids] * np.float32(scale), np.float32)

    def qkv(
        self,
        x: Rows,
        norm: Norm,
        proj: tuple[NumpyMatrix, NumpyMatrix, NumpyMatrix],
        q_norm: Norm,
        k_norm: Norm,
        rope: Rows,
        batch: Batch,
        cache: LayerCache[NumpyKv],
    ) -> Rows:
        y = rms_norm(x, norm)
        head_dim = len(q_norm.weight)
        q, k, v = ((y @ p.weights.T).reshape(len(x), -1, head_dim) for p in proj)
        q, k = rotate(rms_norm(q, q_norm), rope), rotate(rms_norm(k, k_norm), rope)
        for i, table in enumerate(batch.page_tables[cache.kind]):
            for row in range(batch.row_starts[i], batch.row_starts[i + 1]):
                page, slot = divmod(int(batch.positions[row]), PAGE_SIZE)
                cache.store.kv[table[page], cache.index, 0, slot] = k[row]
                cache.store.kv[table[page], cache.index, 1, slot] = v[row]
        return q.reshape(len(x), -1)

    def attend(
        self, q: Rows, batch: Batch, cache: LayerCache[NumpyKv], scale: float, window: int | None
    ) -> Rows:
        out = np.empty_like(q)
        kv = cache.store.kv
        kv_heads, head_dim = kv.shape[-2:]
        for i, table in enumerate(batch.page_tables[cache.kind]):
            for row in range(batch.row_starts[i], batch.row_starts[i + 1]):
                end, position = int(batch.key_ends[row]), int(batch.positions[row])
                start = 0 if window is None else max(0, position - window + 1)
                at = np.arange(start, end)
                pages = table[at // PAGE_SIZE]
                assert (pages >= 0).all(), "a visible page is absent"
                keys = kv[pages, cache.index, 0, at % PAGE_SIZE]  # [keys, kv_heads, head_dim]
                values = kv[pages, cache.index, 1, at % PAGE_SIZE]
                queries = q[row].reshape(kv_heads, -1, head_dim)
                scores = np.einsum("hgd,khd->hgk", queries, keys).astype(np.float64) * scale
                p = np.exp(scores - scores.max(axis=-1, keepdims=True))
                p /= p.sum(axis=-1, keepdims=True)
                out[row] = np.einsum("hgk,khd->hgd", p, values).reshape(-1)
        return out

    def project_add(self, x: Rows, h: Rows, proj: NumpyMatrix, norm: Norm) -> None:
        x += rms_norm(h @ proj.weights.T, norm)

    def feed_forward(
        self,
        x: Rows,
        norm: Norm,
        proj: tuple[NumpyMatrix, NumpyMatrix, NumpyMatrix],
        post_norm: Norm,
        hidden: Rows | None = None,
    ) -> None:
        gate, up, down = proj
        y = rms_norm(x, norm)
        h = np.asarray(gelu_tanh(y @ gate.weights.T) * (y @ up.weights.T), np.float32)
        if hidden is not None:
            hidden[:] = h
        self.project_add(x, h, down, post_norm)

    def head(
        self, x: Rows, rows: NDArray[np.int32], norm: Norm, proj: NumpyMatrix, best: Best | None = None
    ) -> Rows:
        return np.asarray(rms_norm(x[rows], norm) @ proj.weights.T, np.float32)

    def linear(self, x: Rows, proj: Linear[NumpyMatrix]) -> Rows:
        return np.asarray(x @ proj.matrix.weights.T + proj.bias, np.float32)

    def layer_norm(self, x: Rows, norm: LayerNorm) -> Rows:
        centred = x.astype(np.float64) - x.mean(axis=-1, keepdims=True, dtype=np.float64)
        scale = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + norm.eps)
        return np.asarray(centred * scale * norm.weight + norm.bias, np.float32)

    def encoder_qkv(
        self,
        x: Rows,
        norm: LayerNorm,
        proj: tuple[Linear[NumpyMatrix], Linear[NumpyMatrix], Linear[NumpyMatrix]],
        start: int,
        store: NumpyKv,
    ) -> Rows:
        y = self.layer_norm(x, norm)
        q, k, v = (self.linear(y, p) for p in proj)
        for row in range(len(x)):
            page, slot = divmod(start + row, PAGE_SIZE)
            store.kv[page, 0, 0, slot] = k[row].reshape(store.shape[-2:])
            store.kv[page, 0, 1, slot] = v[row].reshape(store.shape[-2:])
        return q

    def attend_all(self, q: Rows, store: NumpyKv, length: int, scale: float) -> Rows:
        kv_heads, head_dim = store.shape[-2:]
        keys, values = (store.kv[:, 0, i].reshape(-1, kv_heads, head_dim)[:length] for i in (0, 1))
        queries = q.reshape(len(q), kv_heads, head_dim)
        scores = np.einsum("nhd,khd->nhk", queries, keys).astype(np.float64) * scale
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        return np.asarray(np.einsum("nhk,khd->nhd", p, values).reshape(q.shape), np.float32)

    def linear_add(self, x: Rows, h: Rows, proj: Linear[NumpyMatrix]) -> None:
        x += self.linear(h, proj)

    def norm_gelu(self, x: Rows, norm: LayerNorm, proj: Linear[NumpyMatrix]) -> Rows:
        return gelu_tanh(self.linear(self.layer_norm(x, norm), proj))

    def top_k(self, logits: Rows, k: int) -> tuple[NDArray[np.int32], Rows]:
        ids = np.argsort(-logits, axis=1, kind="stable")[:, :k].astype(np.int32)
        return ids, np.take_along_axis(logits, ids, axis=1)

    def log_sum_exp(self, logits: Rows) -> NDArray[np.float64]:
        peak = logits.max(axis=1)
        sums = np.exp(logits.astype(np.float64) - peak[:, None]).sum(axis=1)
        return np.asarray(np.log(sums) + peak, np.float64)

    def describe(self) -> dict[str, Any]:
        return {"isa": "numpy", "threads": 1, "compute": "f32", "kv": "f32"}
