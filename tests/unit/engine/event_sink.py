"""A reader of one sequence's events."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ostro.types import Event


class Sink:
    """Collects the events of one sequence."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.arrived: queue.Queue[Event] = queue.Queue()
        self.done = threading.Event()

    def __call__(self, event: Event) -> None:
        assert not self.done.is_set(), "an event after the last"
        self.events.append(event)
        self.arrived.put(event)
        if event.finish_reason is not None:
            self.done.set()

    def wait(self) -> Event:
        assert self.done.wait(30)
        return self.events[-1]
