"""The GGUF reader alone: values, views, and files that lie."""

from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest

from ostro.errors import CorruptFile, ModelNotFound, OstroError, UnsupportedModel
from ostro.loading.gguf import GgufFile

from . import gguf_bytes as gb
from .gguf_bytes import GgufBytes, key

if TYPE_CHECKING:
    from pathlib import Path


def opened(tmp_path: Path, content: bytes | GgufBytes) -> GgufFile:
    path = tmp_path / "model.gguf"
    path.write_bytes(content if isinstance(content, bytes) else content.build())
    return GgufFile(path)


def test_reads_every_value_type_that_the_reference_writer_writes(tmp_path: Path) -> None:
    path = tmp_path / "values.gguf"
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_uint8("u8", 255)
    writer.add_int8("i8", -128)
    writer.add_uint16("u16", 65535)
    writer.add_int16("i16", -32768)
    writer.add_uint32("u32", 2**32 - 1)
    writer.add_int32("i32", -(2**31))
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 1e-300)
    writer.add_bool("yes", True)
    writer.add_string("text", "▁naïve\0x")
    writer.add_array("texts", ["a", "", "日本", "x" * 300])
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("floats", [0.25, -1.5])
    writer.add_array("bools", [True, False])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = GgufFile(path).metadata
    assert metadata.pop("general.architecture") == "gemma3"
    arrays = {name: metadata.pop(name) for name in ("ints", "floats", "bools")}
    assert metadata == {
        "u8": 255,
        "i8": -128,
        "u16": 65535,
        "i16": -32768,
        "u32": 2**32 - 1,
        "i32": -(2**31),
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f32": 0.5,
        "f64": 1e-300,
        "yes": True,
        "text": "▁naïve\0x",
        "texts": ["a", "", "日本", "x" * 300],
    }
    assert arrays["ints"].tolist() == [1, -2, 3]
    assert arrays["floats"].tolist() == [0.25, -1.5]
    assert arrays["bools"].dtype == np.bool_
    assert arrays["bools"].tolist() == [True, False]


def test_tensors_are_read_only_views_with_reversed_dimensions(tmp_path: Path) -> None:
    values = np.arange(24, dtype="<f4").reshape(4, 6)
    file = opened(
        tmp_path,
        GgufBytes(
            tensors=[("m", [6, 4], gb.F32, 0), ("q", [32, 2], gb.Q8_0, 96)],
            data=values.tobytes() + bytes(range(68)),
        ),
    )
    tensors = file.tensors()
    assert list(tensors) == ["m", "q"]
    assert tensors["m"].shape == (4, 6)
    assert tensors["m"].format.name == "F32"
    np.testing.assert_array_equal(tensors["m"].data.view("<f4").reshape(4, 6), values)
    assert tensors["q"].format.name == "Q8_0"
    assert tensors["q"].data.tolist() == list(range(68))
    assert not tensors["m"].data.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        tensors["m"].data[0] = 1


def test_honours_the_alignment_of_the_file(tmp_path: Path) -> None:
    built = GgufBytes(
        keys=[key("general.alignment", gb.UINT32, 256)],
        tensors=[("a", [1], gb.F32, 0), ("b", [1], gb.F32, 256)],
        data=struct.pack("<f", 1.5) + bytes(252) + struct.pack("<f", 2.5),
        alignment=256,
    )
    tensors = opened(tmp_path, built).tensors()
    assert tensors["b"].data.view("<f4").tolist() == [2.5]


def test_reads_version_2_and_nested_arrays(tmp_path: Path) -> None:
    inner = gb.array(gb.UINT8, 2, b"\x01\x02")
    built = GgufBytes(version=2, keys=[("n", gb.ARRAY, gb.array(gb.ARRAY, 2, inner + inner))])
    assert [part.tolist() for part in opened(tmp_path, built).metadata["n"]] == [[1, 2], [1, 2]]


def nested(depth: int) -> bytes:
    return gb.array(gb.UINT8, 0, b"") if depth == 0 else gb.array(gb.ARRAY, 1, nested(depth - 1))


