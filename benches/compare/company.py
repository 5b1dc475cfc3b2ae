"""How much of the machine other processes used while something was measured."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

DISTURBED = 0.1
"""Share of the machine: a sample during which others used more is worth less."""


@dataclass(frozen=True)
class Moment:
    """CPU seconds used so far, by everybody and by each of our processes.

    Everybody includes other guests of the hypervisor, as far as they make us wait.
    """

    time: float
    everybody: float
    ours: dict[int, float]

    @classmethod
    def now(cls) -> Moment:
        """This moment."""
        return cls(time.perf_counter(), _busy_seconds(), _own_seconds())

    def others_since(self) -> float:
        """Share of the machine, 0..1, that was used since then, but not by this process or its workers."""
        now = Moment.now()
        # Workers that are new did all they did since then; those that ended meanwhile count as others.
        ours = sum(seconds - self.ours.get(pid, 0.0) for pid, seconds in now.ours.items())
        others = now.everybody - self.everybody - ours
        return min(1.0, max(0.0, others / ((now.time - self.time) * (psutil.cpu_count() or 1))))


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    # Guests are part of user and nice.
    idle = {"idle", "iowait", "guest", "guest_nice"}
    return float(sum(value for name, value in times._asdict().items() if name not in idle))


def _own_seconds() -> dict[int, float]:
    """CPU seconds by process id, of this process and all that it started."""
    found: dict[int, float] = {}
    process = psutil.Process()
    for one in (process, *process.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found[one.pid] = times.user + times.system
    return found
