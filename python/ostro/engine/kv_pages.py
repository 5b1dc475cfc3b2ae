"""Which KV page belongs to which sequence.

Knows page ids and positions, not what is inside a page. Global layers keep every page of a sequence, local
layers only those that intersect the sliding window. Stores grow on demand and never shrink.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ostro.ops.protocol import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ostro.ops.batch import LayerKind
    from ostro.ops.protocol import KvStore

_MAX_GROWTH = 16 << 20


def pages_for(positions: int) -> int:
    """Pages that hold the positions [0, positions)."""
    return -(-positions // PAGE_SIZE)


class PageTable:
    """Page ids of one sequence in one group: entries first:last are held, all others are -1."""

    __slots__ = ("first", "ids", "last")

    def __init__(self) -> None:
        self.ids: NDArray[np.int32] = np.full(8, -1, np.int32)
        self.first = 0
        self.last = 0

    @property
    def held(self) -> int:
        """Number of pages held."""
        return self.last - self.first

    def extend(self, page_ids: list[int]) -> None:
        """Append pages for the positions that follow."""
        last = self.last + len(page_ids)
        if last > len(self.ids):
            ids = np.full(max(last, 2 * len(self.ids)), -1, np.int32)
            ids[: self.last] = self.ids[: self.last]
            self.ids = ids
        self.ids[self.last : last] = page_ids
        self.last = last

    def drop(self, end: int) -> list[int]:
        """Give back the pages whose index is below `end`."""
        end = min(end, self.last)
        if end <= self.first:
            return []
        page_ids: list[int] = self.ids[self.first : end].tolist()
        self.ids[self.first : end] = -1
        self.first = end
        return page_ids

    def clear(self) -> list[int]:
        """Give back everything and start again at position 0."""
        page_ids = self.drop(self.last)
        self.first = self.last = 0
        return page_ids


SequencePages = dict["LayerKind", PageTable]


class PageGroup:
    """The pages of one store. window: positions a row looks back on, itself included; None for all."""

    def __init__(self, store: KvStore, window: int | None, step_rows: int) -> None:
        self._store = store
        self.window = window
        self.page_nbytes = store.page_nbytes
        self.capacity = 0
        self.guard = 0
        self.free: list[int] = []
        # Any run of n positions touches at most this many pages.
        self._most = None if window is None else (window - 1 + step_rows - 2) // PAGE_SIZE + 2

    @property
    def used(self) -> int:
        """Pages that sequences hold."""
        return self.capacity - len(self.free)

    def peak(self, length: int) -> int:
        """Most pages that a sequence holds at a time on its way to `length` positions."""
        pages = pages_for(length)
        return pages if self._most is None else min(pages, self._most)

    def grow(self, capacity: int) -> bool:
        """Make page ids below `capacity` usable; False when the machine has no room."""
        try:
            self._store.reserve(capacity)
        except MemoryError:
            return False
        self.free.extend(range(capacity - 1, self.capacity - 1, -1))
        self.capacity = capacity
        return True


class KvPages:
    """Page tables of all sequences, within `ceiling` bytes over all groups.

    step_rows: most rows that one sequence has in one step. context_length: upper bound of `longest`, the
    number of positions that a sequence can have when it is alone, 0 if not even one page of each group fits.
    """

    def __init__(
        self,
        stores: Mapping[LayerKind, KvStore],
        window: int | None,
        *,
        ceiling: int,
        context_length: int,
        step_rows: int,
    ) -> None:
        self.groups: dict[LayerKind, PageGroup] = {
            kind: PageGroup(store, window if kind == "local" else None, step_rows)
            for kind, store in stores.items()
        }
        self.ceiling = ceiling
        self.longest = self._longest(context_length)
        # No group may grow into the room that the others need for one sequence of the greatest length.
        needs = {kind: group.peak(self.longest) for kind, group in self.groups.items()}
        for kind, group in self.groups.items():
            others = sum(needs[k] * g.page_nbytes for k, g in self.groups.items() if k != kind)
            group.guard = max(0, (ceiling - others) // group.page_nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes of all pages that the stores have made usable."""
        return sum(group.capacity * group.page_nbytes for group in self.groups.values())

    def nbytes_for(self, length: int) -> int:
        """Most bytes that a sequence of `length` positions holds at a time."""
        return sum(group.peak(length) * group.page_nbytes for group in self.groups.values())

    def new_tables(self) -> SequencePages:
        """Empty tables for a new sequence; may be called from any thread."""
        return {kind: PageTable() for kind in self.groups}

    def reserve(self, tables: SequencePages, end: int) -> bool:
        """Make the positions below `end` writable. All or nothing: False leaves everything as it was."""
        pages = pages_for(end)
        missing = {kind: pages - table.last for kind, table in tables.items() if table.last < pages}
        if not missing:
            return True
        if not (self.has_room(missing) and self._grow(missing)):
            return False
        for kind, count in missing.items():
            free = self.groups[kind].free
            tables[kind].extend(free[: -count - 1 : -1])
            del free[-count:]
        return True

    def has_room(self, pages: Mapping[LayerKind, int]) -> bool:
        """Whether so many further pages of each kind fit under the ceiling."""
        room = self.ceiling - self.nbytes
        for kind, count in pages.items():
            group = self.groups[kind]
            growth = count - len(group.free)
            if growth > 0:
                room -= growth * group.page_nbytes
                if room < 0 or group.capacity + growth > group.guard:
                    return False
        return True

    def trim(self, tables: SequencePages, position: int) -> None:
        """Free the pages that no row at `position` or after it can see."""
        for kind, table in tables.items():
            group = self.groups[kind]
            if group.window is not None:
                end = (position - group.window + 1) // PAGE_SIZE
                if end > table.first:
                    group.free.extend(table.drop(end))

    def release(self, tables: SequencePages) -> None:
        """Free all pages of a sequence; the tables can be filled anew from position 0."""
        for kind, table in tables.items():
            self.groups[kind].free.extend(table.clear())

    def _grow(self, pages: Mapping[LayerKind, int]) -> bool:
        for kind, count in pages.items():
            group = self.groups[kind]
            growth = count - len(group.free)
            if growth <= 0:
                continue
            # By a quarter while small, so that one short sequence does not take the memory of a long one.
            chunk = min(_MAX_GROWTH, self.ceiling // 32) // group.page_nbytes
            chunk = max(min(chunk, group.capacity // 4), group.capacity // 8)
            room = self.ceiling - self.nbytes - self._growth_nbytes(pages, besides=kind)
            most = min(group.guard - group.capacity, room // group.page_nbytes)
            generous = min(max(growth, chunk), most)
            if not group.grow(group.capacity + generous) and not group.grow(group.capacity + growth):
                return False
        return True

    def _growth_nbytes(self, pages: Mapping[LayerKind, int], *, besides: LayerKind) -> int:
        growths = (
            max(0, count - len(self.groups[kind].free)) * self.groups[kind].page_nbytes
            for kind, count in pages.items()
            if kind != besides
        )
        return sum(growths)

    def _longest(self, context_length: int) -> int:
        low, high = 0, context_length
        while low < high:
            middle = (low + high + 1) // 2
            if self.nbytes_for(middle) <= self.ceiling:
                low = middle
            else:
                high = middle - 1
        return low
