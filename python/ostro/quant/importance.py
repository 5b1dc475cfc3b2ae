"""How much each column of a weight matters: the mean square of what the model multiplies it with.

Quantizers weigh the error of a weight by its column's importance, since the error of a product is the error
of the weight times the input (llama.cpp's "importance matrix").
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ostro.errors import BadTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ostro.ops.protocol import Rows

CHUNK_SIZE = 512
"""Tokens per independent piece of the calibration text, as in llama.cpp."""


class Importance(Mapping[str, "Rows"]):
    """Canonical tensor name ("layers.3.self_attn.q_proj.weight") -> float32 [cols], read-only.

    Values are mean squares of inputs, up to a factor per tensor: some files do not tell it, and it changes
    nothing about a quantized weight.

    rows: inputs that were seen, by tensor name; 0 where a file does not tell. datasets: names of the texts.
    chunk_size: tokens of a piece of them. The projector's matrix is meant as it is multiplied, [D, vision].
    """

    def __init__(
        self,
        values: Mapping[str, Rows],
        rows: Mapping[str, int] | None = None,
        *,
        datasets: tuple[str, ...] = (),
        chunk_size: int = CHUNK_SIZE,
    ) -> None:
        self._values: dict[str, Rows] = {}
        for name in sorted(values):
            own = np.array(values[name], np.float32)
            own.flags.writeable = False
            self._values[name] = own
        self.rows = {name: 0 if rows is None else rows.get(name, 0) for name in self._values}
        self.datasets = datasets
        self.chunk_size = chunk_size

    def __getitem__(self, name: str) -> Rows:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def chunks(self) -> int:
        """Pieces of text that the most used tensor has seen."""
        return -(-max(self.rows.values(), default=0) // self.chunk_size)

    def check_widths(self, widths: Mapping[str, int], source: str) -> None:
        """BadTensor unless the importance is that of a model with these columns per tensor.

        Tensors without importance are in order: they are quantized without weighing. So are an image half
        that the model lacks, and one whose inner width was filled up.
        """
        for name, values in self._values.items():
            width = widths.get(name)
            seen = name.startswith(("vision.", "projector."))
            if seen and (width is None or name.endswith(".mlp.fc2.weight")):
                continue
            if width != len(values):
                here = "does not have it" if width is None else f"has {width:,}"
                raise BadTensor(
                    f"{source}: {name} has {len(values):,} columns, the model {here}; "
                    "the importance matrix is that of another model"
                )

    def digest(self) -> str:
        """Hexadecimal SHA-256 of names and values, for keys of caches."""
        total = hashlib.sha256()
        for name, values in self._values.items():
            total.update(f"{name}\0{len(values)}\0".encode())
            total.update(values.astype("<f4").tobytes())
        return total.hexdigest()
