"""Other processes count as company, our own do not."""

from __future__ import annotations

import time

import psutil
import pytest
from benches.compare import company
from benches.compare.company import Moment


def test_own_work_is_no_company(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if this process alone used the machine: everybody's time is ours.
    monkeypatch.setattr(company, "_busy_seconds", time.process_time)
    before = Moment.now()
    while time.perf_counter() < before.time + 0.3:
        pass
    assert before.others_since() < 0.1


def test_what_nobody_of_us_used_is_company(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = psutil.cpu_count() or 1
    monkeypatch.setattr(company, "_busy_seconds", lambda: time.perf_counter() * cores / 2)
    before = Moment.now()
    time.sleep(0.2)
    assert before.others_since() == pytest.approx(0.5, abs=0.1)


def test_everybody_includes_us() -> None:
    before = company._busy_seconds()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    assert company._busy_seconds() - before >= 0.2


def test_processes_that_are_gone_are_left_out() -> None:
    moment = Moment(0.0, 0.0, {1: 5.0})
    assert 0 <= moment.others_since() <= 1
