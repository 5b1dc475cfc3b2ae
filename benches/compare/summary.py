"""Samples to medians, medians to ratios, both to a table and a record."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benches.compare.company import DISTURBED
from benches.compare.peers import LLAMA_CPP_ENGINES
from benches.compare.rows import ROWS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benches.compare.rows import Row

US = "ostro"
BEST_LLAMA = "llama.cpp"
PEERS = {BEST_LLAMA: LLAMA_CPP_ENGINES, "mistral.rs": ("mistral.rs",), "openvino": ("openvino",)}
"""Whom ostro is divided by, and the engines among which the best one counts."""


@dataclass
class Cell:
    """All samples of one engine in one row, in the row's unit; error: why there are not more.

    others: what share of the machine other processes used during each sample.
    """

    samples: list[float] = field(default_factory=list)
    error: str | None = None
    others: list[float] = field(default_factory=list)

    @property
    def median(self) -> float | None:
        return statistics.median(self.samples) if self.samples else None


Table = dict[str, dict[str, Cell]]
"""Row name -> engine name -> cell."""


def ratio(row: Row, cells: Mapping[str, Cell], peers: Iterable[str]) -> float | None:
    """How many times better ostro's median is than the best one of `peers`; None if either is missing."""
    own = cells[US].median if US in cells else None
    others = [median for name in peers if name in cells and (median := cells[name].median) is not None]
    if own is None or not others:
        return None
    return min(others) / own if row.less_is_better else own / max(others)


def ratios(table: Table) -> dict[str, dict[str, float | None]]:
    """Row name -> peer -> `ratio`, of the peers that took part."""
    return {
        name: {
            peer: ratio(ROWS[name], cells, engines)
            for peer, engines in PEERS.items()
            if not cells.keys().isdisjoint(engines)
        }
        for name, cells in table.items()
    }


def lines(table: Table, engines: Sequence[str]) -> list[str]:
    """The table for people: medians with their spread, ratios, and what could not be measured."""
    peers = [peer for peer, names in PEERS.items() if not set(engines).isdisjoint(names)]
    head = ["", "unit", *engines, *(f"ostro : {peer}" for peer in peers)]
    known = ratios(table)
    body = [
        [
            ROWS[name].title,
            ROWS[name].unit,
            *(_cell(cells.get(engine)) for engine in engines),
            *("-" if (value := known[name].get(peer)) is None else f"{value:.2f}x" for peer in peers),
        ]
        for name, cells in table.items()
    ]
    widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
    notes = [
        f"{ROWS[name].title}, {engine}: {cell.error}"
        for name, cells in table.items()
        for engine, cell in cells.items()
        if cell.error
    ]
    shares = [share for cells in table.values() for cell in cells.values() for share in cell.others]
    disturbed = sum(share > DISTURBED for share in shares)
    if disturbed:
        notes.append(
            f"other processes used more than {DISTURBED:.0%} of the machine "
            f"during {disturbed} of {len(shares)} samples"
        )
    return [_line(line, widths) for line in (head, *body)] + notes


def _cell(cell: Cell | None) -> str:
    if cell is None or cell.median is None:
        return "-"
    if len(cell.samples) == 1:
        return _number(cell.median)
    return f"{_number(cell.median)} ({_number(min(cell.samples))}..{_number(max(cell.samples))})"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(width) if column < 2 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join((first, *others)).rstrip()


def record(table: Table) -> dict[str, Any]:
    """The table for programs: every sample, null where there is none."""
    return {
        name: {
            "unit": ROWS[name].unit,
            "engines": {
                engine: {
                    "median": cell.median,
                    "min": min(cell.samples, default=None),
                    "max": max(cell.samples, default=None),
                    "samples": cell.samples,
                    "others": [round(share, 3) for share in cell.others],
                    "error": cell.error,
                }
                for engine, cell in cells.items()
            },
            "ratios": ratios({name: cells})[name],
        }
        for name, cells in table.items()
    }
