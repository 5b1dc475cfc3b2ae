"""Quantization while a file is written gives what quantization in memory gives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ostro.loading.demo import demo_folder
from ostro.loading.floats import float32, from_float32
from ostro.loading.mmproj import add_mmproj
from ostro.loading.mmproj_export import UNQUANTIZED, export_mmproj
from ostro.loading.open import open_checkpoint
from ostro.ops.cpu import CpuOps
from ostro.quant.plan import PADDED, plan
from ostro.quant.quantize import quantized_tensors
from ostro.quant.streamed import streamed

if TYPE_CHECKING:
    from pathlib import Path

    from ostro.loading.checkpoint import Checkpoint

INNER = 500
"""Inner width of the image half: no multiple of any block."""


@pytest.fixture(scope="module")
def source() -> Checkpoint:
    """The demo model without some neurons of its image half."""
    checkpoint = open_checkpoint(demo_folder())
    vision = checkpoint.config.vision
    assert vision is not None
    tensors = dict(checkpoint.vision_tensors)
    cuts: dict[str, Any] = {
        "fc1.weight": np.s_[:INNER],
        "fc1.bias": np.s_[:INNER],
        "fc2.weight": np.s_[:, :INNER],
    }
    for index in range(vision.num_hidden_layers):
        for part, cut in cuts.items():
            name = f"vision.encoder.layers.{index}.mlp.{part}"
            values = float32(tensors[name])[cut]
            tensors[name] = from_float32(replace(tensors[name], shape=values.shape), values)
    narrow = replace(checkpoint.config, vision=replace(vision, intermediate_size=INNER))
    return replace(checkpoint, vision_tensors=tensors, config=narrow)


def test_each_part_is_what_quantization_in_memory_makes(source: Checkpoint) -> None:
    ops = CpuOps(1)
    formats = {name: fmt for name, fmt in plan(source, "Q8_0").items() if name not in UNQUANTIZED}
    rest, parts = streamed(source, formats, ops)
    expected = dict(quantized_tensors(source, formats, ops))
    assert parts.keys() == formats.keys()
    for name, tensor in expected.items():
        if name in parts:
            part = parts[name]
            assert (part.format, part.shape) == (tensor.format, tensor.shape)
            found = part.read()
        else:
            assert rest.vision_tensors[name].shape == tensor.shape
            found = rest.vision_tensors[name].data
        np.testing.assert_array_equal(found, tensor.data)


@pytest.mark.parametrize("only", ["", ".mlp.fc1.weight", ".mlp.fc2.weight"])
def test_a_widened_image_half_is_whole(tmp_path: Path, source: Checkpoint, only: str) -> None:
    """Whichever of its matrices are quantized, all parts of a layer get the same width."""
    formats = {name: fmt for name, fmt in plan(source, "Q8_0").items() if name.endswith(only)}
    formats = {name: fmt for name, fmt in formats.items() if name not in UNQUANTIZED}
    rest, parts = streamed(source, formats, CpuOps(1))
    export_mmproj(rest, tmp_path / "mmproj.gguf", quantized=parts)
    text = replace(source, config=replace(source.config, vision=None), vision_tensors={})
    found = add_mmproj(text, tmp_path / "mmproj.gguf")
    assert found.config.vision is not None
    assert found.config.vision.intermediate_size == -(-INNER // PADDED) * PADDED == 512
    bias = float32(found.vision_tensors["vision.encoder.layers.3.mlp.fc1.bias"])
    np.testing.assert_array_equal(
        bias[:INNER], float32(source.vision_tensors["vision.encoder.layers.3.mlp.fc1.bias"])
    )
    assert not bias[INNER:].any()
