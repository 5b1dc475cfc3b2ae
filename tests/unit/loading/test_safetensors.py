"""The safetensors reader alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ostro.errors import CorruptFile, ModelNotFound, OstroError, UnsupportedModel
from ostro.loading.safetensors import Stored, read_safetensors

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def entry(begin: int = 0, end: int = 8, shape: object = None, dtype: object = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [2] if shape is None else shape, "data_offsets": [begin, end]}


def read(
    tmp_path: Path, header: object, data: bytes = bytes(8), size: int | None = None
) -> dict[str, Stored]:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes((len(raw) if size is None else size).to_bytes(8, "little") + raw + data)
    return read_safetensors(path)


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    values: dict[str, NDArray[Any]] = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([1.5, -2], np.float16),
        "c": np.arange(3),
    }
    save_file(values, path, metadata={"format": "pt"})
    stored = read_safetensors(path)
    assert stored.keys() == values.keys()
    tensor = stored["a"].tensor()
    assert (tensor.name, tensor.shape, tensor.format.name) == ("a", (2, 3), "F32")
    np.testing.assert_array_equal(tensor.data.view("<f4").reshape(2, 3), values["a"])
    assert stored["b"].tensor().data.view("<f2").tolist() == [1.5, -2]
    assert not tensor.data.flags.writeable


def test_bf16(tmp_path: Path) -> None:
    stored = read(tmp_path, {"x": entry(0, 4, dtype="BF16")}, b"\x80\x3f\x00\x40")
    assert stored["x"].tensor().format.name == "BF16"
    assert stored["x"].tensor().data.tolist() == [0x80, 0x3F, 0, 0x40]


@pytest.mark.parametrize(("dtype", "size"), [("I8", 1), ("U8", 1), ("F8_E4M3", 1), ("F64", 8), ("F4", 3)])
def test_other_dtypes_are_named_when_they_are_needed(tmp_path: Path, dtype: str, size: int) -> None:
    stored = read(tmp_path, {"mlp.up": entry(0, 2 * size, dtype=dtype)}, bytes(2 * size))
    with pytest.raises(UnsupportedModel, match=f"tensor 'mlp.up' has dtype {dtype}.*GPTQ, AWQ, bitsandbytes"):
        stored["mlp.up"].tensor()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"not json", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        ([], "holds list, not a JSON object"),
        (b'{"a": 1, "a": 2}', "key 'a' appears twice"),
        ({"x": 3}, "tensor 'x' has a malformed entry: 3"),
        ({"x": {"dtype": "F32", "shape": [2]}}, "tensor 'x' has a malformed entry"),
        ({"x": entry(dtype=5)}, "tensor 'x' has a malformed entry"),
        ({"x": entry(shape=[-2])}, "tensor 'x' has a malformed entry"),
        ({"x": entry(shape=[2.0])}, "tensor 'x' has a malformed entry"),
        ({"x": entry(shape=[True, 2])}, "tensor 'x' has a malformed entry"),
        ({"x": entry(shape=[1] * 9)}, "tensor 'x' has a malformed entry"),
        ({"x": entry(shape=[2**60])}, "tensor 'x' has a malformed entry"),
        ({"x": entry(-8, 0)}, "tensor 'x' has a malformed entry"),
        ({"x": entry(shape=[3])}, "tensor 'x': F32 [3] does not fill bytes 0 to 8"),
        ({"x": entry(8, 0)}, "does not fill bytes 8 to 0"),
        ({"x": entry(0, 16, [4])}, "tensor 'x' ends at byte 16 of the data, but the file holds 8"),
        ({"x": entry(), "y": entry(4, 8, [1])}, "tensor 'y' overlaps the tensor before it"),
        ({"x": entry(4, 8, [1])}, "tensor 'x' leaves a gap before it"),
        ({"x": entry(0, 4, [1])}, "4 bytes after the last tensor belong to none"),
    ],
)
def test_refuses_lies(tmp_path: Path, header: object, message: str) -> None:
    with pytest.raises(CorruptFile) as caught:
        read(tmp_path, header)
    assert message in caught.value.message
    assert caught.value.message.startswith(str(tmp_path))


@pytest.mark.parametrize("size", [2**63, 2**24 + 1, 1000])
def test_refuses_huge_headers(tmp_path: Path, size: int) -> None:
    with pytest.raises(CorruptFile, match=f"claims a header of {size} bytes"):
        read(tmp_path, {"x": entry()}, size=size)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\x01\0\0", "claims a header"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
    ],
)
def test_refuses_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=message):
        read_safetensors(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        read_safetensors(tmp_path / "nothing")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_only_our_errors(tmp_path: Path, data: st.DataObject) -> None:
    header = json.dumps({"x": entry(), "y": entry(8, 12, dtype="F16")}).encode()
    content = bytearray(len(header).to_bytes(8, "little") + header + bytes(12))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "fuzz.safetensors"
    path.unlink(missing_ok=True)
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    message = str(path)
    try:
        for stored in read_safetensors(path).values():
            stored.tensor()
    except OstroError as error:
        message = error.message
    assert str(path) in message
