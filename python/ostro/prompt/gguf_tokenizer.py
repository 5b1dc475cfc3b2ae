"""Gemma 3's tokenizer from the metadata of a GGUF file: SentencePiece's pieces, scores and types."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from ostro.errors import CorruptFile
from ostro.loading.packed_texts import PackedTexts
from ostro.prompt.control import ALWAYS_CONTROL, ControlTexts
from ostro.prompt.merges import BYTE, CONTROL, NORMAL, UNKNOWN, Merges
from ostro.prompt.pieces import WORD_BOUNDARY, PieceTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ostro.loading.checkpoint import GgufVocabulary

_LONGEST_PIECE = 1 << 16
_CONTROL_BETWEEN_NULS = re.compile(rb"\0%b(?=\0)" % ALWAYS_CONTROL.encode())


class GgufTokenizer(PieceTokenizer):
    """SentencePiece BPE on the vocabulary of a GGUF file (tokenizer.ggml.model = "llama").

    CorruptFile naming the metadata key if lists disagree or pieces are impossible.
    """

    def __init__(self, vocabulary: GgufVocabulary) -> None:
        _check(vocabulary)
        pieces = _packed(vocabulary.pieces)
        lengths = pieces.lengths()
        if lengths.min() < 1 or lengths.max() > _LONGEST_PIECE:
            raise CorruptFile(
                f"tokenizer.ggml.tokens: a piece of {lengths.min()} or {lengths.max()} bytes; "
                f"1 to {_LONGEST_PIECE:,} are possible"
            )

        types = _types_put_right(vocabulary, pieces)
        control = np.flatnonzero((types == CONTROL) | (types == UNKNOWN)).tolist()
        spelled = vocabulary.pieces
        super().__init__(ControlTexts({spelled[i]: i for i in reversed(control)}))
        self.bos_id = vocabulary.bos_id
        self.vocab_size = len(pieces)
        self._pieces = pieces
        self._bytes = _byte_values(pieces, types)
        by_value = {value: token_id for token_id, value in self._bytes.items()}
        self._merges = Merges(pieces, vocabulary.scores, types, [by_value[value] for value in range(256)])
        self._prefix = WORD_BOUNDARY if vocabulary.add_space_prefix else ""

    def _encode_ordinary(self, text: str) -> list[int]:
        return self._merges.encode(self._prefix + text.replace(" ", WORD_BOUNDARY))

    def _piece(self, token_id: int) -> str | None:
        return self._pieces[token_id] if 0 <= token_id < self.vocab_size else None

    def _byte(self, token_id: int) -> int | None:
        return self._bytes.get(token_id)

    def _find_piece(self, piece: str) -> int | None:
        token_id = self._merges.find(piece)
        return None if token_id < 0 else token_id


def _check(vocabulary: GgufVocabulary) -> None:
    n = len(vocabulary.pieces)
    if n == 0:
        raise CorruptFile("tokenizer.ggml.tokens: the vocabulary is empty")
    for key, values in (("scores", vocabulary.scores), ("token_type", vocabulary.token_types)):
        if values.shape != (n,):
            raise CorruptFile(f"tokenizer.ggml.{key}: {len(values):,} entries for {n:,} tokens")
    if np.isnan(vocabulary.scores).any():
        raise CorruptFile("tokenizer.ggml.scores: not a number")
    types = vocabulary.token_types
    if types.min() < NORMAL or types.max() > BYTE:
        raise CorruptFile(
            f"tokenizer.ggml.token_type: values {types.min()} to {types.max()}, expected {NORMAL} to {BYTE}"
        )
    for key, token_id in (("bos", vocabulary.bos_id), ("unknown", vocabulary.unknown_id)):
        if not 0 <= token_id < n:
            raise CorruptFile(f"tokenizer.ggml.{key}_token_id: {token_id} is outside of {n:,} tokens")


def _packed(pieces: Sequence[str]) -> PackedTexts:
    """The pieces as SentencePiece has them: spaces, which files hold as such, are escaped."""
    try:
        return PackedTexts.pack(pieces).replace(" ", WORD_BOUNDARY)
    except UnicodeEncodeError as error:
        raise CorruptFile("tokenizer.ggml.tokens: a piece is not valid Unicode") from error
    except ValueError as error:
        raise CorruptFile("tokenizer.ggml.tokens: a piece contains a NUL character") from error


def _types_put_right(vocabulary: GgufVocabulary, pieces: PackedTexts) -> NDArray[np.uint8]:
    """Types as SentencePiece has them: exactly one unknown piece, all control tokens unmatchable."""
    types: NDArray[np.uint8] = vocabulary.token_types.astype(np.uint8)
    found = [match.start() for match in _CONTROL_BETWEEN_NULS.finditer(pieces.joined)]
    types[np.searchsorted(pieces.marks, found)] = CONTROL
    types[types == UNKNOWN] = CONTROL
    types[vocabulary.bos_id] = CONTROL
    types[vocabulary.unknown_id] = UNKNOWN
    return types


def _byte_values(pieces: Sequence[str], types: NDArray[np.uint8]) -> dict[int, int]:
    wanted = {f"<0x{value:02X}>": value for value in range(256)}
    ids = np.flatnonzero(types == BYTE).tolist()
    if {pieces[i] for i in ids} != wanted.keys():
        raise CorruptFile(f"tokenizer.ggml.tokens: {len(ids)} byte tokens, expected <0x00> to <0xFF>")
    return {i: wanted[pieces[i]] for i in ids}
