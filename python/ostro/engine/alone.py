"""One sequence through a model from its first to its last token, without an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ostro.engine.kv_pages import KvPages
from ostro.errors import EngineError, PromptTooLong
from ostro.ops.batch import Batch
from ostro.ops.memory import machine_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from ostro.engine.kv_pages import SequencePages
    from ostro.models.gemma3 import Gemma3
    from ostro.ops.protocol import MatrixT, Ops, Rows, StoreT

STEP = 256
"""Tokens per forward pass: bounds the memory that logits of a long text take."""


def run_alone(
    model: Gemma3[MatrixT],
    ops: Ops[MatrixT, StoreT],
    ids: NDArray[np.int32],
    first: int = 0,
    images: Mapping[int, Rows] | None = None,
    *,
    step: int = STEP,
) -> Iterator[tuple[int, Rows]]:
    """Step by step (position of the first row, logits of the step's rows from position `first` on).

    ids: valid ones, at least one. images: rows of images by the position of their first token; none is cut.
    PromptTooLong or EngineError without memory for the keys and values.
    """
    images = images or {}
    longest = max((len(rows) for rows in images.values()), default=0)
    stores = model.kv_stores(ops)
    pages = KvPages(
        stores,
        model.sliding_window,
        ceiling=machine_memory(),
        context_length=len(ids),
        step_rows=step + longest,
    )
    if pages.longest < len(ids):
        raise PromptTooLong(f"{len(ids):,} tokens, memory is left for {pages.longest:,}")
    tables = pages.new_tables()
    end = 0
    while end < len(ids):
        start, end = end, min(end + step, len(ids))
        for at, rows in images.items():
            if at < end < at + len(rows):
                end = at + len(rows)
        pages.trim(tables, start)
        if not pages.reserve(tables, end):
            raise EngineError(f"no memory for the keys and values of {end:,} tokens")
        batch = _single(ids, start, end, first, tables, images)
        logits = model.forward(batch, stores, ops)
        if end > first:
            yield max(start, first), logits


def _single(
    ids: NDArray[np.int32],
    start: int,
    end: int,
    first: int,
    tables: SequencePages,
    images: Mapping[int, Rows],
) -> Batch:
    """Rows start:end of one sequence; logits are wanted from position `first` on."""
    positions = np.arange(start, end, dtype=np.int32)
    key_ends = positions + np.int32(1)
    inside = {at - start: rows for at, rows in images.items() if start <= at < end}
    for row, rows in inside.items():
        key_ends[row : row + len(rows)] = start + row + len(rows)
    places = [np.arange(row, row + len(rows), dtype=np.int32) for row, rows in inside.items()]
    return Batch(
        token_ids=ids[start:end],
        positions=positions,
        row_starts=np.array([0, end - start], np.int32),
        key_ends=key_ends,
        page_tables={kind: table.ids[None, : table.last] for kind, table in tables.items()},
        wanted=np.arange(max(first - start, 0), end - start, dtype=np.int32),
        image_rows=np.concatenate(list(inside.values())) if inside else None,
        image_at=np.concatenate(places) if inside else None,
    )
