"""Models written as GGUF files say the same as the files that they were made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ostro import CompletionRequest, Runner, Which
from ostro.evaluation import load_model
from ostro.loading.demo import demo_folder
from ostro.loading.gguf_export import export_text
from ostro.loading.mmproj_export import export_mmproj
from ostro.loading.open import open_checkpoint
from tests.unit.prompt.small import small_vocabulary, write_tokenizer_json

from .conftest import DATA
from .test_demo_model_gguf import answers

if TYPE_CHECKING:
    from pathlib import Path


def test_the_demo_model_answers_alike(tmp_path: Path) -> None:
    """Its images, its own tokenizer and its chat template included."""
    source = open_checkpoint(demo_folder())
    export_text(source, tmp_path / "model.gguf")
    export_mmproj(source, tmp_path / "mmproj-model.gguf")
    with Runner() as folder, Runner(Which.of(tmp_path)) as files:
        assert files.host.config.vision is not None
        assert answers(files) == answers(folder)


def test_the_real_model_is_copied(tmp_path: Path, real_file: Path) -> None:
    path = tmp_path / "copy.gguf"
    source = open_checkpoint(real_file)
    export_text(source, path)
    copy = open_checkpoint(path)
    assert copy.config == source.config
    for name, tensor in source.tensors.items():
        assert copy.tensors[name].format == tensor.format
        np.testing.assert_array_equal(copy.tensors[name].data, tensor.data)
    request = CompletionRequest(prompt="The capital of France is", max_tokens=12, temperature=0)
    texts = []
    for file in (real_file, path):
        with Runner(file) as runner:
            response: Any = runner.send_completion_request(request)
            texts.append(response.choices[0].text)
    assert texts[0] == texts[1]


@pytest.mark.parametrize("folder", ["text-small", "text-27b-like"])
def test_logits_are_equal(tmp_path: Path, folder: str) -> None:
    """Norms with 1 + w, scaled positions, and a score scale that GGUF files have no key for."""
    tokenizer = write_tokenizer_json(tmp_path / "tokenizer.json")
    source = open_checkpoint(DATA / folder, tokenizer_json=tokenizer)
    export_text(source, tmp_path / "model.gguf")
    pieces = len(small_vocabulary().pieces)
    ids = np.random.default_rng(0).integers(0, pieces, 150)
    expected = load_model(DATA / folder, compute="f32").logits(ids)[:, :pieces]
    found = load_model(tmp_path / "model.gguf", compute="f32").logits(ids)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * float(np.abs(expected).max()))
