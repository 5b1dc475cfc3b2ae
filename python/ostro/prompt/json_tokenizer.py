"""Gemma 3's tokenizer from a `tokenizer.json`, read by Hugging Face's tokenizers library."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tokenizers import AddedToken
from tokenizers import Tokenizer as Library
from tokenizers.models import BPE

from ostro.errors import BadConfig, CorruptFile
from ostro.prompt.control import ALWAYS_CONTROL, ControlTexts
from ostro.prompt.pieces import PieceTokenizer

if TYPE_CHECKING:
    from pathlib import Path

_ALWAYS_CONTROL = re.compile(ALWAYS_CONTROL)


class JsonTokenizer(PieceTokenizer):
    """BPE as the file has it: ranks from its merge list, its normalizer, its added tokens.

    Control tokens are the added tokens marked special, and Gemma's own whatever the file says of them.
    CorruptFile if the file is unreadable, BadConfig if it is not a BPE with byte fallback and `<bos>`.
    """

    def __init__(self, path: Path) -> None:
        try:
            library = Library.from_file(str(path))
        except Exception as error:  # the library raises nothing more specific
            raise CorruptFile(f"{path}: not a readable tokenizer.json: {error}") from error
        model = library.model
        if not isinstance(model, BPE) or not model.byte_fallback:
            raise BadConfig(
                f"{path}: Gemma 3 needs a BPE model with byte_fallback, found {type(model).__name__}"
            )
        byte_ids = {value: library.token_to_id(f"<0x{value:02X}>") for value in range(256)}
        self._bytes = {i: value for value, i in byte_ids.items() if i is not None}
        if len(self._bytes) != len(byte_ids):
            raise BadConfig(f"{path}: byte_fallback without all of the byte tokens <0x00> to <0xFF>")

        added = sorted(library.get_added_tokens_decoder().items())
        control = {token.content: i for i, token in added if _is_control(token)}
        super().__init__(ControlTexts(control))
        if "<bos>" not in control:
            raise BadConfig(f"{path}: no <bos> among added_tokens")
        self.bos_id = control["<bos>"]
        self.vocab_size = max(library.get_vocab_size(with_added_tokens=False), added[-1][0] + 1)
        self._full = library

        # The same model, normalizer and pre-tokenizer, yet blind to control tokens: the library can ignore
        # only those marked special, which leaves out <mask> and the unused ones.
        self._ordinary = Library(model)
        if library.normalizer is not None:
            self._ordinary.normalizer = library.normalizer
        if library.pre_tokenizer is not None:
            self._ordinary.pre_tokenizer = library.pre_tokenizer
        ordinary = [(i, token) for i, token in added if not _is_control(token)]
        self._ordinary.add_tokens([token for _, token in ordinary])
        # Tokens that the model itself does not list got the next free ids there.
        renumbered = {self._ordinary.token_to_id(token.content): i for i, token in ordinary}
        self._renumbered = {theirs: ours for theirs, ours in renumbered.items() if theirs != ours}

    def _encode_ordinary(self, text: str) -> list[int]:
        ids: list[int] = self._ordinary.encode(text, add_special_tokens=False).ids
        return [self._renumbered.get(i, i) for i in ids] if self._renumbered else ids

    def _piece(self, token_id: int) -> str | None:
        if not 0 <= token_id < self.vocab_size:
            return None
        piece: str | None = self._full.id_to_token(token_id)
        return piece

    def _byte(self, token_id: int) -> int | None:
        return self._bytes.get(token_id)

    def _find_piece(self, piece: str) -> int | None:
        token_id: int | None = self._full.token_to_id(piece)
        return None if token_id in self._bytes else token_id


def _is_control(token: AddedToken) -> bool:
    return bool(token.special) or _ALWAYS_CONTROL.fullmatch(token.content) is not None