ONE: list[tuple[str | bytes, list[int], int, int]] = [("t", [32], gb.F32, 0)]
CORRUPT: dict[str, tuple[GgufBytes, str]] = {
    "key twice": (GgufBytes(keys=[key("k", gb.UINT8, 1)] * 2), "metadata key 'k' appears twice"),
    "tensor twice": (GgufBytes(tensors=ONE * 2, data=bytes(128)), "tensor 't' appears twice"),
    "endless text": (
        GgufBytes(keys=[("k", gb.STRING, struct.pack("<Q", 2**63))]),
        f"metadata key 'k' claims a text of {2**63} bytes",
    ),
    "text past the end": (
        GgufBytes(keys=[("k", gb.STRING, struct.pack("<Q", 1000) + b"x")]),
        "metadata key 'k' needs 1000 bytes",
    ),
    "endless numbers": (
        GgufBytes(keys=[("k", gb.ARRAY, gb.array(gb.UINT64, 2**61, b""))]),
        f"metadata key 'k' needs {2**64} bytes",
    ),
    "endless texts": (
        GgufBytes(keys=[("k", gb.ARRAY, gb.array(gb.STRING, 2**62, b""))]),
        f"metadata key 'k' claims {2**62} elements",
    ),
    "deep nesting": (GgufBytes(keys=[("k", gb.ARRAY, nested(5))]), "metadata key 'k' nests arrays deeper"),
    "bool of 2": (GgufBytes(keys=[key("k", gb.BOOL, 2)]), "metadata key 'k' is a bool of value 2"),
    "bools of 7": (
        GgufBytes(keys=[("k", gb.ARRAY, gb.array(gb.BOOL, 2, b"\x01\x07"))]),
        "metadata key 'k' holds a bool of value 7",
    ),
    "bad UTF-8": (
        GgufBytes(keys=[("k", gb.STRING, gb.text(b"ab\xff"))]),
        "metadata key 'k' is not valid UTF-8",
    ),
    "bad UTF-8 in a list": (
        GgufBytes(keys=[("k", gb.ARRAY, gb.array(gb.STRING, 2, gb.text("ok") + gb.text(b"\xc3")))]),
        "element 1 of metadata key 'k' is not valid UTF-8",
    ),
    "bad UTF-8 in a key": (
        GgufBytes(keys=[(b"\x80", gb.UINT8, b"\x01")]),
        "metadata key number 0 is not valid",
    ),
    "unknown value type": (
        GgufBytes(keys=[("k", 99, b"")]),
        "metadata key 'k' has the unknown value type 99",
    ),
    "unknown element type": (
        GgufBytes(keys=[("k", gb.ARRAY, gb.array(13, 1, bytes(8)))]),
        "metadata key 'k' is an array of the unknown value type 13",
    ),
    "too many keys": (GgufBytes(key_count=2**60), f"claims {2**60} metadata keys"),
    "too many tensors": (GgufBytes(tensor_count=2**60), f"claims {2**60} tensors"),
    "rank 0": (GgufBytes(tensors=[("t", [], gb.F32, 0)], data=bytes(32)), "tensor 't' has 0 dimensions"),
    "rank 5": (GgufBytes(tensors=[("t", [1] * 5, gb.F32, 0)], data=bytes(32)), "tensor 't' has 5 dimensions"),
    "zero": (
        GgufBytes(tensors=[("t", [4, 0], gb.F32, 0)], data=bytes(32)),
        "tensor 't' has a dimension of zero",
    ),
    "absurd": (
        GgufBytes(tensors=[("t", [2**40, 2**40], gb.F32, 0)], data=bytes(32)),
        "tensor 't' claims [1099511627776, 1099511627776] weights",
    ),
    "half a block": (
        GgufBytes(tensors=[("t", [33], gb.Q8_0, 0)], data=bytes(99)),
        "tensor 't' has rows of 33 weights, not a multiple of Q8_0's 32",
    ),
    "past the end": (
        GgufBytes(tensors=[("t", [32], gb.F32, 32)], data=bytes(128)),
        "tensor 't' needs 128 bytes at 32, but the file holds 128 bytes of data",
    ),
    "far away": (
        GgufBytes(tensors=[("t", [1], gb.F32, 2**64 - 32)], data=bytes(128)),
        f"tensor 't' needs 4 bytes at {2**64 - 32}",
    ),
    "misaligned": (
        GgufBytes(tensors=[("t", [1], gb.F32, 4)], data=bytes(128)),
        "tensor 't' starts at 4, not a multiple of the alignment 32",
    ),
    "overlap": (
        GgufBytes(tensors=[("a", [32], gb.F32, 0), ("b", [1], gb.F32, 96)], data=bytes(256)),
        "tensors 'a' and 'b' overlap",
    ),
    "alignment 0": (GgufBytes(keys=[key("general.alignment", gb.UINT32, 0)]), "general.alignment is 0"),
    "alignment 48": (GgufBytes(keys=[key("general.alignment", gb.UINT32, 48)]), "general.alignment is 48"),
    "alignment text": (GgufBytes(keys=[key("general.alignment", gb.STRING, "x")]), "general.alignment is x"),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_refuses_lies_by_name(tmp_path: Path, case: str) -> None:
    built, message = CORRUPT[case]
    with pytest.raises(CorruptFile) as caught:
        opened(tmp_path, built).tensors()
    assert message in caught.value.message
    assert caught.value.message.startswith(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", CorruptFile, "the file is empty"),
        (b"GG", CorruptFile, "ends within its header"),
        (b"GGUF\x03\0\0\0", CorruptFile, "the header needs 8 bytes at 8"),
        (b"\x7fELF" + bytes(100), UnsupportedModel, "not a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\n", CorruptFile, "Git LFS pointer"),
        (GgufBytes(version=1).build(), UnsupportedModel, "GGUF version 1"),
        (GgufBytes(version=4).build(), UnsupportedModel, "GGUF version 4"),
        (GgufBytes(version=0x03000000).build(), UnsupportedModel, "big-endian"),
    ],
)
def test_refuses_foreign_files(tmp_path: Path, content: bytes, error: type[OstroError], message: str) -> None:
    with pytest.raises(error, match=message):
        opened(tmp_path, content)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        GgufFile(tmp_path / "nothing.gguf")


