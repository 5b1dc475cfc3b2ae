"""The small model of the package, quantized while it loads."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ostro.config import IsqConfig
from ostro.errors import BadConfig, BadTensor
from ostro.loading.open import open_checkpoint
from ostro.loading.vision_names import PROJECTION, PROJECTION_TURNED
from ostro.models.gemma3 import Gemma3
from ostro.models.siglip import run
from ostro.ops.cpu import CpuOps
from ostro.ops.tensor import FORMATS, Tensor
from ostro.quant.in_situ import quantize_in_situ
from ostro.which import DEMO_MODEL

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ostro.loading.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def source() -> Checkpoint:
    return open_checkpoint(DEMO_MODEL)


@pytest.fixture(scope="module")
def ops() -> CpuOps:
    return CpuOps(compute="f32")


def values(tensor: Tensor, ops: CpuOps) -> NDArray[np.float32]:
    matrix = ops.matrix(tensor.as_matrix())
    return matrix.dequantize(0, matrix.rows)


def test_weights_become_what_the_plan_says(source: Checkpoint, ops: CpuOps) -> None:
    told: list[tuple[str, int, int]] = []
    quantized = quantize_in_situ(
        source, IsqConfig(name="Q8_0"), ops, progress=lambda *report: told.append(report)
    )
    for name, tensor in source.tensors.items():
        own = quantized.tensors[name]
        if len(tensor.shape) == 1:
            assert own is tensor
            continue
        assert own.format.name == "Q8_0"
        assert own.shape == tensor.shape
        expected = values(tensor, ops)
        step = np.abs(expected.reshape(len(expected), -1, 32)).max(-1, keepdims=True) / 127
        error = np.abs(values(own, ops) - expected).reshape(len(expected), -1, 32)
        # A scale that fits all weights best may cut the largest; errors spread evenly are step / sqrt(12).
        assert np.all(error <= 2 * step + 1e-9)
        assert np.sqrt((error**2).mean()) <= 1.01 * np.sqrt((step**2).mean() / 12)
    turned = quantized.vision_tensors[PROJECTION_TURNED]
    assert PROJECTION not in quantized.vision_tensors
    assert turned.shape == source.vision_tensors[PROJECTION].shape[::-1]
    assert turned.format.name == "Q8_0"
    assert {what for what, _, _ in told} == {"Quantizing"}
    done = [done for _, done, _ in told]
    assert done == sorted(done)
    assert done[-1] == told[-1][2]


def test_the_image_half_may_be_left_alone(source: Checkpoint, ops: CpuOps) -> None:
    quantized = quantize_in_situ(source, IsqConfig(name="Q8_0", vision=False), ops)
    assert quantized.vision_tensors == source.vision_tensors


def odd_width(source: Checkpoint, inner: int) -> Checkpoint:
    """The model with the first `inner` neurons of its image half's feed-forward."""
    tensors = dict(source.vision_tensors)
    for name, tensor in source.vision_tensors.items():
        if ".mlp.fc1." in name:
            size = tensor.format.bytes * (1 if len(tensor.shape) == 1 else tensor.shape[1])
            shape = (inner, *tensor.shape[1:])
            tensors[name] = dataclasses.replace(tensor, shape=shape, data=tensor.data[: inner * size])
        elif name.endswith(".mlp.fc2.weight"):
            rows, size = tensor.shape[0], tensor.format.bytes
            data = np.ascontiguousarray(tensor.data.reshape(rows, -1)[:, : inner * size]).reshape(-1)
            data.flags.writeable = False
            tensors[name] = dataclasses.replace(tensor, shape=(rows, inner), data=data)
    assert source.config.vision is not None
    vision = dataclasses.replace(source.config.vision, intermediate_size=inner)
    return dataclasses.replace(
        source, config=dataclasses.replace(source.config, vision=vision), vision_tensors=tensors
    )


def test_an_inner_width_that_no_block_divides_is_filled_up(source: Checkpoint, ops: CpuOps) -> None:
    narrow = odd_width(source, 500)
    quantized = quantize_in_situ(narrow, IsqConfig(name="Q8_0"), ops)
    first = "vision.encoder.layers.0.mlp."
    tensors = quantized.vision_tensors
    assert tensors[first + "fc1.weight"].shape[0] == 512
    assert tensors[first + "fc1.bias"].shape == (512,)
    assert tensors[first + "fc2.weight"].shape[1] == 512
    assert not values(tensors[first + "fc1.weight"], ops)[500:].any()
    assert not values(tensors[first + "fc2.weight"], ops)[:, 500:].any()
    side = narrow.config.vision.image_size if narrow.config.vision else 0
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    before, after = (Gemma3.load(model, ops).vision for model in (narrow, quantized))
    assert before is not None
    assert after is not None
    expected, found = run(before.encode(pixels, ops)), run(after.encode(pixels, ops))
    assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected)


def test_a_half_filled_plan_keeps_shapes_together(source: Checkpoint, ops: CpuOps, tmp_path: Path) -> None:
    """Only fc2 is quantized: fc1 has to grow with it all the same."""
    topology = tmp_path / "topology.yml"
    topology.write_text("'/fc2/': {isq: Q8_0}")
    quantized = quantize_in_situ(odd_width(source, 500), IsqConfig(topology=topology), ops)
    fc1 = quantized.vision_tensors["vision.encoder.layers.1.mlp.fc1.weight"]
    assert (
        (fc1.format.name, fc1.shape[0]) == (source.vision_tensors[fc1.name].format.name, 512)
        if (fc1.name in source.vision_tensors)
        else fc1.shape[0] == 512
    )
    model = Gemma3.load(quantized, ops)
    side = source.config.vision.image_size if source.config.vision else 0
    assert model.vision is not None
    assert np.isfinite(run(model.vision.encode(np.zeros((side, side, 3), np.uint8), ops))).all()


