"""The code blocks of a Markdown page, and what a comment before each says about running it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RUNNABLE = {"python", "console"}

_BLOCK = re.compile(
    r"(?:^<!-- (?P<marker>[^\n]*?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Snippet:
    """A block of `language`; marker: "run", "run: server", "run: serve", "not run: why", or None."""

    page: str
    line: int
    language: str
    marker: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[tuple[str, list[str]]]:
        """For a console block: each command with the lines that it should print."""
        commands: list[tuple[str, list[str]]] = []
        for line in self.text.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                commands.append((line[2:], []))
            elif line.strip():
                commands[-1][1].append(line)
        return commands


def snippets() -> list[Snippet]:
    """All blocks of all pages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in _BLOCK.finditer(text):
            line = text.count("\n", 0, block.start("language")) + 1
            name = str(page.relative_to(ROOT))
            found.append(Snippet(name, line, block["language"], block["marker"], block["text"]))
    return found


def shape(line: str) -> str:
    """A printed line without what differs from run to run: numbers, processor, instruction set, folders."""
    line = re.sub(r" on .*: [\w-]+, \d+ threads?$", " on CPU", line)
    line = re.sub(r"\S+/(?=picture\.png$)", "", line)
    return " ".join(_NUMBER.sub("#", line).split())
