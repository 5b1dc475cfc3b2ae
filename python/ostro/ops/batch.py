"""One step's work: which tokens of which sequences go through the model together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LayerKind = Literal["global", "local"]


class Best(NamedTuple):
    """Which logits of a row have to be right: the `k` largest ones.

    Others may be wrong, but are less than any of these. excluded: int32 ids, ascending, that do not count.
    """

    k: int
    excluded: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of several sequences, concatenated; one row is one token.

    token_ids, positions: int32 [n]. Rows of one sequence are consecutive, positions rise by 1 (in a batch of
        `queries`: rise).
    row_starts: int32 [s + 1]; sequence i owns rows row_starts[i]:row_starts[i + 1].
    key_ends: int32 [n]; a row sees keys at positions below key_ends[row] (its own position + 1 for text, the
        end of the image run for an image row), and in local layers only those above position - window.
    page_tables: for each layer kind int32 [s, pages]; entry j is the id of the page that holds positions
        [64 j, 64 j + 64) of the sequence, or -1 where no row of this batch may look.
    wanted: int32 [w], ascending rows whose logits are asked for.
    image_rows: float32 [m, D], what image tokens stand for; they replace the embeddings of the rows image_at,
        int32 [m], ascending. Both None in a batch without images.
    best: which logits of the wanted rows have to be right; None: all.
    """

    token_ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    row_starts: NDArray[np.int32]
    key_ends: NDArray[np.int32]
    page_tables: dict[LayerKind, NDArray[np.int32]]
    wanted: NDArray[np.int32]
    image_rows: NDArray[np.float32] | None = None
    image_at: NDArray[np.int32] | None = None
    best: Best | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    def queries(self) -> Batch:
        """The wanted rows alone, of the same sequences: what attention asks the keys of all rows with."""
        rows = self.wanted
        return replace(
            self,
            token_ids=self.token_ids[rows],
            positions=self.positions[rows],
            row_starts=np.searchsorted(rows, self.row_starts).astype(np.int32),
            key_ends=self.key_ends[rows],
            wanted=np.arange(len(rows), dtype=np.int32),
            image_rows=None,
            image_at=None,
        )