def test_weights_that_are_not_finite_are_refused(source: Checkpoint, ops: CpuOps) -> None:
    name = "layers.1.mlp.up_proj.weight"
    bad = source.tensors[name]
    data = bad.data.copy()
    data[7 * bad.format.row_bytes(bad.shape[1]) :][: bad.format.bytes] = 0xFF
    data.flags.writeable = False
    tensors = {**source.tensors, name: dataclasses.replace(bad, data=data)}
    with pytest.raises(BadTensor) as caught:
        quantize_in_situ(dataclasses.replace(source, tensors=tensors), IsqConfig(name="Q8_0"), ops)
    assert bad.name in str(caught.value)
    assert "not a finite number" in str(caught.value)


def test_importance_of_another_model_is_refused(source: Checkpoint, ops: CpuOps) -> None:
    importance = {"layers.0.mlp.up_proj.weight": np.ones(7, np.float32)}
    with pytest.raises(BadTensor, match="is for 7 columns"):
        quantize_in_situ(source, IsqConfig(name="Q8_0"), ops, importance=importance)


def blocks(checkpoint: Checkpoint) -> dict[str, bytes]:
    both = {**checkpoint.tensors, **checkpoint.vision_tensors}
    return {name: tensor.data.tobytes() for name, tensor in both.items()}


def test_the_cache_gives_the_same_model(source: Checkpoint, ops: CpuOps, tmp_path: Path) -> None:
    asked = IsqConfig(name="Q8_0", cache=tmp_path / "cache")
    told: list[str] = []
    first = quantize_in_situ(source, asked, ops, progress=lambda what, *_: told.append(what))
    assert told
    told.clear()
    second = quantize_in_situ(source, asked, ops, progress=lambda what, *_: told.append(what))
    assert told == []
    assert blocks(first) == blocks(second) == blocks(quantize_in_situ(source, IsqConfig(name="Q8_0"), ops))
    entries = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert len(entries) == 2
    assert entries[1] == "sources.json"
    # Another format and other importance are other entries.
    quantize_in_situ(source, dataclasses.replace(asked, vision=False), ops)
    weighted = {"layers.0.mlp.up_proj.weight": np.ones(source.config.hidden_size, np.float32)}
    quantize_in_situ(source, asked, ops, importance=weighted)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3


def test_the_cache_goes_by_content(source: Checkpoint, ops: CpuOps, tmp_path: Path) -> None:
    asked = IsqConfig(name="Q8_0", cache=tmp_path / "cache")
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(source.files[0].read_bytes())
    moved = dataclasses.replace(source, files=(copy,))
    quantize_in_situ(source, asked, ops)
    quantize_in_situ(moved, asked, ops)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 1
    changed = bytearray(copy.read_bytes())
    changed[-1] ^= 1
    copy.write_bytes(changed)
    os.utime(copy, ns=(1, 1))
    quantize_in_situ(moved, asked, ops)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2


@pytest.mark.parametrize("damage", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00[]      ", b"x" * 100])
def test_a_damaged_entry_is_made_anew(
    source: Checkpoint, ops: CpuOps, tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    asked = IsqConfig(name="Q8_0", cache=tmp_path)
    expected = blocks(quantize_in_situ(source, asked, ops))
    (entry,) = tmp_path.glob("*.safetensors")
    entry.write_bytes(damage)
    assert blocks(quantize_in_situ(source, asked, ops)) == expected
    assert f"{entry} is made anew" in caplog.text
    assert len(entry.read_bytes()) > 1 << 20


def test_an_entry_that_lies_about_shapes_is_made_anew(
    source: Checkpoint, ops: CpuOps, tmp_path: Path
) -> None:
    asked = IsqConfig(name="Q8_0", cache=tmp_path)
    expected = blocks(quantize_in_situ(source, asked, ops))
    (entry,) = tmp_path.glob("*.safetensors")
    whole = entry.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    for name in header["__metadata__"]:
        header["__metadata__"][name] = json.dumps(["Q8_0", 1 << 40, 32])
    text = json.dumps(header).encode()
    entry.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + size :])
    assert blocks(quantize_in_situ(source, asked, ops)) == expected


def test_a_cache_that_cannot_be_written_is_an_error_or_a_log_line(
    source: Checkpoint, ops: CpuOps, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(BadConfig, match="cannot be kept there"):
        quantize_in_situ(source, IsqConfig(name="Q8_0", cache=blocked / "cache"), ops)


def test_a_quantized_model_stays_as_it_is(source: Checkpoint, ops: CpuOps) -> None:
    once = quantize_in_situ(source, IsqConfig(name="Q8_0"), ops)
    assert quantize_in_situ(once, IsqConfig(name="Q8_0"), ops) is once


def test_formats_of_the_kernels_agree_with_the_table() -> None:
    for name, form in FORMATS.items():
        data = np.zeros(form.bytes, np.uint8)
        data.flags.writeable = False
        assert CpuOps(threads=1).matrix(Tensor(name, form, (1, form.block), data)).cols == form.block
