"""Text to token ids and back, whichever file the vocabulary came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ostro.types import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ostro.loading.checkpoint import GgufVocabulary
    from ostro.prompt.control import ControlTexts


class Tokenizer(Vocabulary, Protocol):
    """Gemma 3's tokenizer. Immutable, so that threads may share it."""

    @property
    def bos_id(self) -> int:
        """The id of `<bos>`."""

    @property
    def control(self) -> ControlTexts:
        """The texts of all control tokens; includes image markers."""

    def is_control(self, token_id: int) -> bool:
        """Whether the token steers the model instead of being text."""

    def token_text(self, token_id: int) -> str:
        """The token alone as text, control tokens literally, U+FFFD for part of a character."""

    def id_of(self, text: str) -> int | None:
        """The id of the token with exactly this text, None if there is none."""

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of `ids`; skip_special: leave control tokens out instead of writing their literal text."""


def load_tokenizer(source: Path | GgufVocabulary) -> Tokenizer:
    """Tokenizer of a `tokenizer.json` or of a GGUF file's metadata.

    CorruptFile if the vocabulary is malformed, BadConfig if it is sound but not of Gemma's kind.
    """
    # Each implementation needs a library that takes time to import; a process uses one of them.
    if isinstance(source, Path):
        from ostro.prompt.json_tokenizer import JsonTokenizer

        return JsonTokenizer(source)
    from ostro.prompt.gguf_tokenizer import GgufTokenizer

    return GgufTokenizer(source)
