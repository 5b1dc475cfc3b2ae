"""Which tokens go through the model in the next step.

Continuous batching, first come, first served: every running sequence that waits for its next token gets one
row, and up to `prefill_chunk` rows of prompts go with them, the oldest prompt first. When KV pages run out,
the youngest running sequence gives its pages back and is computed again later. A sequence whose next image is
not encoded yet keeps its place and lets others go first.

`running` and `waiting` are both in order of arrival, and everything in `running` arrived before `waiting`.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from ostro.engine.kv_pages import pages_for
from ostro.ops.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ostro.engine.kv_pages import KvPages
    from ostro.engine.sequence import Sequence
    from ostro.ops.batch import LayerKind


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens start:end of a sequence."""

    sequence: Sequence
    start: int
    end: int

    @property
    def wanted(self) -> bool:
        """Whether the part reaches the sequence's end, so that its last row tells the next token."""
        return self.end == len(self.sequence.token_ids)


@dataclass(frozen=True, slots=True)
class Step:
    """parts: the sequences of the batch, in its order; batch is None when there is nothing to compute.

    stuck: a sequence that is alone and yet gets no memory for its next tokens.
    """

    parts: list[Part]
    batch: Batch | None
    stuck: Sequence | None = None


class Scheduler:
    """Owns the order of sequences; pages are taken here, before the model needs them."""

    def __init__(self, pages: KvPages, *, max_seqs: int, prefill_chunk: int) -> None:
        self.pages = pages
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.preemptions = 0
        self._max_seqs = max_seqs
        self._prefill_chunk = prefill_chunk

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the waiting line."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and free its pages."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self.pages.release(sequence.pages)

    def next_readers(self) -> Iterator[Sequence]:
        """The sequences whose prompts are read next, in order: the running ones, and those with a place."""
        yield from self.running
        yield from islice(self.waiting, max(0, self._max_seqs - len(self.running)))

    def next_step(self) -> Step:
        """Choose rows and reserve their pages."""
        parts: list[Part] = []
        budget = self._prefill_chunk
        preemptions = self.preemptions
        place = 0
        while place < len(self.running):
            sequence = self.running[place]
            end = self._end(sequence, budget)
            if end > sequence.computed:
                if not self._reserve(sequence, end):
                    # Only the youngest comes here: it keeps its pages and waits, unless it is alone.
                    return self._step(parts, stuck=sequence if place == 0 else None)
                budget -= self._take(parts, sequence, end)
            place += 1
        if self.preemptions == preemptions:
            stuck = self._admit(parts, budget)
            return self._step(parts, stuck)
        return self._step(parts)

    def advance(self, parts: list[Part]) -> None:
        """The rows of a step are in the cache: free the local pages that fell out of the window."""
        for part in parts:
            part.sequence.advance(part.end)
            self.pages.trim(part.sequence.pages, part.end)

    def _admit(self, parts: list[Part], budget: int) -> Sequence | None:
        while self.waiting and len(self.running) < self._max_seqs:
            sequence = self.waiting[0]
            end = self._end(sequence, budget)
            if end == sequence.computed or (self.running and not self._has_room(sequence)):
                break
            if not self.pages.reserve(sequence.pages, end):
                return None if self.running else sequence
            self.running.append(self.waiting.popleft())
            if sequence.admitted_at is None:
                sequence.admitted_at = time.perf_counter()
            budget -= self._take(parts, sequence, end)
        return None

    def _end(self, sequence: Sequence, budget: int) -> int:
        if sequence.pending == 1:
            return len(sequence.token_ids)
        return sequence.chunk_end(max(0, budget), may_exceed=budget == self._prefill_chunk)

    def _take(self, parts: list[Part], sequence: Sequence, end: int) -> int:
        """Add a part; returns what it takes from the budget. A single row is free: decoding never waits."""
        parts.append(Part(sequence, sequence.computed, end))
        rows = end - sequence.computed
        return rows if rows > 1 else 0

    def _reserve(self, sequence: Sequence, end: int) -> bool:
        while not self.pages.reserve(sequence.pages, end):
            youngest = self.running[-1]
            if youngest is sequence:
                return False
            self.running.pop()
            self.pages.release(youngest.pages)
            youngest.computed = 0
            self.waiting.appendleft(youngest)
            self.preemptions += 1
        return True

    def _has_room(self, newcomer: Sequence) -> bool:
        """Whether a newcomer can be computed as a whole beside what the running sequences have still to read.

        One page for each is kept free, or a preempted sequence would be admitted and preempted in turns.
        """
        needs: dict[LayerKind, int] = {}
        for kind, group in self.pages.groups.items():
            need = len(self.running) + 1
            for sequence in (*self.running, newcomer):
                if sequence.pending > 1:
                    need += max(0, group.peak(len(sequence.token_ids)) - sequence.pages[kind].held)
            needs[kind] = need
        return self.pages.has_room(needs)

    def _step(self, parts: list[Part], stuck: Sequence | None = None) -> Step:
        return Step(parts, self._batch(parts) if parts else None, stuck)

    def _batch(self, parts: list[Part]) -> Batch:
        token_ids: list[int] = []
        positions: list[int] = []
        key_ends: list[int] = []
        starts = [0]
        wanted: list[int] = []
        image_rows: list[NDArray[np.float32]] = []
        image_at: list[int] = []
        for part in parts:
            row = len(token_ids)
            token_ids += part.sequence.token_ids[part.start : part.end]
            positions += range(part.start, part.end)
            key_ends += range(part.start + 1, part.end + 1)
            for span in part.sequence.prompt.images:
                if part.start <= span.start < part.end:
                    first = row + span.start - part.start
                    key_ends[first : first + span.length] = [span.start + span.length] * span.length
                    image_rows.append(part.sequence.image_rows[span.content_hash])
                    image_at += range(first, first + span.length)
            starts.append(len(token_ids))
            if part.wanted:
                wanted.append(len(token_ids) - 1)
        return Batch(
            token_ids=np.array(token_ids, np.int32),
            positions=np.array(positions, np.int32),
            row_starts=np.array(starts, np.int32),
            key_ends=np.array(key_ends, np.int32),
            page_tables={kind: _page_tables(parts, kind) for kind in self.pages.groups},
            wanted=np.array(wanted, np.int32),
            image_rows=np.concatenate(image_rows) if image_rows else None,
            image_at=np.array(image_at, np.int32) if image_rows else None,
        )


def _page_tables(parts: list[Part], kind: LayerKind) -> NDArray[np.int32]:
    if len(parts) == 1:
        return parts[0].sequence.pages[kind].ids[None, : pages_for(parts[0].end)]
    widths = [pages_for(part.end) for part in parts]
    tables = np.full((len(parts), max(widths)), -1, np.int32)
    for row, part, width in zip(tables, parts, widths, strict=True):
        row[:width] = part.sequence.pages[kind].ids[:width]
    return tables
