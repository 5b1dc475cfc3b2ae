"""A model that can be quantized again, of the small model inside the package."""

from __future__ import annotations

import numpy as np
import pytest

from ostro.config import IsqConfig, RuntimeConfig
from ostro.engine.alone import run_alone
from ostro.errors import BadTensor
from ostro.loading.demo import demo_folder
from ostro.loading.open import open_checkpoint
from ostro.models.matrices import text_matrices
from ostro.ops import cpu
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


@pytest.mark.parametrize("name", [None, "Q4_0"])
def test_weights_move_and_answers_stay(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    monkeypatch.setattr(cpu, "machine_memory", lambda: 1 << 40)
    monkeypatch.setattr(cpu, "has_huge_pages", lambda: True)
    monkeypatch.setattr(cpu, "LEAST_SAVED", 0.0)
    source = SourceModel(
        open_checkpoint(demo_folder()), IsqConfig(name=name), RuntimeConfig(threads=2, coarse_head=True)
    )
    model = source.load()

    def logits() -> bytes:
        ids = np.arange(5, 45, dtype=np.int32)
        return b"".join(rows.tobytes() for _, rows in run_alone(model, source.ops, ids, step=16))

    before = logits()
    pauses = 0
    for _ in source.repack(model):
        pauses += 1
        assert logits() == before
    assert pauses >= 10
    assert all(matrix.moved == matrix.rows for matrix in text_matrices(model))
    assert (model.lm_head.screen_nbytes is None) == (source.ops.describe()["isa"] == "scalar")
    # The same files again, although their memory was given back.
    assert source.quantized("Q8_0").lm_head.format == "Q8_0"


def test_there_is_no_coarse_head_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "LEAST_SAVED", 0.0)
    source = SourceModel(open_checkpoint(demo_folder()), IsqConfig(), RuntimeConfig(threads=2))
    model = source.load()
    list(source.repack(model))
    assert model.lm_head.screen_nbytes is None


def test_weights_stay_in_the_file_if_they_are_told_to() -> None:
    source = SourceModel(
        open_checkpoint(demo_folder()), IsqConfig(), RuntimeConfig(threads=2, repack=False, coarse_head=True)
    )
    model = source.load()
    assert list(source.repack(model)) == []
    assert not any(matrix.moved for matrix in text_matrices(model))
    assert model.lm_head.screen_nbytes is None
