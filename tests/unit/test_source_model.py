"""A model that can be quantized again, of the small model inside the package."""

from __future__ import annotations

import numpy as np
import pytest

from ostro.config import IsqConfig, RuntimeConfig
from ostro.errors import BadTensor
from ostro.loading.demo import demo_folder
from ostro.loading.open import open_checkpoint
from ostro.source_model import SourceModel


def test_a_failed_quantization_changes_nothing_for_the_next() -> None:
    source = SourceModel(open_checkpoint(demo_folder()), IsqConfig(name="Q8_0"), RuntimeConfig(threads=2))
    source.load()
    name = "layers.0.mlp.down_proj.weight"
    assert name in source.checkpoint.tensors
    with pytest.raises(BadTensor, match="another model"):
        source.quantized("Q4_0", importance={name: np.ones(3, np.float32)})
    assert source.isq.name == "Q8_0"
    source.quantized(None)
    assert source.isq.name == "Q8_0"
    source.quantized("Q4_0")
    assert source.isq.name == "Q4_0"
