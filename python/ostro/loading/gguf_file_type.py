"""The number that sums up the formats of a GGUF file (general.file_type).

Source: enum llama_ftype of llama.cpp.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ostro.loading.gguf_writer import Part

_NUMBERS = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q6_K": 18,
    "BF16": 32, "MXFP4": 38,
}  # fmt: skip
_SMALL_AND_MEDIUM = {"Q3_K": (11, 12), "Q4_K": (14, 15), "Q5_K": (16, 17)}
_UNSTATED = 1024
"""llama.cpp's mark of files that do not say."""


def file_type(parts: Iterable[Part]) -> int:
    """The number for a file of these tensors, of which the matrices of layers are looked at.

    Where there are K-quants, the others stand in for rows that K-quants cannot hold, and do not count. More
    than one K-quant makes the medium mix (Q4_K_M), one the small (Q4_K_S).
    """
    weights: Counter[str] = Counter()
    for part in parts:
        if part.name.startswith(("blk.", "v.blk.")) and len(part.shape) > 1:
            weights[part.format.name] += math.prod(part.shape)
    kquants = Counter({name: count for name, count in weights.items() if name.endswith("_K")})
    (most, _), *_ = (kquants or weights or Counter(F32=1)).most_common(1)
    if most in _SMALL_AND_MEDIUM:
        return _SMALL_AND_MEDIUM[most][len(kquants) > 1]
    return _NUMBERS.get(most, _UNSTATED)
