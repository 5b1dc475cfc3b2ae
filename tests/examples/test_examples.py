"""The programs of examples/ run to their end and print something."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.examples.conftest import with_port
from tests.examples.snippets import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.examples.conftest import Workplace

PYTHON = sorted((ROOT / "examples" / "python").glob("*.py"))
SERVER = sorted((ROOT / "examples" / "server").glob("*.py"))


def test_there_are_examples() -> None:
    assert len(PYTHON) >= 5
    assert len(SERVER) >= 4


@pytest.mark.parametrize("example", PYTHON, ids=lambda path: path.stem)
def test_python_example(example: Path, workplace: Workplace) -> None:
    done = workplace.python(example.read_text(encoding="utf-8"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("example", SERVER, ids=lambda path: path.stem)
def test_server_example(example: Path, workplace: Workplace, server_port: int) -> None:
    done = workplace.python(with_port(example.read_text(encoding="utf-8"), server_port))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
