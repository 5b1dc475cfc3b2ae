"""What all tokenizers of Gemma 3 have in common: pieces, byte tokens, control tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ostro.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ostro.prompt.control import ControlTexts

WORD_BOUNDARY = "▁"
"""How SentencePiece writes a space."""


class PieceTokenizer(ABC):
    """`ostro.prompt.tokenizer.Tokenizer` on top of four facts about a vocabulary."""

    bos_id: int
    vocab_size: int

    def __init__(self, control: ControlTexts) -> None:
        self.control = control
        self._control_texts = {token_id: text for text, token_id in control.ids.items()}

    @abstractmethod
    def _encode_ordinary(self, text: str) -> list[int]:
        """Ids of a valid Unicode text in which no control token is looked for."""

    @abstractmethod
    def _piece(self, token_id: int) -> str | None:
        """The piece as the file spells it; None where the vocabulary has none."""

    @abstractmethod
    def _byte(self, token_id: int) -> int | None:
        """The value of a byte token, None for all others."""

    @abstractmethod
    def _find_piece(self, piece: str) -> int | None:
        """The id of an ordinary piece, which is neither byte nor control token."""

    def encode(self, text: str, *, control: bool) -> list[int]:
        """Ids without `<bos>`; control: whether the literal texts of control tokens become those tokens.

        With control=False no text yields a control token. Unpaired surrogates count as U+FFFD.
        """
        text = valid_unicode(text)
        if not control:
            return self._encode_ordinary(text) if text else []
        ids: list[int] = []
        for part in self.control.split(text):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._encode_ordinary(part)
        return ids

    def is_control(self, token_id: int) -> bool:
        """Whether the token steers the model instead of being text."""
        return token_id in self._control_texts

    def token_bytes(self, token_id: int) -> bytes:
        """What the token adds to a text, in UTF-8 (possibly part of a character).

        Empty for control tokens and for ids that the vocabulary has no piece for (padding rows of a model).
        """
        if token_id in self._control_texts:
            return b""
        if (value := self._byte(token_id)) is not None:
            return bytes((value,))
        piece = self._piece(token_id)
        return b"" if piece is None else piece.replace(WORD_BOUNDARY, " ").encode()

    def token_text(self, token_id: int) -> str:
        """The token alone as text, control tokens literally, U+FFFD for part of a character.

        InvalidParameter if the vocabulary has no such id.
        """
        self._require(token_id)
        literal = self._control_texts.get(token_id)
        return self.token_bytes(token_id).decode(errors="replace") if literal is None else literal

    def id_of(self, text: str) -> int | None:
        """The id of the token with exactly this text (control or ordinary), None if there is none."""
        if (token_id := self.control.ids.get(text)) is not None:
            return token_id
        return self._find_piece(text.replace(" ", WORD_BOUNDARY)) if text else None

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of `ids`; skip_special: leave control tokens out instead of writing their literal text.

        A run of byte tokens that is not valid UTF-8 as a whole becomes one U+FFFD per byte, as in Hugging
        Face's ByteFallback decoder. InvalidParameter if the vocabulary has no such id.
        """
        text: list[str] = []
        run = bytearray()
        for token_id in ids:
            if skip_special and token_id in self._control_texts:
                continue
            value = self._byte(token_id)
            if value is not None and token_id not in self._control_texts:
                run.append(value)
                continue
            text += (_byte_run(run), self.token_text(token_id))
            run.clear()
        return "".join((*text, _byte_run(run)))

    def _require(self, token_id: int) -> None:
        if token_id not in self._control_texts and self._piece(token_id) is None:
            raise InvalidParameter(
                f"token id {token_id} is not in the vocabulary of {self.vocab_size:,} tokens", param="tokens"
            )


def _byte_run(run: bytearray) -> str:
    try:
        return run.decode()
    except UnicodeDecodeError:
        return "\N{REPLACEMENT CHARACTER}" * len(run)


def valid_unicode(text: str) -> str:
    """The text with surrogate pairs joined and unpaired surrogates replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
