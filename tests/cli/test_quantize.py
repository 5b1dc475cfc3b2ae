"""`ostro quantize` from its arguments to the files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from ostro.cli import main as program
from ostro.errors import InvalidParameter, ModelNotFound, UnsupportedExport
from ostro.loading.open import open_checkpoint
from ostro.which import DEMO_MODEL
from tests.unit.loading import tiny, tiny_vision

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(program.app, ["quantize", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def refused(*arguments: str | Path) -> str:
    result = CliRunner().invoke(program.app, ["quantize", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    return " ".join(result.output.replace("│", " ").split())


def test_both_halves_of_the_model_in_the_package(tmp_path: Path) -> None:
    said = run("-m", DEMO_MODEL, "-o", tmp_path / "m.gguf", "--mmproj")
    assert "m.gguf: 4.8 MB in" in said
    assert "mmproj-m.gguf: 3.2 MB in" in said
    found = open_checkpoint(tmp_path)
    assert found.config.vision is not None
    assert found.tensors["layers.0.mlp.up_proj.weight"].format.name == "BF16"


def test_a_model_that_reads_images_is_named(tmp_path: Path) -> None:
    said = run(DEMO_MODEL, "-o", tmp_path / "m.gguf")
    assert "--mmproj writes that half, too" in said
    run(DEMO_MODEL, "-o", tmp_path / "m.gguf", "--mmproj-output", tmp_path / "eyes.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eyes.gguf", "m.gguf"]


def test_a_gguf_pair_is_copied(tmp_path: Path) -> None:
    source = tiny.write_gguf(tmp_path / "source.gguf")
    tiny_vision.write_mmproj(tmp_path / "half.gguf")
    run(source, "--mmproj-input", "half.gguf", "-o", tmp_path / "m.gguf", "--mmproj")
    tiny_vision.check_all_weights(open_checkpoint(tmp_path / "m.gguf", mmproj_file="mmproj-m.gguf"))


@pytest.mark.parametrize("vision", [True, False])
def test_q8_0(tmp_path: Path, vision: bool) -> None:
    """Of the image half what llama.cpp multiplies: neither the convolution nor the projection."""
    flags = [] if vision else ["--no-isq-vision"]
    run(DEMO_MODEL, "-o", tmp_path / "m.gguf", "--mmproj", "--isq", "q8_0", "--threads", "1", *flags)
    found = open_checkpoint(tmp_path)
    formats = {name: tensor.format.name for name, tensor in {**found.tensors, **found.vision_tensors}.items()}
    assert formats["embed_tokens.weight"] == formats["layers.3.mlp.down_proj.weight"] == "Q8_0"
    assert formats["vision.encoder.layers.0.mlp.fc2.weight"] == ("Q8_0" if vision else "BF16")
    assert formats["projector.mm_input_projection_weight"] == "F16"
    assert formats["vision.embeddings.patch_embedding.weight"] == "F32"


def test_a_topology_alone(tmp_path: Path) -> None:
    topology = tmp_path / "t.yaml"
    topology.write_text("0-2:\n  isq: Q8_0\n")
    run(DEMO_MODEL, "-o", tmp_path / "m.gguf", "--topology", topology)
    found = open_checkpoint(tmp_path / "m.gguf").tensors
    assert [found[f"layers.{i}.mlp.up_proj.weight"].format.name for i in range(4)] == [
        "Q8_0", "Q8_0", "BF16", "BF16",
    ]  # fmt: skip


def test_columns_weighed_by_a_text(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("What is this? There are two large purple squares and a small yellow star. " * 30)
    run(DEMO_MODEL, "-o", tmp_path / "even.gguf", "--isq", "q8_0")
    run(DEMO_MODEL, "-o", tmp_path / "weighed.gguf", "--isq", "q8_0", "--calibration-file", text)
    even, weighed = (open_checkpoint(tmp_path / f"{name}.gguf").tensors for name in ("even", "weighed"))
    assert {t.format.name for t in even.values()} == {t.format.name for t in weighed.values()}
    assert "give --isq, too" in refused(DEMO_MODEL, "-o", "m.gguf", "--calibration-file", text)


def test_what_is_small_already_stays_as_it_is(tmp_path: Path) -> None:
    run(DEMO_MODEL, "-o", tmp_path / "m.gguf", "--isq", "8")
    said = run(tmp_path / "m.gguf", "-o", tmp_path / "again.gguf", "--isq", "8")
    assert "in as few bits already" in said
    assert (tmp_path / "again.gguf").read_bytes()[64:] != b""
    before, after = (open_checkpoint(tmp_path / name).tensors for name in ("m.gguf", "again.gguf"))
    assert all((after[name].data == tensor.data).all() for name, tensor in before.items())


def test_usage(tmp_path: Path) -> None:
    assert "Give a .gguf file, a folder or a hub id" in refused("-o", tmp_path / "m.gguf")
    assert "ends neither in .gguf nor in .uqff" in refused(DEMO_MODEL, "-o", tmp_path / "m.bin")
    assert "have both halves" in refused(DEMO_MODEL, "-o", tmp_path / "m.uqff", "--mmproj")
    assert "what --calibrate finds" in refused(
        DEMO_MODEL, "-o", tmp_path / "m.gguf", "--save-imatrix", tmp_path / "i.gguf"
    )
    assert "does not end in .gguf" in refused(DEMO_MODEL, "-o", "m.gguf", "--mmproj-output", "x.bin")
    assert "Missing option" in refused(DEMO_MODEL)


def test_errors(tmp_path: Path) -> None:
    text = tiny.write_gguf(tmp_path / "text.gguf")
    target = tmp_path / "m.gguf"
    with pytest.raises(UnsupportedExport, match="text reads text only"):
        run(text, "-o", target, "--mmproj")
    with pytest.raises(InvalidParameter, match="unknown type 'q9'"):
        run(text, "-o", target, "--isq", "q9")
    with pytest.raises(UnsupportedExport, match=r"is AFQ6, and GGUF files have no such weights; write UQFF"):
        run(DEMO_MODEL, "-o", target, "--isq", "afq4")
    with pytest.raises(ModelNotFound):
        run(tmp_path / "nothing.gguf", "-o", target)
    assert not target.exists()


def test_a_report_about_both_halves(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A large red circle at the top left. " * 8)
    said = run(
        DEMO_MODEL, "-o", tmp_path / "m.gguf", "--mmproj", "--isq", "Q4K",
        "--report-text", text, "--report-json", tmp_path / "report.json",
    )  # fmt: skip
    assert "vision fc1" in said
    assert "same most probable token" in said
    report = json.loads((tmp_path / "report.json").read_text())
    kinds = {kind["kind"]: kind for kind in report["kinds"]}
    assert kinds["up_proj"]["formats"] == ["Q4_K"]
    assert kinds["vision fc1"]["formats"] == ["Q8_0"]
    assert 0.03 < kinds["up_proj"]["relative_rmse"] < 0.1
    assert kinds["vision fc1"]["relative_rmse"] < 0.01
    assert 4 < report["bits_per_weight"] < 9
    assert 0 < report["divergence"]["mean_kl"] < 0.1


def test_uqff_with_importance_of_a_text(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A small blue star on a white background. " * 8)
    said = run(
        DEMO_MODEL, "-o", tmp_path / "out" / "m.uqff", "--isq", "Q4K",
        "--calibrate", text, "--save-imatrix", tmp_path / "i.gguf", "--report",
    )  # fmt: skip
    assert "m-0.uqff" in said
    assert "weighted" in said
    assert open_checkpoint(tmp_path / "out").tensors["layers.0.mlp.up_proj.weight"].format.name == "Q4_K"
    again = run(DEMO_MODEL, "-o", tmp_path / "m.gguf", "--isq", "Q4K", "--imatrix", tmp_path / "i.gguf")
    assert "m.gguf" in again
