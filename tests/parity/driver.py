"""Runs a model step by step with scattered pages, any chunking and any company."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ostro.ops.batch import Batch, LayerKind
from ostro.ops.protocol import PAGE_SIZE, MatrixT, StoreT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from ostro.models.gemma3 import Gemma3
    from ostro.ops.protocol import Ops


@dataclass
class Text:
    """One sequence: its ids, how many have been run, and where its pages are.

    images: rows of each image, by the position of its first row.
    """

    ids: Sequence[int]
    images: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    done: int = 0
    pages: dict[LayerKind, list[int]] = field(default_factory=dict)
    logits: list[NDArray[np.float32]] = field(default_factory=list)

    def whole(self, count: int) -> int:
        """How many tokens to run if it should be `count`, but no image may be cut."""
        end = self.done + count
        for start, rows in self.images.items():
            if start < end < start + len(rows):
                return start + len(rows) - self.done
        return count


class Driver:
    def __init__(
        self, model: Gemma3[MatrixT], ops: Ops[MatrixT, StoreT], pages: int = 256, seed: int = 0
    ) -> None:
        stores = model.kv_stores(ops)
        self.forward: Callable[[Batch], NDArray[np.float32]] = lambda batch: model.forward(batch, stores, ops)
        self.window = model.sliding_window
        order = list(range(pages))
        random.Random(seed).shuffle(order)
        self.free: dict[LayerKind, list[int]] = {kind: list(order) for kind in stores}
        for store in stores.values():
            store.reserve(pages)

    def step(self, work: Sequence[tuple[Text, int]], wanted: Sequence[int] | None = None) -> None:
        """Run `count` further tokens of each text in one batch and keep their logits.

        wanted: the rows of the batch that have logits, ascending; None: all.
        """
        ids: list[int] = []
        positions: list[int] = []
        starts = [0]
        for text, count in work:
            ids += text.ids[text.done : text.done + count]
            positions += range(text.done, text.done + count)
            starts.append(len(ids))
        at = np.array(positions, np.int32)
        key_ends = at + np.int32(1)
        rows: list[NDArray[np.float32]] = []
        places: list[NDArray[np.int32]] = []
        for (text, count), base in zip(work, starts, strict=False):
            for first, image in text.images.items():
                if text.done <= first < text.done + count:
                    places.append(np.arange(len(image), dtype=np.int32) + np.int32(base + first - text.done))
                    key_ends[places[-1]] = first + len(image)
                    rows.append(image)
        batch = Batch(
            token_ids=np.array(ids, np.int32),
            positions=at,
            row_starts=np.array(starts, np.int32),
            key_ends=key_ends,
            page_tables={kind: self._tables(kind, work) for kind in self.free},
            wanted=np.arange(len(ids), dtype=np.int32) if wanted is None else np.array(wanted, np.int32),
            image_rows=np.concatenate(rows) if rows else None,
            image_at=np.concatenate(places) if rows else None,
        )
        logits = self.forward(batch)
        for (text, count), start in zip(work, starts, strict=False):
            own = (batch.wanted >= start) & (batch.wanted < start + count)
            text.logits.append(logits[own])
            text.done += count

    def _tables(self, kind: LayerKind, work: Sequence[tuple[Text, int]]) -> NDArray[np.int32]:
        window = self.window if kind == "local" else None
        width = max((text.done + count + PAGE_SIZE - 1) // PAGE_SIZE for text, count in work)
        table = np.full((len(work), width), -1, np.int32)
        for row, (text, count) in enumerate(work):
            pages = text.pages.setdefault(kind, [])
            while len(pages) * PAGE_SIZE < text.done + count:
                pages.append(self.free[kind].pop())
            first = 0 if window is None else max(0, text.done - window + 1) // PAGE_SIZE
            table[row, first : len(pages)] = pages[first:]
        return table


def run(
    model: Gemma3[MatrixT],
    ops: Ops[MatrixT, StoreT],
    ids: Sequence[int],
    chunks: Sequence[int],
    images: Mapping[int, NDArray[np.float32]] | None = None,
) -> NDArray[np.float32]:
    """Logits [n, V] of one sequence, prefilled in the given chunks (the last size repeats)."""
    driver, text = Driver(model, ops), Text(ids, images or {})
    for i in range(len(ids)):
        if text.done == len(ids):
            break
        count = text.whole(min(chunks[min(i, len(chunks) - 1)], len(ids) - text.done))
        driver.step([(text, count)])
    return np.concatenate(text.logits)
