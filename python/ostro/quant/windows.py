"""A text in independent pieces, as llama.cpp's tools read texts for calibration and perplexity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ostro.errors import InvalidParameter

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def windows(ids: ArrayLike, bos_id: int, chunk: int, limit: int | None = None) -> list[NDArray[np.int32]]:
    """Pieces [at most chunk] that each begin with `<bos>` and go on with the next chunk - 1 ids.

    ids: of the whole text; a `<bos>` in front of it does not count twice. limit: of pieces.
    llama.cpp puts `<bos>` in the place of every chunk-th token and drops the rest of the text; nothing is
    dropped here. InvalidParameter for an empty text and sizes that leave no room.
    """
    tokens = np.asarray(ids)
    if chunk < 2 or (limit is not None and limit < 1):
        raise InvalidParameter(
            "a piece of text needs at least 2 tokens, and there must be one", param="chunk"
        )
    if tokens.ndim != 1 or not (len(tokens) and np.issubdtype(tokens.dtype, np.integer)):
        raise InvalidParameter("the text is empty", param="text")
    tokens = tokens[1:] if tokens[0] == bos_id else tokens
    starts = range(0, len(tokens), chunk - 1)
    return [
        np.concatenate([[bos_id], tokens[start : start + chunk - 1]]).astype(np.int32)
        for start in starts[:limit]
    ]
