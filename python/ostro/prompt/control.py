"""Control tokens: which texts they are, and where they stand in a text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Some published files type these as ordinary pieces; read as such, a user's text could end a turn.
ALWAYS_CONTROL = (
    "<(?:pad|eos|bos|unk|mask|start_of_turn|end_of_turn|start_of_image|end_of_image|image_soft_token"
    "|unused[0-9]+)>"
)
"""Regular expression of the texts that are control tokens of Gemma 3 whatever a file says."""


class ControlTexts:
    """The literal texts of a vocabulary's control tokens, and their ids."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids: dict[str, int] = {text: token_id for text, token_id in ids.items() if text}
        lengths: dict[str, set[int]] = {}
        for text in self.ids:
            lengths.setdefault(text[0], set()).add(len(text))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        seconds: dict[str, set[str]] = {}
        for text in self.ids:
            seconds.setdefault(text[0], set()).add(text[1:2])
        self._start = re.compile("|".join(_first_two(*pair) for pair in seconds.items()) or "(?!)")

    def below(self, limit: int) -> ControlTexts:
        """Those with an id below `limit`."""
        return ControlTexts({text: token_id for text, token_id in self.ids.items() if token_id < limit})

    def split(self, text: str) -> list[str | int]:
        """Ids of control tokens, the longest at each position, and the non-empty texts between them."""
        parts: list[str | int] = []
        done = 0
        for match in self._start.finditer(text):
            at = match.start()
            if at < done:
                continue
            for length in self._lengths[text[at]]:
                candidate = text[at : at + length]
                if (token_id := self.ids.get(candidate)) is not None:
                    if at > done:
                        parts.append(text[done:at])
                    parts.append(token_id)
                    done = at + len(candidate)
                    break
        if done < len(text):
            parts.append(text[done:])
        return parts


def _first_two(first: str, seconds: set[str]) -> str:
    """Where a text of this beginning may start; one-character texts leave the second character open."""
    if "" in seconds:
        return re.escape(first)
    return f"{re.escape(first)}(?=[{''.join(map(re.escape, sorted(seconds)))}])"
