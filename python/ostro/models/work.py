"""What a token costs: bytes that have to be read and multiply-accumulates (MACs) that have to be done.

Counts of the mathematics and of the number formats, not of an implementation: what a kernel reads or computes
beyond them shows as a lower share of what the machine can do. The exception is a head in two planes or with a
coarse copy, see `CpuOps.repack` and `screen`: greedy decoding reads the upper plane, or the copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from ostro.models.matrices import text_matrices
from ostro.ops.protocol import PAGE_SIZE, Matrix, StoreT
from ostro.ops.tensor import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ostro.models.gemma3 import Gemma3
    from ostro.ops.protocol import Ops

DENSE = frozenset({"F32", "F16", "BF16"})
"""Formats of weights that are not quantized."""


class StoredMatrix(Matrix, Protocol):
    """A matrix that tells its number format."""

    @property
    def format(self) -> str:
        """One of `FORMATS`."""

    @property
    def screen_nbytes(self) -> int | None:
        """Bytes of a coarse copy or of the upper plane; None without one."""


StoredT = TypeVar("StoredT", bound=StoredMatrix)


@dataclass(frozen=True, slots=True)
class Attention:
    """The layers of one kind. position_bytes: keys and values of one position, all these layers together.

    position_macs: one row of a prompt with one position, all these layers together but the model's last one,
    of whose output later positions read nothing. window: None sees everything.
    """

    position_bytes: int
    position_macs: int
    window: int | None

    def seen(self, start: int, rows: int) -> int:
        """Positions that the rows at [start, start + rows) see, each its own included, added up."""
        ends = range(start + 1, start + rows + 1)
        return sum(ends) if self.window is None else sum(min(end, self.window) for end in ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The work of a text model. The row of the embedding is not counted; a tied head is, once.

    layer_bytes: the matrices of all layers. prompt_macs: what a position of a prompt takes whose logits
    nobody wants: all matrices, but of the last layer those of keys and values alone. head_bytes, head_macs:
    the head's. dense: no layer has quantized weights. screen_bytes: tells those of the head's coarse copy,
    which comes to be while the model is at work.
    """

    layer_bytes: int
    prompt_macs: int
    head_bytes: int
    head_macs: int
    attention: tuple[Attention, ...]
    dense: bool
    screen_bytes: Callable[[], int | None] = field(default=lambda: None, compare=False)

    @classmethod
    def of(cls, model: Gemma3[StoredT], ops: Ops[StoredT, StoreT]) -> Work:
        """Of a loaded model."""
        config = model.config
        *matrices, head = text_matrices(model)
        last = model.layers[-1]
        for_logits = (last.qkv_proj[0], last.o_proj, last.gate_proj, last.up_proj, last.down_proj)
        kinds = config.layer_kinds
        # Scores and the weighted sum: two products per query head.
        row_macs = 2 * config.num_attention_heads * config.head_dim
        attention = [
            Attention(
                position_bytes=store.page_nbytes // PAGE_SIZE,
                position_macs=kinds[:-1].count(kind) * row_macs,
                window=config.sliding_window if kind == "local" else None,
            )
            for kind, store in model.kv_stores(ops).items()
        ]
        return cls(
            layer_bytes=_nbytes(matrices),
            prompt_macs=_weights(matrices) - _weights(for_logits),
            head_bytes=_nbytes([head]),
            head_macs=_weights([head]),
            attention=tuple(attention),
            dense=all(matrix.format in DENSE for matrix in matrices),
            screen_bytes=lambda: head.screen_nbytes,
        )

    def decode_bytes(self, start: int, tokens: int) -> int:
        """Bytes read while one sequence goes through [start, start + tokens) one by one, greedily."""
        kv = sum(kind.position_bytes * kind.seen(start, tokens) for kind in self.attention)
        return tokens * (self.layer_bytes + (self.screen_bytes() or self.head_bytes)) + kv

    def prefill_macs(self, start: int, tokens: int) -> int:
        """MACs of reading the positions [start, start + tokens) of one sequence, without what logits take."""
        attention = sum(kind.position_macs * kind.seen(start, tokens) for kind in self.attention)
        return tokens * self.prompt_macs + attention


def _nbytes(matrices: Iterable[StoredMatrix]) -> int:
    return sum(matrix.rows * FORMATS[matrix.format].row_bytes(matrix.cols) for matrix in matrices)


def _weights(matrices: Iterable[StoredMatrix]) -> int:
    return sum(matrix.rows * matrix.cols for matrix in matrices)
