"""Number formats of weights, as data.

Layouts: the GGUF specification and ggml's block structures; for formats that GGUF lacks, the kernels' own,
described in `rust/kernels/src/formats` (affine.rs: AFQ and HQQ, fp8.rs: FP8, legacy.rs: F8Q8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ostro.errors import BadTensor

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Format:
    """`block` weights of one row are stored in `bytes` bytes.

    ggml_type: its number in GGUF files, None for what they cannot hold.
    """

    name: str
    ggml_type: int | None
    block: int
    bytes: int

    def row_bytes(self, cols: int) -> int:
        """Bytes of one row of `cols` weights; BadTensor when the row does not consist of whole blocks."""
        if cols % self.block:
            raise BadTensor(
                f"rows of {cols} weights cannot be stored as {self.name}: not a multiple of {self.block}"
            )
        return cols // self.block * self.bytes


FORMATS: dict[str, Format] = {
    fmt.name: fmt
    for fmt in (
        Format("F32", 0, 1, 4),
        Format("F16", 1, 1, 2),
        Format("Q4_0", 2, 32, 18),
        Format("Q4_1", 3, 32, 20),
        Format("Q5_0", 6, 32, 22),
        Format("Q5_1", 7, 32, 24),
        Format("Q8_0", 8, 32, 34),
        Format("Q8_1", 9, 32, 36),
        Format("Q2_K", 10, 256, 84),
        Format("Q3_K", 11, 256, 110),
        Format("Q4_K", 12, 256, 144),
        Format("Q5_K", 13, 256, 176),
        Format("Q6_K", 14, 256, 210),
        Format("Q8_K", 15, 256, 292),
        Format("BF16", 30, 1, 2),
        Format("MXFP4", 39, 32, 17),
        Format("FP8", None, 64, 68),
        Format("F8Q8", None, 32, 33),
        Format("AFQ2", None, 64, 20),
        Format("AFQ3", None, 64, 28),
        Format("AFQ4", None, 64, 36),
        Format("AFQ6", None, 64, 52),
        Format("AFQ8", None, 64, 68),
        Format("HQQ4", None, 64, 36),
        Format("HQQ8", None, 64, 68),
    )
}
BY_GGML_TYPE: dict[int, Format] = {
    fmt.ggml_type: fmt for fmt in FORMATS.values() if fmt.ggml_type is not None
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named weight as it lies in its file.

    shape: outermost dimension first, as in Hugging Face checkpoints ([out, in] for a matrix).
    data: uint8 [bytes], read-only, usually a view of the mapped file.
    """

    name: str
    format: Format
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def as_matrix(self) -> Tensor:
        """The same with all dimensions but the first as one."""
        return replace(self, shape=(self.shape[0], math.prod(self.shape[1:])))

    def transposed(self) -> Tensor:
        """A copy of a matrix with rows and columns exchanged; BadTensor if its weights share blocks."""
        if len(self.shape) != 2 or self.format.block != 1:
            raise BadTensor(
                f"{self.name}: {list(self.shape)} weights of {self.format.name} cannot be transposed"
            )
        rows, cols = self.shape
        weights = self.data.reshape(rows, cols, self.format.bytes)
        data = np.ascontiguousarray(weights.transpose(1, 0, 2)).reshape(-1)
        data.flags.writeable = False
        return replace(self, shape=(cols, rows), data=data)
