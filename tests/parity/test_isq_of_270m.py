"""The real 270m, dequantized and quantized again while it loads: fewer bits cost more, and not too much."""

from __future__ import annotations

from pathlib import Path

import pytest
from benches.isq_quality import dequantized

from ostro.config import IsqConfig
from ostro.evaluation import Model
from ostro.loading.open import open_checkpoint
from ostro.ops.cpu import CpuOps
from ostro.quant.in_situ import quantize_in_situ

TEXT = (Path(__file__).parents[1] / "unit" / "quant" / "data" / "varied.txt").read_text("utf-8")[:1500]


def test_perplexity_falls_with_the_number_of_bits(real_file: Path) -> None:
    opened = open_checkpoint(real_file)
    source, ops = dequantized(opened), CpuOps()
    exact = Model(opened, ops).perplexity(TEXT)
    found = {
        name: Model(quantize_in_situ(source, IsqConfig(name=name), ops), ops).perplexity(TEXT) / exact
        for name in ("Q2K", "Q3K", "Q4K", "Q5K", "Q6K", "Q8_0")
    }
    print({name: f"{ratio:.3f}" for name, ratio in found.items()})
    assert found["Q8_0"] == pytest.approx(1, abs=0.005)
    assert found["Q6K"] == pytest.approx(1, abs=0.015)
    # What is stored in Q5_0 already, most of this file, comes back as it was with Q4K.
    assert found["Q4K"] < 1.08
    order = [found[name] for name in ("Q2K", "Q3K", "Q4K", "Q6K")]
    assert order == sorted(order, reverse=True)
