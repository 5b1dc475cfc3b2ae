"""The programs of examples/ run to their end and print something."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.examples.conftest import with_port
from tests.examples.snippets import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.examples.conftest import Workplace

PYTHON = sorted((ROOT / "examples" / "python").glob("*.py"))
SERVER = sorted((ROOT / "examples" / "server").glob("*.py"))


PAGE_ANSWER = re.compile(r"A large pink star .*large blue cross .* black background\.$", re.MULTILINE)
"""What the examples of the Gemma 3 page say about the picture."""


def test_there_are_examples() -> None:
    assert len(PYTHON) >= 8
    assert len(SERVER) >= 6


@pytest.mark.parametrize("example", PYTHON, ids=lambda path: path.stem)
def test_python_example(example: Path, workplace: Workplace) -> None:
    done = workplace.python(example.read_text(encoding="utf-8"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if example.stem == "gemma3":
        assert PAGE_ANSWER.match(done.stdout)
    if example.stem == "image_forms":
        answers = {line.partition(": ")[2] for line in done.stdout.splitlines()}
        assert len(answers) == 1
        assert PAGE_ANSWER.match(answers.pop())


@pytest.mark.parametrize("example", SERVER, ids=lambda path: path.stem)
def test_server_example(example: Path, workplace: Workplace, server_port: int) -> None:
    done = workplace.python(with_port(example.read_text(encoding="utf-8"), server_port))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if "picture.png" in example.read_text(encoding="utf-8") or example.stem == "gemma3":
        assert PAGE_ANSWER.match(done.stdout)
