"""The UQFF writer: what it writes is read again, by us and, as far as a test can tell, by mistral.rs."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from ostro import ChatCompletionRequest, ChatCompletionResponse, Runner, Which
from ostro.config import IsqConfig
from ostro.errors import CannotWrite, UnsupportedExport
from ostro.loading.demo import DEMO_MODEL, demo_folder
from ostro.loading.names import as_mistral_rs
from ostro.loading.open import open_checkpoint
from ostro.loading.uqff_entries import is_layer
from ostro.loading.uqff_writer import write_uqff
from ostro.loading.vision_names import PROJECTION, PROJECTION_TURNED
from ostro.ops.cpu import CpuOps, float32
from ostro.quant.in_situ import quantize_in_situ

from . import tiny, tiny_vision
from .quantized import quantized, quantized_model

if TYPE_CHECKING:
    from ostro.loading.checkpoint import Checkpoint

SAMPLE = Path(__file__).parents[2] / "parity/data/uqff"


def check_same(written: Checkpoint, read: Checkpoint) -> None:
    """All layers to the bit, all else in value."""
    for name, tensor in {**written.tensors, **written.vision_tensors}.items():
        other = {**read.tensors, **read.vision_tensors}[name]
        if tensor.format.block > 1 and is_layer(name):
            assert (other.format, other.shape) == (tensor.format, tensor.shape)
            np.testing.assert_array_equal(other.data, tensor.data, err_msg=name)
        else:
            np.testing.assert_array_equal(float32(other), float32(tensor), err_msg=name)


def description(folder: Path) -> str:
    content = [
        {"type": "image_url", "image_url": {"url": str(demo_folder() / "picture.png")}},
        {"type": "text", "text": "describe"},
    ]
    request = ChatCompletionRequest(
        model="default", messages=[{"role": "user", "content": content}], max_tokens=48, temperature=0.0
    )
    with Runner(Which.Plain(str(folder))) as runner:
        response = runner.send_chat_completion_request(request)
    assert isinstance(response, ChatCompletionResponse)
    return str(response.choices[0].message.content)


@pytest.mark.parametrize("vision", ["Q8_0", None])
def test_the_model_of_the_package_sees_the_same_again(tmp_path: Path, vision: str | None) -> None:
    checkpoint = quantized_model(demo_folder(), vision=vision)
    (file,) = write_uqff(checkpoint, None, tmp_path / "out")
    assert file == tmp_path / "out" / "q8_0-0.uqff"
    read = open_checkpoint(file.parent)
    check_same(checkpoint, read)
    assert read.config == checkpoint.config
    assert read.chat_template == checkpoint.chat_template
    assert read.generation == checkpoint.generation
    said = description(file.parent)
    assert said == description(demo_folder())
    assert said.startswith("A large pink star")


def test_what_mistral_rs_wrote_is_written_alike(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(SAMPLE)
    (file,) = write_uqff(checkpoint, None, tmp_path / "copy.uqff")
    theirs, ours = load_file(SAMPLE / "q4k-0.uqff"), load_file(file)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    theirs, ours = (load_file(folder / "residual.safetensors") for folder in (SAMPLE, tmp_path))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    report = json.loads((tmp_path / "uqff_report.json").read_text("utf-8"))["outputs"][0]
    expected = json.loads((SAMPLE / "uqff_report.json").read_text("utf-8"))["outputs"][0]
    assert report["shards"] == ["copy-0.uqff"]
    for key in ("layers", "actual_counts", "fallback_count"):
        assert report[key] == expected[key]
    assert {layer["module"]: layer["stored"] for layer in report["layer_details"]} == {
        layer["module"]: layer["stored"] for layer in expected["layer_details"]
    }


def test_a_text_model_in_several_files(tmp_path: Path) -> None:
    checkpoint = quantized_model(tiny.write_hugging_face(tmp_path / "source"), "Q4_0")
    told: list[tuple[str, int, int]] = []
    (tmp_path / "x-9.uqff").touch()
    files = write_uqff(
        checkpoint,
        None,
        tmp_path / "x.uqff",
        lambda what, done, total: told.append((what, done, total)),
        shard_bytes=10_000,
    )
    assert [file.name for file in files] == [f"x-{number}.uqff" for number in range(len(files))]
    assert len(files) > 2
    check_same(checkpoint, open_checkpoint(files[0]))
    assert {what for what, _, _ in told} == {"residual.safetensors", *(file.name for file in files)}
    assert all(any(done == total for name, done, total in told if name == file.name) for file in files)
    names = {name for file in files for name in load_file(file)}
    assert "model.layers.1.mlp.down_proj.weight.format" in names
    assert not list(tmp_path.glob(".*.part"))


def test_files_of_an_earlier_larger_model_go(tmp_path: Path) -> None:
    checkpoint = quantized_model(tiny.write_hugging_face(tmp_path / "source"), "Q4_0")
    many = write_uqff(checkpoint, None, tmp_path / "out", shard_bytes=5_000)
    (file,) = write_uqff(checkpoint, None, tmp_path / "out")
    assert len(many) > 2
    assert list(file.parent.glob("*.uqff")) == [file]
    check_same(checkpoint, open_checkpoint(file.parent))


def test_norms_of_gguf_files_lose_their_one(tmp_path: Path) -> None:
    source = tiny.write_hugging_face(tmp_path / "source")
    path = tiny.write_gguf(
        tmp_path / "m.gguf",
        quantize=lambda name: None if "norm" in name else gguf.GGMLQuantizationType.Q8_0,
    )
    checkpoint = open_checkpoint(path)
    assert checkpoint.norm_offset == 0.0
    with pytest.raises(UnsupportedExport, match=r"UQFF needs Hugging Face's config\.json"):
        write_uqff(checkpoint, None, tmp_path / "out")
    read = open_checkpoint(write_uqff(checkpoint, source, tmp_path / "out")[0].parent)
    for name, tensor in checkpoint.tensors.items():
        other = read.tensors[name]
        offset = 1.0 if "norm" in name else 0.0
        np.testing.assert_allclose(float32(other) + offset, float32(tensor), atol=1e-6, err_msg=name)


def test_an_untied_head(tmp_path: Path) -> None:
    own = {f"model.{name}": weight for name, weight in tiny.weights().items()}
    head = {"lm_head.weight": own["model.embed_tokens.weight"] * 2}
    config = {**tiny.CONFIG, "tie_word_embeddings": False}
    source = tiny.write_hugging_face(tmp_path / "source", config=config, tensors=own | head)
    checkpoint = quantized_model(source)
    (file,) = write_uqff(checkpoint, None, tmp_path / "out")
    assert "lm_head.weight.format" in load_file(file)
    check_same(checkpoint, open_checkpoint(file))
    assert as_mistral_rs("lm_head.weight", sees=True) == "language_model.lm_head.weight"


def test_quantized_tensors_that_are_no_layers_are_written_dense(tmp_path: Path) -> None:
    checkpoint = quantized_model(demo_folder())
    name = "vision.embeddings.position_embedding.weight"
    table = quantized(checkpoint.vision_tensors[name], "Q8_0")
    checkpoint = replace(checkpoint, vision_tensors={**checkpoint.vision_tensors, name: table})
    (file,) = write_uqff(checkpoint, None, tmp_path)
    assert open_checkpoint(file).vision_tensors[name].format.name == "F32"
    check_same(checkpoint, open_checkpoint(file))


def test_the_source_says_nothing_of_its_quantization(tmp_path: Path) -> None:
    config = {**tiny.CONFIG, "quantization_config": {"bits": 4}, "nested": [{"quantization_config": {}}]}
    checkpoint = quantized_model(tiny.write_hugging_face(tmp_path / "source"))
    other = tiny.write_hugging_face(tmp_path / "other", config=config)
    write_uqff(checkpoint, other, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert written == {**tiny.CONFIG, "nested": [{}]}


def test_another_tokenizer_goes_with_the_model(tmp_path: Path) -> None:
    source = tiny.write_hugging_face(tmp_path / "source")
    other = tmp_path / "other.json"
    other.write_text('{"other": 1}', "utf-8")
    write_uqff(replace(quantized_model(source), tokenizer=other), None, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_text("utf-8") == '{"other": 1}'


def test_a_model_beside_its_source(tmp_path: Path) -> None:
    source = tiny.write_hugging_face(tmp_path)
    (source / "tokenizer.json").write_text("{}", "utf-8")
    checkpoint = quantized_model(source)
    write_uqff(checkpoint, None, source / "q.uqff")
    check_same(checkpoint, open_checkpoint(source, uqff_files=["q"]))


def test_dense_models_are_refused(tmp_path: Path) -> None:
    source = tiny.write_hugging_face(tmp_path / "source")
    with pytest.raises(UnsupportedExport, match="nothing of it is quantized"):
        write_uqff(open_checkpoint(source), None, tmp_path / "out")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = quantized_model(tiny.write_hugging_face(tmp_path / "source"))
    (file,) = write_uqff(checkpoint, None, tmp_path / "out")
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ostro.loading.uqff_writer.write_safetensors", full)
    with pytest.raises(CannotWrite, match=r"out: No space left on device"):
        write_uqff(checkpoint, None, tmp_path / "out")
    assert file.read_bytes() == before


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    checkpoint = quantized_model(tiny.write_hugging_face(tmp_path / "source"))
    (tmp_path / "out").touch()
    with pytest.raises(CannotWrite, match="out: "):
        write_uqff(checkpoint, None, tmp_path / "out" / "x.uqff")


def test_while_a_model_loads(tmp_path: Path) -> None:
    """As mistral.rs takes it: an argument of the model that is loaded."""
    target = tmp_path / "again.uqff"
    with Runner(Which.VisionPlain(str(SAMPLE), from_uqff="q4k", write_uqff=str(target))):
        pass
    check_same(open_checkpoint(SAMPLE), open_checkpoint(tmp_path / "again-0.uqff"))


def test_a_model_quantized_while_it_loads(tmp_path: Path) -> None:
    with Runner(Which.VisionPlain(DEMO_MODEL, write_uqff=str(tmp_path / "x.uqff")), in_situ_quant="Q8_0"):
        pass
    read = open_checkpoint(tmp_path)
    assert read.tensors["embed_tokens.weight"].format.name == "Q8_0"
    assert read.vision_tensors["vision.encoder.layers.0.mlp.fc1.weight"].format.name == "Q8_0"
    assert description(tmp_path) == description(demo_folder())


def test_what_quantization_rearranged(tmp_path: Path) -> None:
    """The projector turned around, and an inner width filled up with zeros."""
    source = open_checkpoint(tiny_vision.write_hugging_face(tmp_path / "source"))
    made = quantize_in_situ(source, IsqConfig(name="Q8_0"), CpuOps())
    fc2 = made.vision_tensors["vision.encoder.layers.1.mlp.fc2.weight"]
    assert (fc2.format.name, fc2.shape) == ("Q8_0", (tiny_vision.HIDDEN, 32))
    turned = made.vision_tensors[PROJECTION].transposed()
    vision = {name: tensor for name, tensor in made.vision_tensors.items() if name != PROJECTION}
    made = replace(made, vision_tensors={**vision, PROJECTION_TURNED: turned})
    read = open_checkpoint(write_uqff(made, None, tmp_path / "out")[0])
    assert read.config.vision == replace(tiny_vision.EXPECTED, intermediate_size=32)
    np.testing.assert_array_equal(float32(read.vision_tensors[PROJECTION]), float32(turned).T)
    for index in range(tiny_vision.LAYERS):
        for name in ("fc1.weight", "fc1.bias", "fc2.weight"):
            full = f"vision.encoder.layers.{index}.mlp.{name}"
            np.testing.assert_array_equal(
                float32(read.vision_tensors[full]), float32(made.vision_tensors[full])
            )
