"""The tokenizer that GGUF metadata carries."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from ostro.errors import BadConfig, UnsupportedModel
from ostro.loading.checkpoint import GgufVocabulary
from ostro.loading.fields import Fields
from ostro.loading.packed_texts import PackedTexts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_NORMAL = 1


def parse_vocabulary(metadata: Mapping[str, Any], rows: int, source: str) -> GgufVocabulary | None:
    """Read the vocabulary of a model with `rows` rows in its embedding table; None if there is no tokenizer.

    Pieces beyond the table are dropped if they are control, unused or user-defined ones; a shorter vocabulary
    is left as it is. BadConfig names a mistyped key, UnsupportedModel another kind of tokenizer.
    """
    fields = Fields(source, metadata)
    prefix = "tokenizer.ggml."
    if prefix + "model" not in fields and prefix + "tokens" not in fields:
        return None
    model = fields.text(prefix + "model")
    if model != "llama":
        raise UnsupportedModel(
            f"{source}: the tokenizer is of kind {model[:40]!r} (tokenizer.ggml.model); ostro reads 'llama' "
            "from GGUF files. Give a tokenizer.json, or convert again with tokenizer.model at hand"
        )
    pieces = fields.values.get(prefix + "tokens")
    # The elements of a GGUF array are all of one type.
    if not isinstance(pieces, (list, PackedTexts)) or not all(isinstance(piece, str) for piece in pieces[:1]):
        raise BadConfig(f"{source}: {prefix}tokens must be a list of texts")
    scores = _numbers(fields, prefix + "scores", len(pieces), np.dtype(np.float32))
    types = _numbers(fields, prefix + "token_type", len(pieces), np.dtype(np.int32))
    if not np.isfinite(scores).all():
        raise BadConfig(f"{source}: {prefix}scores holds a value that is not finite")
    if types.size and not 1 <= types.min() <= types.max() <= 6:
        raise BadConfig(f"{source}: {prefix}token_type holds a value outside 1 to 6")
    if len(pieces) > rows:
        if (types[rows:] == _NORMAL).any():
            raise BadConfig(
                f"{source}: {len(pieces)} pieces in {prefix}tokens, but only {rows} rows in token_embd.weight"
            )
        logger.warning("%s: dropping %d pieces that have no embedding row", source, len(pieces) - rows)
        pieces, scores, types = pieces[:rows], scores[:rows], types[:rows]

    def special(name: str, default: int) -> int:
        return fields.integer(prefix + name, default, low=0, high=max(len(pieces) - 1, 0))

    return GgufVocabulary(
        pieces=pieces,
        scores=scores,
        token_types=types,
        bos_id=special("bos_token_id", 2),
        eos_id=special("eos_token_id", 1),
        unknown_id=special("unknown_token_id", 3),
        padding_id=special("padding_token_id", 0),
        add_bos=fields.boolean(prefix + "add_bos_token", True),
        # Generic readers assume true; Gemma's own tokenizer never adds one.
        add_space_prefix=fields.boolean(prefix + "add_space_prefix", False),
    )


def _numbers(fields: Fields, name: str, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    values = fields.values.get(name)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        fields.fail(name, "must be a list of numbers")
    if len(values) != count:
        fields.fail(name, f"has {len(values)} entries for {count} pieces")
    if dtype.kind == "i" and values.dtype.kind == "f":
        fields.fail(name, "must be a list of integers")
    return np.array(values, dtype)
