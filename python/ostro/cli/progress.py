"""Progress bars of downloads, of loading, and of work that is counted."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress, TaskID

    from ostro.loading.checkpoint import Progress as Report


class _Bars:
    """One bar per file, made when the first byte is reported: a model that is at hand shows nothing."""

    def __init__(self) -> None:
        self.display: Progress | None = None
        self._bars: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.display is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self.display = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.display.start()
        if what not in self._bars:
            self._bars[what] = self.display.add_task(what, total=total or None)
        self.display.update(self._bars[what], completed=done, total=total or None)


@contextmanager
def bars() -> Iterator[Report | None]:
    """A callback for loaders that draws on stderr; None when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    shown = _Bars()
    try:
        yield shown
    finally:
        if shown.display is not None:
            shown.display.stop()


@contextmanager
def counter(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A callback for (done, total) that draws on stderr; None when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as display:
        bar = display.add_task(what, total=None)
        yield lambda done, total: display.update(bar, completed=done, total=total)
