"""Translates the hub library's progress bars into our callback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ostro.loading.checkpoint import Progress


def bar_class(what: str, progress: Progress | None) -> type[Any]:
    """A subclass of tqdm that shows nothing and reports the bytes of `what`."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc] # tqdm has no types
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})
            self._done = 0
            self.update(kwargs.get("initial", 0))

        def update(self, n: float | None = 1) -> None:
            self._done += int(n or 0)
            total = int(self.total or 0)
            if progress is not None:
                progress(what, min(self._done, total) if total else self._done, total)

    return Bar
