"""Writes a SentencePiece model file (sentencepiece_model.proto) from pieces, scores and types.

Numbers of the protocol: ModelProto {1 pieces, 2 trainer_spec, 3 normalizer_spec};
SentencePiece {1 piece, 2 score (float), 3 type};
TrainerSpec {3 model_type, 35 byte_fallback, 40-43 special ids};
NormalizerSpec {1 name, 3 add_dummy_prefix, 4 remove_extra_whitespaces, 5 escape_whitespaces}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL_TYPE_BPE = 2
_HEAD = 8  # tag and length of the message, tag and length of the piece
_TAIL = 7  # tag and four bytes of the score, tag and value of the type
_ABSENT = (1 << 64) - 1  # a negative id says that the vocabulary has no such token; 64-bit two's complement


def model_proto(
    blob: bytes,
    lengths: NDArray[np.int64],
    scores: NDArray[np.float32],
    types: NDArray[np.uint8],
    *,
    unknown_id: int,
    dummy_prefix: bool,
) -> bytes:
    """A BPE model with byte fallback and identity normalisation.

    blob: all pieces in UTF-8, one after the other. lengths [n]: their bytes, below 2 ** 21 - 16 each.
    scores [n]; types [n]: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    """
    trainer = b"".join(
        (
            _number(3, MODEL_TYPE_BPE),
            _number(35, 1),
            _number(40, unknown_id),
            *(_number(field, _ABSENT) for field in (41, 42, 43)),
        )
    )
    normalizer = b"".join(
        (_bytes(1, b"identity"), _number(3, int(dummy_prefix)), _number(4, 0), _number(5, 1))
    )
    return b"".join((_pieces(blob, lengths, scores, types), _bytes(2, trainer), _bytes(3, normalizer)))


def _pieces(
    blob: bytes, lengths: NDArray[np.int64], scores: NDArray[np.float32], types: NDArray[np.uint8]
) -> bytes:
    # Whole columns at a time: a loop over 262,144 pieces takes longer than the library needs to load them.
    # Lengths take three bytes even where one would do, which keeps every record's frame the same size.
    n = len(lengths)
    head = np.empty((n, _HEAD), np.uint8)
    head[:, 0] = _tag(1, wire=2)
    head[:, 1:4] = _varint3(lengths + (_HEAD + _TAIL - 4))
    head[:, 4] = _tag(1, wire=2)
    head[:, 5:8] = _varint3(lengths)
    tail = np.empty((n, _TAIL), np.uint8)
    tail[:, 0] = _tag(2, wire=5)
    tail[:, 1:5] = scores.astype("<f4").view(np.uint8).reshape(n, 4)
    tail[:, 5] = _tag(3, wire=0)
    tail[:, 6] = types

    ends = np.cumsum(lengths + (_HEAD + _TAIL))
    out = np.empty(int(ends[-1]) if n else 0, np.uint8)
    starts = ends - lengths - (_HEAD + _TAIL)
    is_text = np.ones(len(out), np.bool_)
    for frame, first in ((head, starts), (tail, ends - _TAIL)):
        for column in range(frame.shape[1]):
            out[first + column] = frame[:, column]
            is_text[first + column] = False
    out[is_text] = np.frombuffer(blob, np.uint8)
    return out.tobytes()


def _varint3(values: NDArray[np.int64]) -> NDArray[np.uint8]:
    groups = np.stack((values & 0x7F | 0x80, values >> 7 & 0x7F | 0x80, values >> 14), axis=1)
    return groups.astype(np.uint8)


def _tag(field: int, *, wire: int) -> int:
    return field << 3 | wire


def _number(field: int, value: int) -> bytes:
    return _varint(_tag(field, wire=0)) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(_tag(field, wire=2)) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
