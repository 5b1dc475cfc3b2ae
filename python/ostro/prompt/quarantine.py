"""Keeps the texts of users from becoming control tokens inside a chat template.

A template writes markup and messages into one string, in which `<end_of_turn>` is the same whoever wrote
it. So before rendering, a mark (a character that occurs nowhere else) is put into every place of a user's
text where a control token could begin or end. Control tokens found afterwards have no mark in them, hence
no user's text; then the marks are taken out. White space at the ends of a text stays at its ends, and tags
that the template's source itself looks for stay whole, so `trim`, `split('</think>')` and the like do what
they always do.

A run of marks with a number is a tag: it shows where something has gone that a template moved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ostro.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ostro.prompt.control import ControlTexts

_TAG = re.compile(r"</?[\w|.:-]+/?>")
# Private use: planes 0, 15 and 16. No text means anything by them, yet all may occur in one.
_MARKS = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


# Protected text has two in a row at most, and the end of an unfinished message is marked with three.
_MARKS_OF_TAG = 4


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag found in what a template wrote."""

    number: int


class Quarantine:
    """Marks and unmarks the user texts that go through one template."""

    def __init__(self, source: str, control: ControlTexts) -> None:
        self._source = source
        self._control = control
        self._all = "\0".join(control.ids)
        first = {text[0] for text in control.ids}
        last = {text[-1] for text in control.ids}
        tags = sorted(
            {tag for tag in _TAG.findall(source) if not self._dangerous(tag)}, key=len, reverse=True
        )
        ends = sorted(first | last)
        self._spot = re.compile("|".join(map(re.escape, (*tags, *ends))) or "(?!)")
        self._first = first
        self._last = last

    def mark_for(self, texts: Iterable[str]) -> str:
        """A character that is in none of the texts, nor in the template or a control token."""
        taken = set(self._source).union(self._all, *texts)
        for mark in _candidates():
            if mark not in taken:
                return mark
        raise RequestError("the messages use every private-use character of Unicode", param="messages")

    def protect(self, text: str, mark: str) -> str:
        """The text with marks: after characters that begin control tokens, before those that end them."""
        marked = self._spot.sub(lambda match: self._marked(match[0], mark), text)
        core = text.strip()
        if core and core in self._all and mark not in marked:
            # It may be the middle of a token whose first and last character the template writes.
            at = text.index(core) + 1
            return text[:at] + mark + text[at:]
        return marked

    @staticmethod
    def tag(number: int, mark: str) -> str:
        """The text of a tag, which may stand between protected texts."""
        return f"{mark * _MARKS_OF_TAG}{number};"

    def split(self, rendered: str, mark: str) -> list[str | int | Tag]:
        """Control tokens that the template wrote, tags, and all other text, without marks."""
        tag = re.compile(f"{re.escape(mark)}{{{_MARKS_OF_TAG},}}([0-9]+);")
        parts: list[str | int | Tag] = []
        for part in self._control.split(rendered):
            if isinstance(part, int):
                parts.append(part)
                continue
            for i, piece in enumerate(tag.split(part)):  # texts and numbers by turns
                parts.append(Tag(int(piece)) if i % 2 else piece.replace(mark, ""))
        return [part for part in parts if part != ""]

    def _marked(self, spot: str, mark: str) -> str:
        before = mark if spot in self._last else ""
        after = mark if spot in self._first else ""
        return f"{before}{spot}{after}"

    def _dangerous(self, tag: str) -> bool:
        return tag in self._all or any(isinstance(part, int) for part in self._control.split(tag))


def _candidates() -> Iterator[str]:
    for codes in _MARKS:
        yield from map(chr, codes)