@pytest.mark.parametrize(
    ("kind", "name"), [(16, "IQ2_XXS"), (34, "TQ1_0"), (40, "NVFP4"), (28, "F64"), (777, "777")]
)
def test_names_the_formats_that_it_does_not_read(tmp_path: Path, kind: int, name: str) -> None:
    file = opened(tmp_path, GgufBytes(tensors=[("blk.0.x", [256], kind, 0)], data=bytes(1024)))
    with pytest.raises(UnsupportedModel, match=rf"tensor 'blk\.0\.x' is stored as .*{name}"):
        file.tensors()


@pytest.mark.parametrize(("kind", "name", "size"), [(9, "Q8_1", 288), (15, "Q8_K", 292), (39, "MXFP4", 136)])
def test_reads_rarer_formats(tmp_path: Path, kind: int, name: str, size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    built = GgufBytes(tensors=[("x", [256], kind, 0)], data=data)
    tensor = opened(tmp_path, built).tensors()["x"]
    assert (tensor.format.name, tensor.shape) == (name, (256,))
    assert tensor.data.tobytes() == data


@pytest.mark.parametrize(
    "case", ["endless text", "endless numbers", "endless texts", "too many keys", "absurd"]
)
def test_lies_cost_no_memory(tmp_path: Path, case: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(CORRUPT[case][0].build())
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFile):
            GgufFile(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_views_outlive_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(GgufBytes(tensors=ONE, data=bytes(range(128))).build())
    tensor = GgufFile(path).tensors()["t"]
    path.unlink()
    assert tensor.data.tolist() == list(range(128))
