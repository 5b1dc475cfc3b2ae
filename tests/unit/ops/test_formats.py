"""The formats table agrees with the kernels, and with itself."""

from __future__ import annotations

import numpy as np
import pytest

from ostro import _kernels
from ostro.ops.tensor import BY_GGML_TYPE, FORMATS


@pytest.mark.parametrize("name", FORMATS)
def test_the_kernels_know_every_format_and_its_sizes(name: str) -> None:
    fmt = FORMATS[name]
    data = np.zeros(3 * fmt.row_bytes(2 * fmt.block), np.uint8)
    data.flags.writeable = False
    matrix = _kernels.Matrix(data, name, 3, 2 * fmt.block)
    weights = matrix.dequantize(0, 3)
    assert weights.shape == (3, 2 * fmt.block)
    assert not weights.any()
    with pytest.raises(ValueError, match=f"{name} of 3 x {fmt.block} takes"):
        _kernels.Matrix(data, name, 3, fmt.block)


def test_types_of_gguf_files_are_found_and_others_are_not() -> None:
    assert BY_GGML_TYPE[39] is FORMATS["MXFP4"]
    assert BY_GGML_TYPE[15] is FORMATS["Q8_K"]
    assert BY_GGML_TYPE[9] is FORMATS["Q8_1"]
    assert None not in BY_GGML_TYPE
    lacking = {name for name, fmt in FORMATS.items() if fmt.ggml_type is None}
    assert lacking == {"FP8", "F8Q8", "AFQ2", "AFQ3", "AFQ4", "AFQ6", "AFQ8", "HQQ4", "HQQ8"}
    assert len(BY_GGML_TYPE) + len(lacking) == len(FORMATS)
