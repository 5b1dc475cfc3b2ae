"""The pieces of a tokenizer.json as SentencePiece has them, which is how GGUF files carry a tokenizer.

Gemma's tokenizer.json was made from SentencePiece's file: a piece got its merges when, and in the order in
which, it was learnt. So the rank of a piece's first merge gives back the score, up to the values that no
reader compares.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from ostro.errors import BadConfig
from ostro.loading.checkpoint import GgufVocabulary
from ostro.loading.fields import Fields, read_json
from ostro.loading.packed_texts import PackedTexts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_MAX_BYTES = 256 << 20
"""Gemma's own file has 33 MB."""
_NORMAL, _CONTROL, _USER_DEFINED, _BYTE = 1, 3, 4, 6
_PLACEHOLDER = -1000.0
"""What llama.cpp's converter gives to pieces that are found before any merge."""
_SPACE = "\u2581"
_IMAGE = "<image_soft_token>"
_CONTROL_TEXT = re.compile(r"<(pad|eos|bos|unk|mask|start_of_turn|end_of_turn|unused[0-9]+)>")
"""Not all are marked special in Gemma's file, yet they are no text either."""
_BYTE_TEXT = re.compile(r"<0x[0-9A-F]{2}>")


def json_vocabulary(path: Path, rows: int) -> GgufVocabulary:
    """Read Gemma's tokenizer.json for a model with `rows` rows in its embedding table.

    Left out are the image token, which stands for no row of the table, and what lies beyond the table.
    BadConfig for what is not BPE with byte fallback, or has holes in its ids. A warning says if the merges
    are not SentencePiece's, so that readers of GGUF files may cut some texts in another way.
    """
    top = Fields(str(path), read_json(path, _MAX_BYTES))
    model = top.section("model")
    if model.text("type", "BPE") != "BPE" or not model.boolean("byte_fallback", False):
        raise BadConfig(
            f"{path}: GGUF files carry Gemma's tokenizer, a BPE with byte_fallback; this is another kind"
        )
    added = _added(top)
    special = {entry["id"]: entry["special"] for entry in added}
    pieces = _pieces(model, {entry["id"]: entry["content"] for entry in added}, path)
    if pieces[-1] == _IMAGE:
        pieces.pop()
    types = _types(pieces, special)
    if len(pieces) > rows:
        if (types[rows:] == _NORMAL).any():
            raise BadConfig(
                f"{path}: {len(pieces)} pieces for a model with {rows} rows in its embedding table"
            )
        logger.warning("%s: dropping %d pieces that have no embedding row", path, len(pieces) - rows)
        del pieces[rows:]
        types = types[:rows]
    ids = {piece: token_id for token_id, piece in enumerate(pieces)}
    for name in ("<bos>", "<eos>", "<unk>", "<pad>"):
        if name not in ids:
            raise BadConfig(f"{path}: no {name} among the pieces")
    merges = _merges(model)
    normal = {pieces[token_id]: token_id for token_id in np.flatnonzero(types == _NORMAL).tolist()}
    _check_merges(merges, normal, path)
    # GGUF files hold user-defined runs of spaces as such.
    for token_id in np.flatnonzero(types == _USER_DEFINED).tolist():
        pieces[token_id] = pieces[token_id].replace(_SPACE, " ")
    return GgufVocabulary(
        pieces=PackedTexts.pack(pieces),
        scores=_scores(normal, types, merges),
        token_types=types,
        bos_id=ids["<bos>"],
        eos_id=ids["<eos>"],
        unknown_id=ids["<unk>"],
        padding_id=ids["<pad>"],
        add_bos=True,
        add_space_prefix=False,
    )


def _added(top: Fields) -> list[dict[str, Any]]:
    entries = top.list("added_tokens")
    wanted = (("id", int), ("content", str), ("special", bool))
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), kind) for key, kind in wanted):
            top.fail("added_tokens", f"holds {str(entry)[:60]!r}, which lacks an id, content or special")
    return entries


def _pieces(model: Fields, added: Mapping[int, str], path: Path) -> list[str]:
    """The piece of every id."""
    by_id = {token_id: piece for piece, token_id in model.section("vocab").values.items()}
    by_id.update(added)
    if not by_id or by_id.keys() != set(range(len(by_id))):
        raise BadConfig(f"{path}: the ids of its {len(by_id)} pieces are not 0, 1, 2, ...")
    return [by_id[token_id] for token_id in range(len(by_id))]


def _types(pieces: Sequence[str], special: Mapping[int, bool]) -> NDArray[np.int32]:
    """GGUF's types; special: of the added tokens, whether they are marked so."""
    types = np.full(len(pieces), _NORMAL, np.int32)
    for token_id, piece in enumerate(pieces):
        if token_id in special:
            control = special[token_id] or _CONTROL_TEXT.fullmatch(piece)
            types[token_id] = _CONTROL if control else _USER_DEFINED
        elif _BYTE_TEXT.fullmatch(piece):
            types[token_id] = _BYTE
    return types


def _merges(model: Fields) -> list[list[str]]:
    """Both halves of every merge, the best first; older files join them with a space."""
    merges = [entry.split(" ") if isinstance(entry, str) else entry for entry in model.list("merges")]
    for pair in merges:
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or type(pair[0]) is not str
            or type(pair[1]) is not str
        ):
            model.fail("merges", f"holds {str(pair)[:60]!r}, which is not a pair")
    return merges


def _scores(
    normal: Mapping[str, int], types: NDArray[np.int32], merges: Sequence[Sequence[str]]
) -> NDArray[np.float32]:
    """SentencePiece's scores: 0, -1, -2 ... for normal pieces as they were learnt, then single characters."""
    merged = (normal.get(left + right) for left, right in merges)
    order = dict.fromkeys([*(i for i in merged if i is not None), *normal.values()])
    scores = np.where(types == _BYTE, 0, _PLACEHOLDER).astype(np.float32)
    scores[np.fromiter(order, np.int64, len(order))] = -np.arange(len(order), dtype=np.float32)
    return scores


def _check_merges(merges: Sequence[Sequence[str]], normal: Mapping[str, int], path: Path) -> None:
    """Warn unless the file merges whatever SentencePiece would: any two pieces that are a piece together."""
    known = sum(left in normal and right in normal and left + right in normal for left, right in merges)
    possible = sum(
        piece[:cut] in normal and piece[cut:] in normal for piece in normal for cut in range(1, len(piece))
    )
    if possible > known:
        logger.warning(
            "%s: its merges lack %d pairs that readers of GGUF files will merge; some texts may be cut into"
            " other tokens than from this file",
            path,
            possible - known,
        )
