"""The fused operations on the CPU: shapes and scratch here, arithmetic in `ostro._kernels`."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ostro import _kernels
from ostro.errors import BadTensor
from ostro.ops.memory import has_huge_pages, huge_room, machine_memory
from ostro.ops.protocol import PAGE_SIZE
from ostro.ops.tensor import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ostro.config import Compute, KvDtype
    from ostro.ops.batch import Batch, Best
    from ostro.ops.protocol import LayerCache, LayerNorm, Linear, Norm, Rows
    from ostro.ops.tensor import Format, Tensor

CpuMatrix: TypeAlias = _kernels.Matrix

logger = logging.getLogger(__name__)

REPACKED_AT_ONCE = 4 << 20
"""Bytes of weights that are moved before the generator pauses: some milliseconds."""
LARGEST_COPY = 512 << 20
"""Bytes of weights above which they are not moved where that gains nothing but huge pages."""
SCREEN_FORMAT = FORMATS["Q5_0"]
"""What the coarse copy of a head is kept in, see the kernels."""
SCREENED_AT_ONCE = 1 << 20
"""Weights that are copied before the generator pauses: some milliseconds."""
LEAST_SAVED = 1 / 12
"""Share of what is read for a token that a coarse copy of the head must save."""
_CACHE_LINE = 64

QUANTIZED_AT_ONCE = 32 << 20
"""Bytes of a source that one call of the kernel reads: bounds how late a progress bar or an interrupt is."""


def float32(tensor: Tensor) -> Rows:
    """The weights of a tensor in any format as float32 [shape], exactly.

    BadTensor if its bytes are not those of such a tensor.
    """
    rows = 1 if len(tensor.shape) == 1 else tensor.shape[0]
    cols = math.prod(tensor.shape) // rows
    try:
        values = _kernels.Matrix(tensor.data, tensor.format.name, rows, cols).dequantize(0, rows)
    except ValueError as error:
        raise BadTensor(f"{tensor.name}: {error}") from error
    return values.reshape(tensor.shape)


def _screen_nbytes(head: _kernels.Matrix) -> int:
    """Bytes of a head in few bits, without the bounds."""
    return head.rows * SCREEN_FORMAT.row_bytes(head.cols)


class CpuOps:
    """Implements `ostro.ops.protocol.Ops`.

    compute "int14" (and "auto") or "int8": quantized weights meet activations that are quantized to 14 or 8
    bits in groups of 256 columns, keys and values are float16; "mixed": 8 bits for K-quants only. compute
    "f32": activations stay float32, weights are dequantized on the fly, keys and values are float32.
    kv_dtype: of KV pages, if not as `compute` says; "int8" with a float16 scale per 32 elements.
    """

    def __init__(
        self,
        threads: int = 0,
        isa: str = "auto",
        compute: Compute = "auto",
        kv_dtype: KvDtype | None = None,
    ) -> None:
        self._compute = "int14" if compute == "auto" else compute
        self._team = _kernels.Team(threads, isa, self._compute)
        self._encoder_dtype = "f32" if compute == "f32" else "f16"
        self._kv_dtype = self._encoder_dtype if kv_dtype is None else kv_dtype
        self._rooms: dict[str, Rows] = {}

    @property
    def every_row(self) -> bool:
        """See `Ops.every_row`."""
        return False

    def matrix(self, tensor: Tensor) -> _kernels.Matrix:
        """See `Ops.matrix`."""
        if len(tensor.shape) != 2:
            raise BadTensor(f"{tensor.name}: expected a matrix, found shape {list(tensor.shape)}")
        rows, cols = tensor.shape
        try:
            return _kernels.Matrix(tensor.data, tensor.format.name, rows, cols)
        except ValueError as error:
            raise BadTensor(f"{tensor.name}: {error}") from error

    def vector(self, tensor: Tensor) -> Rows:
        """See `Ops.vector`."""
        if len(tensor.shape) != 1:
            raise BadTensor(f"{tensor.name}: expected a vector, found shape {list(tensor.shape)}")
        try:
            row = _kernels.Matrix(tensor.data, tensor.format.name, 1, tensor.shape[0])
        except ValueError as error:
            raise BadTensor(f"{tensor.name}: {error}") from error
        return row.dequantize(0, 1).reshape(-1)

    def quantize(
        self,
        tensor: Tensor,
        format: Format,
        importance: Rows | None = None,
        consumed: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """The matrix [rows, cols] stored in another format, in new memory.

        importance: float32 [cols], finite and >= 0: how much a squared error of a column counts; None: all
        alike. consumed: told which bytes start:stop of the source were read, part by part.
        BadTensor for rows that are not whole blocks, weights that are not finite, importance that does not
        fit.
        """
        if len(tensor.shape) != 2:
            raise BadTensor(f"{tensor.name}: expected a matrix, found shape {list(tensor.shape)}")
        rows, cols = tensor.shape
        size, out_size = tensor.format.row_bytes(cols), format.row_bytes(cols)
        data = np.empty(rows * out_size, np.uint8)
        at_once = max(1, QUANTIZED_AT_ONCE // max(1, size))
        for start in range(0, rows, at_once):
            stop = min(rows, start + at_once)
            part = replace(tensor, shape=(stop - start, cols), data=tensor.data[start * size : stop * size])
            try:
                _kernels.quantize(
                    self._team,
                    self.matrix(part),
                    format.name,
                    importance,
                    data[start * out_size : stop * out_size],
                )
            except ValueError as error:
                raise BadTensor(f"{tensor.name}, from row {start}: {error}") from error
            if consumed is not None:
                consumed(start * size, stop * size)
        data.flags.writeable = False
        return replace(tensor, format=format, data=data)

    def repack(
        self,
        matrices: Sequence[_kernels.Matrix],
        consumed: Callable[[NDArray[np.uint8]], None] | None = None,
        head: _kernels.Matrix | None = None,
    ) -> Iterator[None]:
        """Move weights to where products read them fastest, one after the other; pauses after some work.

        That is memory of huge pages, and an order in which sixteen rows lie side by side where this machine
        has kernels for it. Results do not change, at no time. consumed: told which bytes nobody reads any
        more. head: of these matrices the one whose best logits are often all that matters. In Q8_0 it comes
        to lie in two planes, if enough is saved by reading only the upper one as a whole.

        Nothing is moved without memory for it: half of what the process may use at present. Nor with
        compute "f32", whose products read rows.
        """
        if self._compute == "f32":
            return
        faster = [matrix for matrix in matrices if self._team.reads_strips and matrix.has_strips]
        weights = sum(matrix.data.nbytes for matrix in matrices)
        if not has_huge_pages() or weights > LARGEST_COPY:
            matrices = faster
        if not matrices:
            return
        split = head if head is not None and self._wants_planes(head, weights) else None
        sizes = [matrix.split_nbytes if matrix is split else matrix.data.nbytes for matrix in matrices]
        starts, size = [], 0
        for nbytes in sizes:
            starts.append(size)
            size += -(-nbytes // _CACHE_LINE) * _CACHE_LINE
        limit = machine_memory() // 2
        if size > limit:
            logger.info("%d bytes of weights stay where they are, limit %d", size, limit)
            return
        try:
            room = huge_room(size)
        except OSError as error:
            logger.info("no memory for weights: %s", error)
            return
        for start, nbytes, matrix in zip(starts, sizes, matrices, strict=True):
            move = matrix.split if matrix is split else matrix.repack
            data = matrix.data
            place = room[start : start + nbytes]
            row_bytes = data.nbytes // matrix.rows
            at_once = max(1, REPACKED_AT_ONCE // (_kernels.STRIP * row_bytes)) * _kernels.STRIP
            for first in range(0, matrix.rows, at_once):
                stop = min(matrix.rows, first + at_once)
                try:
                    move(self._team, place, stop)
                except ValueError as error:
                    if matrix is not split:
                        raise
                    logger.info("a part of the head stays where it is: %s", error)
                    break
                if consumed is not None:
                    consumed(data[first * row_bytes : stop * row_bytes])
                yield
            del data, place

    def screen(self, head: _kernels.Matrix, weights: int) -> Iterator[None]:
        """Make a coarse copy of a head, by which rows are passed over when only the best logits matter.

        Pauses after some work. weights: bytes that are read for a token, those of the head among them. There
        is no copy where little less would be read with it, nor without memory for it, nor with compute "f32",
        nor where plain code multiplies and waits for no memory.
        """
        if head.screen_nbytes is not None or not self._pays_with_screen(head, weights):
            return
        size = _screen_nbytes(head)
        limit = machine_memory() // 4
        if size > limit:
            logger.info("no coarse copy of the head: %d bytes, limit %d", size, limit)
            return
        at_once = max(1, SCREENED_AT_ONCE // (_kernels.STRIP * head.cols)) * _kernels.STRIP
        for first in range(0, head.rows, at_once):
            try:
                head.extend_screen(self._team, min(head.rows, first + at_once))
            except ValueError as error:
                logger.info("no coarse copy of the head: %s", error)
                return
            yield

    def _wants_planes(self, head: _kernels.Matrix, weights: int) -> bool:
        """Whether a head should lie in two planes. weights: as in `screen`."""
        fits = head.format == "Q8_0" and head.rows % _kernels.STRIP == 0
        return fits and self._pays_with_screen(head, weights)

    def _pays_with_screen(self, head: _kernels.Matrix, weights: int) -> bool:
        """Whether enough is saved when a head is read in few bits. weights: as in `screen`."""
        if self._compute == "f32" or not self._team.reads_strips or head.cols % SCREEN_FORMAT.block != 0:
            return False
        return head.data.nbytes - _screen_nbytes(head) >= LEAST_SAVED * weights

    def kv_store(self, layers: int, kv_heads: int, head_dim: int) -> _kernels.KvStore:
        """See `Ops.kv_store`."""
        return _kernels.KvStore(layers, kv_heads, head_dim, self._kv_dtype)

    def encoder_store(self, heads: int, head_dim: int) -> _kernels.KvStore:
        """See `Ops.encoder_store`."""
        return _kernels.KvStore(1, heads, head_dim, self._encoder_dtype)

    def rope(self, positions: NDArray[np.int32], inv_freq: NDArray[np.float64]) -> Rows:
        """See `Ops.rope`."""
        return _kernels.rope(self._team, positions, inv_freq)

    def embed(self, table: _kernels.Matrix, token_ids: NDArray[np.int32], scale: float) -> Rows:
        """See `Ops.embed`."""
        out = np.empty((len(token_ids), table.cols), np.float32)
        _kernels.embed(self._team, table, token_ids, scale, out)
        return out

    def qkv(
        self,
        x: Rows,
        norm: Norm,
        proj: tuple[_kernels.Matrix, _kernels.Matrix, _kernels.Matrix],
        q_norm: Norm,
        k_norm: Norm,
        rope: Rows,
        batch: Batch,
        cache: LayerCache[_kernels.KvStore],
    ) -> Rows:
        """See `Ops.qkv`."""
        q = self._room("qkv", len(x), proj[0].rows)
        _kernels.qkv(
            self._team,
            x,
            norm.weight,
            norm.eps,
            *proj,
            q_norm.weight,
            k_norm.weight,
            rope,
            batch.positions,
            batch.row_starts,
            batch.page_tables[cache.kind],
            cache.store,
            cache.index,
            q,
        )
        return q

    def attend(
        self,
        q: Rows,
        batch: Batch,
        cache: LayerCache[_kernels.KvStore],
        scale: float,
        window: int | None,
    ) -> Rows:
        """See `Ops.attend`."""
        out = self._room("attend", *q.shape)
        _kernels.attend(
            self._team,
            q,
            batch.positions,
            batch.key_ends,
            batch.row_starts,
            batch.page_tables[cache.kind],
            cache.store,
            cache.index,
            scale,
            window or 0,
            out,
        )
        return out

    def project_add(self, x: Rows, h: Rows, proj: _kernels.Matrix, norm: Norm) -> None:
        """See `Ops.project_add`."""
        _kernels.project_add(self._team, x, h, proj, norm.weight, norm.eps)

    def feed_forward(
        self,
        x: Rows,
        norm: Norm,
        proj: tuple[_kernels.Matrix, _kernels.Matrix, _kernels.Matrix],
        post_norm: Norm,
        hidden: Rows | None = None,
    ) -> None:
        """See `Ops.feed_forward`."""
        _kernels.feed_forward(
            self._team, x, norm.weight, norm.eps, *proj, post_norm.weight, post_norm.eps, hidden
        )

    def head(
        self,
        x: Rows,
        rows: NDArray[np.int32],
        norm: Norm,
        proj: _kernels.Matrix,
        best: Best | None = None,
    ) -> Rows:
        """See `Ops.head`."""
        out = np.empty((len(rows), proj.rows), np.float32)
        _kernels.head(self._team, x, rows, norm.weight, norm.eps, proj, out, best)
        return out

    def linear(self, x: Rows, proj: Linear[_kernels.Matrix]) -> Rows:
        """See `Ops.linear`."""
        out = np.empty((len(x), proj.matrix.rows), np.float32)
        _kernels.linear(self._team, x, proj.matrix, proj.bias, out)
        return out

    def layer_norm(self, x: Rows, norm: LayerNorm) -> Rows:
        """See `Ops.layer_norm`."""
        out = np.empty_like(x)
        _kernels.layer_norm(self._team, x, norm.weight, norm.bias, norm.eps, out)
        return out

    def encoder_qkv(
        self,
        x: Rows,
        norm: LayerNorm,
        proj: tuple[Linear[_kernels.Matrix], Linear[_kernels.Matrix], Linear[_kernels.Matrix]],
        start: int,
        store: _kernels.KvStore,
    ) -> Rows:
        """See `Ops.encoder_qkv`."""
        q, k, v = proj
        out = np.empty((len(x), q.matrix.rows), np.float32)
        _kernels.encoder_qkv(
            self._team,
            x,
            norm.weight,
            norm.bias,
            norm.eps,
            q.matrix,
            q.bias,
            k.matrix,
            k.bias,
            v.matrix,
            v.bias,
            start,
            store,
            out,
        )
        return out

    def attend_all(self, q: Rows, store: _kernels.KvStore, length: int, scale: float) -> Rows:
        """See `Ops.attend_all`."""
        out = np.empty_like(q)
        rows = len(q)
        _kernels.attend(
            self._team,
            q,
            np.arange(rows, dtype=np.int32),
            np.full(rows, length, np.int32),
            np.array([0, rows], np.int32),
            np.arange(-(-length // PAGE_SIZE), dtype=np.int32)[None],
            store,
            0,
            scale,
            0,
            out,
        )
        return out

    def linear_add(self, x: Rows, h: Rows, proj: Linear[_kernels.Matrix]) -> None:
        """See `Ops.linear_add`."""
        _kernels.linear_add(self._team, x, h, proj.matrix, proj.bias)

    def norm_gelu(self, x: Rows, norm: LayerNorm, proj: Linear[_kernels.Matrix]) -> Rows:
        """See `Ops.norm_gelu`."""
        out = np.empty((len(x), proj.matrix.rows), np.float32)
        _kernels.norm_gelu(self._team, x, norm.weight, norm.bias, norm.eps, proj.matrix, proj.bias, out)
        return out

    def top_k(self, logits: Rows, k: int) -> tuple[NDArray[np.int32], Rows]:
        """See `Ops.top_k`."""
        return _kernels.top_k(self._team, logits, k)

    def log_sum_exp(self, logits: Rows) -> NDArray[np.float64]:
        """See `Ops.log_sum_exp`."""
        return _kernels.log_sum_exp(self._team, logits)

    def describe(self) -> dict[str, Any]:
        """See `Ops.describe`."""
        return {
            "isa": self._team.isa,
            "threads": self._team.threads,
            "compute": self._compute,
            "kv": self._kv_dtype,
        }

    def _room(self, operation: str, rows: int, cols: int) -> Rows:
        """Memory [rows, cols] for the result of an operation, the same for every call.

        Of a long prompt it is tens of megabytes, which the system would have to clear each time anew.
        """
        room = self._rooms.get(operation)
        if room is None or room.size < rows * cols:
            room = self._rooms[operation] = np.empty(rows * cols, np.float32)
        return room[: rows * cols].reshape(rows, cols)
