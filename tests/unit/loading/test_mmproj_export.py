"""The image half written as an mmproj file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest

from ostro.errors import BadTensor, UnsupportedExport
from ostro.loading.floats import as_f16, as_f32, float32, from_float32
from ostro.loading.gguf import GgufFile
from ostro.loading.gguf_writer import Part
from ostro.loading.mmproj_export import export_mmproj
from ostro.loading.open import open_checkpoint
from ostro.loading.vision_names import PROJECTION, PROJECTOR_NORM
from ostro.ops.tensor import FORMATS, Tensor

from . import tiny, tiny_vision
from .tiny_vision import check_all_weights

if TYPE_CHECKING:
    from pathlib import Path

    from ostro.loading.checkpoint import Checkpoint


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(tiny_vision.write_hugging_face(tmp_path / "hf"))


def reopened(folder: Path) -> Checkpoint:
    return open_checkpoint(tiny.write_gguf(folder / "m.gguf"), mmproj_file="mmproj.gguf")


def test_the_image_half_comes_back(tmp_path: Path, source: Checkpoint) -> None:
    export_mmproj(source, tmp_path / "mmproj.gguf")
    check_all_weights(reopened(tmp_path))


def test_a_file_comes_back_bit_for_bit(tmp_path: Path) -> None:
    first = tiny_vision.open_with_mmproj(tmp_path)
    export_mmproj(first, tmp_path / "mmproj.gguf")
    second = reopened(tmp_path)
    export_mmproj(second, tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "mmproj.gguf").read_bytes()
    check_all_weights(second)


def test_names_formats_and_keys_are_llama_cpps(tmp_path: Path, source: Checkpoint) -> None:
    export_mmproj(source, tmp_path / "mmproj.gguf")
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "mmproj.gguf").tensors}
    assert found.keys() == tiny_vision.mmproj_weights().keys()
    for name, tensor in found.items():
        full = len(tensor.shape) == 1 or name.startswith(("v.patch_embd", "v.position_embd"))
        assert tensor.tensor_type.name == ("F32" if full else "F16"), name
    projection = found["mm.input_projection.weight"]
    assert tuple(projection.shape) == (tiny.HIDDEN, tiny_vision.HIDDEN)
    metadata = GgufFile(tmp_path / "mmproj.gguf").metadata
    assert metadata["general.architecture"] == "clip"
    for name, value in tiny_vision.mmproj_metadata().items():
        if isinstance(value, (list, float)):
            np.testing.assert_allclose(metadata[name], value)
        else:
            assert metadata[name] == value
    assert metadata.keys() - tiny_vision.mmproj_metadata().keys() == {
        "general.architecture", "general.name", "general.size_label", "general.quantization_version",
        "general.file_type",
    }  # fmt: skip


def widened(source: Checkpoint, width: int, layers: int = tiny_vision.LAYERS) -> dict[str, Part]:
    """Feed-forward parts with neurons of zeros."""
    parts: dict[str, Part] = {}
    for layer in range(layers):
        prefix = f"vision.encoder.layers.{layer}.mlp."
        for name, axis in (("fc1.weight", 0), ("fc1.bias", 0), ("fc2.weight", 1)):
            values = float32(source.vision_tensors[prefix + name])
            pads = [(0, width - values.shape[axis] if i == axis else 0) for i in range(values.ndim)]
            wide = np.pad(values, pads)
            tensor = replace(source.vision_tensors[prefix + name], shape=wide.shape)
            parts[prefix + name] = Part.of(prefix + name, from_float32(tensor, wide))
    return parts


def test_a_widened_tower_is_consistent(tmp_path: Path, source: Checkpoint) -> None:
    width = tiny_vision.INNER + 32
    export_mmproj(source, tmp_path / "mmproj.gguf", quantized=widened(source, width))
    found = reopened(tmp_path)
    assert found.config.vision is not None
    assert found.config.vision.intermediate_size == width
    up = found.vision_tensors["vision.encoder.layers.0.mlp.fc1.weight"]
    assert up.shape == (width, tiny_vision.HIDDEN)
    assert not up.data.view("<f4")[tiny_vision.INNER * tiny_vision.HIDDEN :].any()


def test_layers_of_different_widths(tmp_path: Path, source: Checkpoint) -> None:
    assert tiny_vision.LAYERS > 1
    with pytest.raises(BadTensor, match="feed-forward layers of the vision tower differ in width"):
        export_mmproj(
            source, tmp_path / "x.gguf", quantized=widened(source, tiny_vision.INNER + 32, layers=1)
        )
    assert not (tmp_path / "x.gguf").exists()


def test_quantized_matrices_stay_as_they_are(tmp_path: Path, source: Checkpoint) -> None:
    name, width = "vision.encoder.layers.0.mlp.fc2.weight", 64
    parts = widened(source, width)
    rows = tiny_vision.HIDDEN
    data = np.random.default_rng(0).integers(0, 256, FORMATS["Q8_0"].row_bytes(width) * rows, np.uint8)
    parts[name] = Part.of(name, Tensor(name, FORMATS["Q8_0"], (rows, width), data))
    export_mmproj(source, tmp_path / "mmproj.gguf", quantized=parts)
    found = reopened(tmp_path).vision_tensors[name]
    assert found.format.name == "Q8_0"
    np.testing.assert_array_equal(found.data, data)


def test_models_without_an_image_half(tmp_path: Path, source: Checkpoint) -> None:
    text = open_checkpoint(tiny.write_gguf(tmp_path / "m.gguf"))
    with pytest.raises(UnsupportedExport, match="m reads text only, so there is no image half to write"):
        export_mmproj(text, tmp_path / "mmproj.gguf")
    tensors = {name: tensor for name, tensor in source.vision_tensors.items() if name != PROJECTION}
    with pytest.raises(UnsupportedExport, match="is not stored as llama"):
        export_mmproj(replace(source, vision_tensors=tensors), tmp_path / "mmproj.gguf")


def test_a_projection_too_large_for_half_floats(tmp_path: Path, source: Checkpoint) -> None:
    tensors: dict[str, Any] = dict(source.vision_tensors)
    for values, kind in ((np.float32(1e6), "F32"), (np.float32(60_000), "F32")):
        weights = float32(tensors[PROJECTION])
        weights[0, 0] = values
        tensors[PROJECTION] = from_float32(tensors[PROJECTION], weights)
        export_mmproj(replace(source, vision_tensors=tensors), tmp_path / "mmproj.gguf")
        found = reopened(tmp_path).vision_tensors[PROJECTION]
        assert found.format.name == kind
        np.testing.assert_array_equal(float32(found), weights)


def test_float_formats() -> None:
    values = np.array([[1.5, -2.0, 3.140625], [1e-3, 70_000.0, 0.0]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    brain = Tensor("t", FORMATS["BF16"], (2, 3), bits.reshape(-1).view(np.uint8))
    exact = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(float32(brain), exact)
    np.testing.assert_array_equal(float32(as_f32(brain)), exact)
    assert as_f16(brain).format.name == "F32"  # 70,000 is too large
    small = replace(brain, shape=(3,), data=brain.data[:6])
    assert as_f16(small).format.name == "F16"
    np.testing.assert_array_equal(float32(as_f16(small)), exact[0])
    with pytest.raises(BadTensor, match="is stored as Q8_0; F32, F16 or BF16 is needed"):
        float32(Tensor("t", FORMATS["Q8_0"], (1, 32), np.zeros(34, np.uint8)))


def test_the_projectors_norm_is_shifted_once(tmp_path: Path, source: Checkpoint) -> None:
    export_mmproj(source, tmp_path / "mmproj.gguf")
    found = reopened(tmp_path)
    export_mmproj(found, tmp_path / "again.gguf")
    again = GgufFile(tmp_path / "again.gguf").tensors()["mm.soft_emb_norm.weight"]
    np.testing.assert_array_equal(
        float32(again), float32(source.vision_tensors[PROJECTOR_NORM]) + np.float32(1)
    )
