from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ostro.engine.kv_pages import KvPages, pages_for
from ostro.ops.protocol import PAGE_SIZE
from tests.unit.engine.mock_model import MockStore

if TYPE_CHECKING:
    from ostro.engine.kv_pages import SequencePages
    from ostro.ops.batch import LayerKind
    from ostro.ops.protocol import KvStore

WINDOW = 100
KINDS: tuple[LayerKind, ...] = ("global", "local")


class Store(MockStore):
    def __init__(self, page_nbytes: int) -> None:
        super().__init__()
        self.page_nbytes = page_nbytes


def make(
    ceiling: int, *, step_rows: int = 128, context_length: int = 4096, window: int | None = WINDOW
) -> KvPages:
    stores: dict[LayerKind, KvStore] = {"global": Store(300), "local": Store(1500)}
    return KvPages(stores, window, ceiling=ceiling, context_length=context_length, step_rows=step_rows)


def test_pages_for() -> None:
    assert [pages_for(n) for n in (0, 1, 64, 65, 128, 129)] == [0, 1, 1, 2, 2, 3]


def test_a_local_table_keeps_exactly_the_window() -> None:
    pages = make(10**6)
    tables = pages.new_tables()
    assert pages.reserve(tables, 500)
    pages.trim(tables, 500)
    # A row at 500 sees the positions above 400, which begin in page 6.
    assert tables["local"].ids[:8].tolist()[:6] == [-1] * 6
    assert (tables["local"].ids[6:8] >= 0).all()
    assert (tables["global"].ids[:8] >= 0).all()
    assert pages.groups["local"].used == 2
    assert pages.groups["global"].used == 8


@pytest.mark.parametrize(("position", "first"), [(162, 0), (163, 1), (164, 1)])
def test_a_page_is_freed_with_its_last_visible_position(position: int, first: int) -> None:
    pages = make(10**6)
    tables = pages.new_tables()
    assert pages.reserve(tables, position)
    pages.trim(tables, position)
    assert tables["local"].first == first


def test_reserve_is_all_or_nothing() -> None:
    pages = make(4 * 1500 + 10 * 300, step_rows=2)
    tables = pages.new_tables()
    before = pages.nbytes
    assert not pages.reserve(tables, 64 * 8)
    assert pages.nbytes == before
    assert all(table.held == 0 for table in tables.values())


def test_memory_error_means_no_room_and_growth_is_tried_smaller() -> None:
    pages = make(10**7)
    tables = pages.new_tables()
    store = pages.groups["local"]._store
    assert isinstance(store, Store)
    store.limit = 2
    assert pages.reserve(tables, 128)
    assert not pages.reserve(tables, 129)
    store.limit = 3
    assert pages.reserve(tables, 129)


def test_stores_grow_in_steps_that_fit_the_ceiling() -> None:
    ceiling = 3_000_000
    pages = make(ceiling)
    tables = pages.new_tables()
    assert pages.reserve(tables, 1)
    assert 0 < pages.nbytes <= ceiling // 10


def test_a_short_sequence_takes_little_more_than_it_needs() -> None:
    pages = make(10**9)
    tables = pages.new_tables()
    for end in range(1, 2000):
        assert pages.reserve(tables, end)
        needed = sum(group.page_nbytes * tables[kind].last for kind, group in pages.groups.items())
        one_page_each = sum(group.page_nbytes for group in pages.groups.values())
        assert pages.nbytes <= needed * 5 // 4 + one_page_each


@pytest.mark.parametrize("step_rows", [1, 2, 64, 65, 300])
def test_peak_is_what_a_sequence_really_needs(step_rows: int) -> None:
    pages = make(10**8, step_rows=step_rows)
    worst = 0
    for offset in range(PAGE_SIZE):
        tables = pages.new_tables()
        end = 0
        while end < 900:
            end += step_rows if end else max(1, min(step_rows, offset))
            assert pages.reserve(tables, end)
            worst = max(worst, tables["local"].held)
            pages.trim(tables, end)
        pages.release(tables)
    assert worst <= pages.groups["local"].peak(10**6)
    assert worst >= pages.groups["local"].peak(10**6) - 1


