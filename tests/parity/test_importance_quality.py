"""The real 270m requantized with the importance of one text, judged on another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ostro.config import IsqConfig
from ostro.evaluation import Model, load_model
from ostro.quant.report import compare_logits
from ostro.quant.windows import windows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TEXT = Path(__file__).parents[1] / "unit" / "quant" / "data" / "varied.txt"


@pytest.fixture(scope="module")
def source(real_file: Path) -> Model:
    return load_model(real_file)


# Measured: KL without and with importance 0.78 and 0.39 (Q3K), 0.044 and 0.021 (Q4K); with 14,250 tokens of
# calibration, judged on 1,022: 0.60 and 0.30, 0.033 and 0.012.
@pytest.mark.parametrize("isq", ["Q3K", "Q4K"])
def test_importance_brings_a_quantized_model_nearer_to_its_source(
    source: Model, real_file: Path, tmp_path: Path, isq: str
) -> None:
    text = TEXT.read_text("utf-8")
    calibration = tmp_path / "calibration.txt"
    calibration.write_text(text[: len(text) * 3 // 4], "utf-8")
    judged = source.encode(text[len(text) * 3 // 4 :])
    pieces: list[NDArray[np.int32]] = windows(judged, source.config.bos_token_id, 256, 1)
    plain, weighed = (
        compare_logits(source, load_model(real_file, IsqConfig(name=isq, calibration=file)), pieces)
        for file in (None, calibration)
    )
    assert weighed.mean_kl < 0.75 * plain.mean_kl
