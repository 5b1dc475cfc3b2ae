"""Gemma 3's tokenizer from the metadata of a GGUF file.

The file lists SentencePiece's pieces with their scores and types, so the model file that they came from is
written again and given to the SentencePiece library.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from sentencepiece import SentencePieceProcessor

from ostro.errors import CorruptFile
from ostro.prompt.control import ALWAYS_CONTROL, ControlTexts
from ostro.prompt.pieces import WORD_BOUNDARY, PieceTokenizer
from ostro.prompt.sentencepiece_proto import model_proto

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ostro.loading.checkpoint import GgufVocabulary

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_LONGEST_PIECE = 1 << 16
_CONTROL_BETWEEN_NULS = re.compile(rb"\0%b(?=\0)" % ALWAYS_CONTROL.encode())


class GgufTokenizer(PieceTokenizer):
    """SentencePiece BPE on the vocabulary of a GGUF file (tokenizer.ggml.model = "llama").

    CorruptFile naming the metadata key if lists disagree or pieces are impossible.
    """

    def __init__(self, vocabulary: GgufVocabulary) -> None:
        pieces = vocabulary.pieces
        _check(vocabulary)
        joined = _join(pieces)
        marks = np.flatnonzero(np.frombuffer(joined, np.uint8) == 0)
        if len(marks) != len(pieces) + 1:
            raise CorruptFile("tokenizer.ggml.tokens: a piece contains a NUL character")
        lengths = np.diff(marks) - 1
        if lengths.min() < 1 or lengths.max() > _LONGEST_PIECE:
            raise CorruptFile(
                f"tokenizer.ggml.tokens: a piece of {lengths.min()} or {lengths.max()} bytes; "
                f"1 to {_LONGEST_PIECE:,} are possible"
            )

        types = _library_types(vocabulary, joined, marks)
        control = np.flatnonzero((types == CONTROL) | (types == UNKNOWN)).tolist()
        super().__init__(ControlTexts({pieces[i]: i for i in reversed(control)}))
        self.bos_id = vocabulary.bos_id
        self.vocab_size = len(pieces)
        self._pieces = pieces
        self._types = types
        self._bytes = _byte_values(pieces, types)
        model = model_proto(
            joined.replace(b"\0", b""),
            lengths,
            vocabulary.scores,
            types,
            unknown_id=vocabulary.unknown_id,
            dummy_prefix=vocabulary.add_space_prefix,
        )
        try:
            self._library = SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise CorruptFile(
                f"tokenizer.ggml.tokens: SentencePiece refuses the vocabulary: {error}"
            ) from error

    def _encode_ordinary(self, text: str) -> list[int]:
        ids: list[int] = self._library.encode(text, out_type=int)
        return ids

    def _piece(self, token_id: int) -> str | None:
        return self._pieces[token_id] if 0 <= token_id < self.vocab_size else None

    def _byte(self, token_id: int) -> int | None:
        return self._bytes.get(token_id)

    def _find_piece(self, piece: str) -> int | None:
        token_id = int(self._library.piece_to_id(piece))
        return token_id if self._types[token_id] in (NORMAL, USER_DEFINED, UNUSED) else None


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


def _join(pieces: list[str]) -> bytes:
    """NUL, piece, NUL, piece, ... NUL. Spaces, which files hold as such, are escaped for the library."""
    try:
        return "\0".join(("", *pieces, "")).replace(" ", WORD_BOUNDARY).encode()
    except UnicodeEncodeError as error:
        raise CorruptFile("tokenizer.ggml.tokens: a piece is not valid Unicode") from error


def _library_types(vocabulary: GgufVocabulary, joined: bytes, marks: NDArray[np.int64]) -> NDArray[np.int32]:
    """Types as SentencePiece wants them: exactly one unknown piece, all control tokens unmatchable."""
    types: NDArray[np.int32] = vocabulary.token_types.copy()
    found = [match.start() for match in _CONTROL_BETWEEN_NULS.finditer(joined)]
    types[np.searchsorted(marks, found)] = CONTROL
    types[types == UNKNOWN] = CONTROL
    types[vocabulary.bos_id] = CONTROL
    types[vocabulary.unknown_id] = UNKNOWN
    return types


def _byte_values(pieces: list[str], types: NDArray[np.int32]) -> dict[int, int]:
    wanted = {f"<0x{value:02X}>": value for value in range(256)}
    ids = np.flatnonzero(types == BYTE).tolist()
    if {pieces[i] for i in ids} != wanted.keys():
        raise CorruptFile(f"tokenizer.ggml.tokens: {len(ids)} byte tokens, expected <0x00> to <0xFF>")
    return {i: wanted[pieces[i]] for i in ids}