@pytest.mark.parametrize("ceiling", [7_000, 9_900, 15_000, 40_000])
def test_the_longest_sequence_fits_however_the_stores_have_grown(ceiling: int) -> None:
    for greedy in range(1, 400, 13):
        pages = make(ceiling, step_rows=64)
        # Short sequences first: they make the local store as large as it may become.
        crowd = []
        while True:
            tables = pages.new_tables()
            if not pages.reserve(tables, greedy):
                break
            crowd.append(tables)
        for tables in crowd:
            pages.release(tables)
        tables = pages.new_tables()
        for end in range(1, pages.longest + 1):
            assert pages.reserve(tables, end), (greedy, end, pages.longest)
            pages.trim(tables, end)
        assert pages.nbytes <= ceiling


def test_longest_is_bounded_by_ceiling_and_context() -> None:
    assert make(10**9).longest == 4096
    assert make(1000).longest == 0
    assert make(1800).longest == 64
    ceiling = 5 * 1500 + 20 * 300  # (99 + 128 - 2) // 64 + 2 local pages
    assert make(ceiling).longest == 20 * 64


def test_without_local_layers() -> None:
    pages = KvPages({"global": Store(100)}, None, ceiling=1000, context_length=5000, step_rows=512)
    assert pages.longest == 640
    tables = pages.new_tables()
    assert pages.reserve(tables, 640)
    assert not pages.reserve(pages.new_tables(), 1)


class PagesMachine(RuleBasedStateMachine):
    """Any order of reserve, trim and release, checked against sets of pages."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = make(60_000, step_rows=200)
        self.live: list[tuple[SequencePages, int]] = []

    @rule()
    def start(self) -> None:
        self.live.append((self.pages.new_tables(), 0))

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 99), rows=st.integers(1, 200))
    def step(self, which: int, rows: int) -> None:
        which %= len(self.live)
        tables, end = self.live[which]
        held = {kind: table.held for kind, table in tables.items()}
        if self.pages.reserve(tables, end + rows):
            for kind in KINDS:
                first = 0 if kind == "global" else max(0, end - WINDOW + 1) // PAGE_SIZE
                ids = tables[kind].ids[first : pages_for(end + rows)]
                assert (ids >= 0).all()
            self.pages.trim(tables, end + rows)
            self.live[which] = tables, end + rows
        else:
            assert held == {kind: table.held for kind, table in tables.items()}

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 99), forget=st.booleans())
    def release(self, which: int, forget: bool) -> None:
        which %= len(self.live)
        tables, _ = self.live[which]
        self.pages.release(tables)
        if forget:
            del self.live[which]
        else:
            self.live[which] = tables, 0

    @invariant()
    def every_page_has_one_owner(self) -> None:
        for kind in KINDS:
            group = self.pages.groups[kind]
            owned = [
                page
                for tables, _ in self.live
                for page in tables[kind].ids[tables[kind].first : tables[kind].last].tolist()
            ]
            everything = sorted(owned + group.free)
            assert everything == list(range(group.capacity))
            assert group.used == len(owned)

    @invariant()
    def tables_show_what_is_visible_and_no_more(self) -> None:
        for tables, end in self.live:
            first = max(0, end - WINDOW + 1) // PAGE_SIZE
            assert (tables["global"].ids[: pages_for(end)] >= 0).all()
            assert (tables["local"].ids[first : pages_for(end)] >= 0).all()
            assert (tables["local"].ids[: min(first, tables["local"].last)] == -1).all()
            for kind in KINDS:
                assert (tables[kind].ids[tables[kind].last :] == -1).all()

    @invariant()
    def the_ceiling_holds(self) -> None:
        assert self.pages.nbytes <= self.pages.ceiling
        for kind in KINDS:
            group = self.pages.groups[kind]
            assert group.capacity == math.ceil(group._store.nbytes / group.page_nbytes)


PagesMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPagesMachine = PagesMachine.TestCase
