"""The UQFF reader: a file that mistral.rs wrote, and files that nobody should write."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from benches.uqff_with_mistralrs import HIDDEN, VOCABULARY, sample_weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from ostro import ChatCompletionRequest, ChatCompletionResponse, Runner, Which
from ostro.errors import CorruptFile, ModelError, OstroError, UnknownTensor, UnsupportedModel
from ostro.loading.names import as_mistral_rs
from ostro.loading.open import open_checkpoint
from ostro.loading.uqff import read_uqff
from ostro.ops.cpu import float32

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ostro.loading.checkpoint import Checkpoint
    from ostro.ops.tensor import Tensor

    Arrays = dict[str, NDArray[Any]]

SAMPLE = Path(__file__).parents[2] / "parity/data/uqff"
"""Written by mistral.rs 0.9.5 with in_situ_quant="Q4K": see `benches.uqff_with_mistralrs`."""
FILE = SAMPLE / "q4k-0.uqff"
VERSION: Arrays = {
    f"uqff.version.{part}": np.array(number, np.uint32)
    for part, number in (("major", 1), ("minor", 2), ("patch", 0))
}
STEPS = {"Q4_K": 15, "Q6_K": 63, "Q4_1": 15, "F32": 1 << 23}
"""Between the smallest and the largest number that a format can tell apart."""


def every(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return {**checkpoint.tensors, **checkpoint.vision_tensors}


def test_what_mistral_rs_writes() -> None:
    checkpoint = open_checkpoint(SAMPLE)
    source = sample_weights()
    tensors = every(checkpoint)
    assert {as_mistral_rs(name, sees=True) for name in tensors} == source.keys()
    assert {tensor.format.name for tensor in tensors.values()} == STEPS.keys()
    assert tensors["embed_tokens.weight"].format.name == "Q6_K"
    assert tensors["vision.encoder.layers.0.mlp.fc1.weight"].format.name == "Q4_1"
    assert tensors["vision.encoder.layers.0.mlp.fc1.bias"].format.name == "F32"
    for name, tensor in tensors.items():
        expected = source[as_mistral_rs(name, sees=True)]
        spread = float(np.ptp(expected))
        np.testing.assert_allclose(
            float32(tensor), expected, rtol=0, atol=spread / STEPS[tensor.format.name], err_msg=name
        )
    assert (checkpoint.norm_offset, checkpoint.projector_norm_offset) == (1.0, 1.0)
    assert checkpoint.config.vocab_size == len(VOCABULARY)
    assert checkpoint.chat_template is not None
    assert checkpoint.tokenizer == SAMPLE / "tokenizer.json"


def test_blocks_stay_in_the_mapped_file() -> None:
    tensor = open_checkpoint(SAMPLE).tensors["layers.0.self_attn.q_proj.weight"]
    assert tensor.format.name == "Q4_K"
    assert not tensor.data.flags.owndata
    assert not tensor.data.flags.writeable


def test_answers() -> None:
    request = ChatCompletionRequest(
        model="default",
        messages=[{"role": "user", "content": [{"type": "text", "text": "go"}]}],
        max_tokens=3,
    )
    with Runner(Which.VisionPlain(str(SAMPLE), from_uqff="q4k-0.uqff")) as runner:
        response = runner.send_chat_completion_request(request)
    assert isinstance(response, ChatCompletionResponse)
    assert response.usage.completion_tokens > 0


def copy(folder: Path, *, leave_out: str = "nothing") -> Path:
    """The sample, with files that may be changed."""
    target = folder / "model"
    shutil.copytree(SAMPLE, target, ignore=shutil.ignore_patterns(leave_out))
    return target


def stored() -> Arrays:
    return {name: array.copy() for name, array in load_file(FILE).items()}


KEY = "language_model.model.layers.0.mlp.up_proj"
NAME = f"{KEY}.weight"


def u32(*numbers: int) -> NDArray[np.uint32]:
    return np.array(numbers, np.uint32)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({f"{NAME}.format": np.array(9, np.uint8)}, UnsupportedModel, "in the unknown way 9"),
        ({f"{NAME}.format": np.array([0], np.uint8)}, CorruptFile, r"has format stored as U8 \[1\]"),
        ({f"{NAME}.dtype": np.array(7777, np.uint32)}, UnsupportedModel, "as ggml's type 7777"),
        ({f"{NAME}.dtype": np.array(8, np.uint32)}, CorruptFile, r"weights of Q8_0 take"),
        ({f"{NAME}.dtype": None}, CorruptFile, rf"lacks '{NAME}\.dtype'"),
        ({f"{NAME}.shape": None}, CorruptFile, r"lacks .*shape"),
        ({f"{NAME}.shape": u32(64, 255)}, CorruptFile, "rows of 255 weights, not a multiple of Q4_K's 256"),
        ({f"{NAME}.shape": u32(64, 512)}, CorruptFile, "take 18432"),
        ({f"{NAME}.shape": u32(2**31, 2**31)}, CorruptFile, "claims shape"),
        ({f"{NAME}.shape": u32(0, 256)}, CorruptFile, "claims shape"),
        ({f"{NAME}.shape": u32(*[1] * 9)}, CorruptFile, "has a shape stored as"),
        ({f"{NAME}.shape": u32()}, CorruptFile, "has a shape stored as"),
        ({NAME: None}, CorruptFile, rf"lacks '{NAME}'"),
        ({NAME: np.zeros(9216, np.int8)}, CorruptFile, "dtype I8, not U8"),
        ({NAME: np.zeros(9, np.uint8)}, CorruptFile, "has 9 bytes"),
        ({"stray": np.zeros(1, np.uint8)}, UnknownTensor, "'stray' belongs to no layer"),
        ({f"{KEY}.scales": np.zeros(1, np.uint8)}, UnknownTensor, "belongs to no layer"),
        ({f"{NAME}x": np.zeros(1, np.uint8)}, UnknownTensor, "belongs to no layer"),
        ({f"{NAME}.format": np.array(2, np.uint8)}, UnsupportedModel, "as HQQ"),
        ({f"{NAME}.format": np.array(1, np.uint8)}, UnsupportedModel, "has dtype U8"),
        ({"uqff.version.minor": np.array(3, np.uint32)}, UnsupportedModel, r"UQFF version 1\.3\.0; ostro"),
        ({"uqff.version.major": np.array(2, np.uint32)}, UnsupportedModel, r"UQFF version 2\.2\.0"),
        ({"uqff.version.major": None}, UnsupportedModel, "no UQFF version in it"),
        ({"uqff.version.patch": None}, CorruptFile, r"uqff\.version\.patch is not a u32 scalar"),
        ({"uqff.version.minor": u32(1, 2)}, CorruptFile, "is not a u32 scalar"),
    ],
)  # fmt: skip
def test_refuses(tmp_path: Path, changes: dict[str, Any], error: type[ModelError], message: str) -> None:
    folder = copy(tmp_path)
    arrays = {name: array for name, array in {**stored(), **changes}.items() if array is not None}
    save_file(arrays, folder / FILE.name)
    with pytest.raises(error, match=message):
        open_checkpoint(folder)


def test_files_from_before_version_1(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    save_file({str(index): np.zeros(5, np.uint8) for index in range(3)}, folder / FILE.name)
    with pytest.raises(UnsupportedModel, match=r"from before version 1\.0; .*`mistralrs quantize`"):
        open_checkpoint(folder)


def test_older_minor_versions_are_read(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    save_file({**stored(), "uqff.version.minor": np.array(0, np.uint32)}, folder / FILE.name)
    assert open_checkpoint(folder).tensors


def split(folder: Path, *, twice: bool = False) -> None:
    """The layers in two files; twice: one of them in both, and the version."""
    arrays = stored()
    first = {name: array for name, array in arrays.items() if "vision_tower" not in name}
    second = {name: array for name, array in arrays.items() if name not in first}
    save_file(first, folder / "q4k-0.uqff")
    save_file(second | ({NAME: arrays[NAME]} if twice else {}) | VERSION, folder / "q4k-1.uqff")
    (folder / "uqff_report.json").unlink()


def test_several_files(tmp_path: Path) -> None:
    split(copy(tmp_path))
    assert every(open_checkpoint(tmp_path / "model")).keys() == every(open_checkpoint(SAMPLE)).keys()


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    split(copy(tmp_path), twice=True)
    with pytest.raises(CorruptFile, match=r"q4k-1\.uqff: tensor .* is already in q4k-0\.uqff"):
        open_checkpoint(tmp_path / "model")


def test_a_tensor_among_layers_and_residuals(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    residual = load_file(folder / "residual.safetensors")
    save_file({**residual, NAME: np.zeros((64, HIDDEN), np.float32)}, folder / "residual.safetensors")
    with pytest.raises(CorruptFile, match=r"residual\.safetensors: tensor .* is already in q4k-0\.uqff"):
        open_checkpoint(folder)


def test_a_missing_residual_file(tmp_path: Path) -> None:
    folder = copy(tmp_path, leave_out="residual.safetensors")
    with pytest.raises(UnsupportedModel, match=r"UQFF files without residual\.safetensors"):
        open_checkpoint(folder)
    with pytest.raises(UnsupportedModel, match=r"a UQFF model needs residual\.safetensors beside it"):
        open_checkpoint(folder / FILE.name)


def test_dense_layers_among_quantized_ones(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    arrays = {name: array for name, array in stored().items() if not name.startswith(NAME)}
    weight = np.ones((64, HIDDEN), np.float16)
    save_file({**arrays, NAME: weight, f"{NAME}.format": np.array(1, np.uint8)}, folder / FILE.name)
    tensor = open_checkpoint(folder).tensors["layers.0.mlp.up_proj.weight"]
    assert (tensor.format.name, tensor.shape) == ("F16", (64, HIDDEN))


def test_a_tied_head_of_version_1_1_serves_for_the_table(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    table, head = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
    save_file({name.replace(table, head): array for name, array in stored().items()}, folder / FILE.name)
    residual = load_file(folder / "residual.safetensors")
    dense = np.zeros((len(VOCABULARY), HIDDEN), np.float32)
    save_file({**residual, table: dense}, folder / "residual.safetensors")
    assert open_checkpoint(folder).tensors["embed_tokens.weight"].format.name == "Q6_K"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_give_typed_errors(tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(FILE.read_bytes())
    header = 8 + int.from_bytes(raw[:8], "little")
    scalars = header + 2048
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, scalars))
        raw[position] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.uqff"
    path.write_bytes(raw[: data.draw(st.sampled_from([len(raw), len(raw) - 1, header, 100]))])
    with contextlib.suppress(OstroError):
        for weight in read_uqff([path]).values():
            assert weight.tensor().data.size <= len(raw)


def test_configuration_and_files_disagree(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["text_config"]["intermediate_size"] = 96
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelError, match=r"has shape \[64, 256\]; the configuration asks for \[96, 256\]"):
        open_checkpoint(folder)
