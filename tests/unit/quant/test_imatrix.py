from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostro.errors import (
    BadTensor,
    CorruptFile,
    InvalidParameter,
    ModelError,
    ModelNotFound,
    UnknownTensor,
    UnsupportedModel,
)
from ostro.quant.imatrix import read_imatrix, write_imatrix
from ostro.quant.importance import Importance

if TYPE_CHECKING:
    from pathlib import Path

Q = "layers.0.self_attn.q_proj.weight"
DOWN = "layers.11.mlp.down_proj.weight"
FC1 = "vision.encoder.layers.2.mlp.fc1.weight"


def example() -> Importance:
    rng = np.random.default_rng(1)
    values = {
        Q: rng.random(64, np.float32),
        DOWN: 1e3 * rng.random(96, np.float32),
        FC1: rng.random(32, np.float32),
        "embed_tokens.weight": rng.random(64, np.float32),
        "projector.mm_input_projection_weight": rng.random(32, np.float32),
    }
    return Importance(values, dict.fromkeys(values, 1000), datasets=("a text.txt",), chunk_size=250)


def write_gguf(
    path: Path,
    tensors: dict[str, Any],
    *,
    kind: str | None = "imatrix",
    chunk_size: int = 512,
) -> Path:
    """As llama.cpp's tool writes it, by the gguf package."""

    class Writer(gguf.GGUFWriter):
        def add_architecture(self) -> None:
            pass  # such files have none

    writer = Writer(path, "")
    if kind is not None:
        writer.add_type(kind)
    writer.add_array("imatrix.datasets", ["wiki.txt", "code.txt"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", chunk_size)
    for name, values in tensors.items():
        writer.add_tensor(name, np.asarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def entry(name: str, sums: list[float], count: float) -> dict[str, Any]:
    return {
        f"{name}.in_sum2": np.array([sums], np.float32),
        f"{name}.counts": np.array([[count]], np.float32),
    }


def dat(*entries: tuple[str, int, list[float]], tail: bytes = b"") -> bytes:
    """llama.cpp's older layout, byte by byte."""
    out = struct.pack("<i", len(entries))
    for name, chunks, values in entries:
        raw = name.encode()
        out += struct.pack("<i", len(raw)) + raw + struct.pack("<ii", chunks, len(values))
        out += np.array(values, "<f4").tobytes()
    return out + tail


def test_llama_cpps_gguf_files_are_read(tmp_path: Path) -> None:
    tensors = entry("blk.0.attn_q.weight", [2.0, 4.0, 0.0], 2) | entry("token_embd.weight", [3.0], 6)
    tensors |= entry("v.blk.2.ffn_up.weight", [5.0, 5.0], 5)
    tensors["blk.0.attn_q.weight.in_sum"] = np.array([[1.0, 1.0, 1.0]], np.float32)  # of newer versions
    importance = read_imatrix(write_gguf(tmp_path / "i.gguf", tensors, chunk_size=128))
    assert {name: values.tolist() for name, values in importance.items()} == {
        Q: [1.0, 2.0, 0.0],
        "embed_tokens.weight": [0.5],
        FC1: [1.0, 1.0],
    }
    assert importance.rows[Q] == 2
    assert importance.chunk_size == 128
    assert importance.datasets == ("wiki.txt", "code.txt")
    assert importance[Q].dtype == np.float32
    assert not importance[Q].flags.writeable


def test_a_matrix_that_was_never_used_has_no_importance(tmp_path: Path) -> None:
    tensors = entry("blk.0.attn_q.weight", [2.0], 2) | entry("blk.0.attn_k.weight", [0.0], 0)
    assert list(read_imatrix(write_gguf(tmp_path / "i.gguf", tensors))) == [Q]


def test_older_files_are_read_with_and_without_their_end(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    entries = [("blk.0.attn_q.weight", 4, [8.0, 2.0]), ("blk.11.ffn_down.weight", 0, [3.0])]
    path.write_bytes(dat(*entries))
    importance = read_imatrix(path)
    assert {name: values.tolist() for name, values in importance.items()} == {Q: [2.0, 0.5], DOWN: [3.0]}
    assert importance.datasets == ()
    path.write_bytes(dat(*entries, tail=struct.pack("<ii", 4, 8) + b"wiki.txt"))
    assert read_imatrix(path).datasets == ("wiki.txt",)


def test_the_gguf_package_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "written.gguf"
    write_imatrix(example(), path)
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if "." in name}
    assert fields["general.type"] == "imatrix"
    assert fields["imatrix.datasets"] == ["a text.txt"]
    assert (fields["imatrix.chunk_count"], fields["imatrix.chunk_size"]) == (4, 250)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    sums = tensors["blk.0.attn_q.weight.in_sum2"]
    assert sums.shape.tolist() == [64, 1]
    np.testing.assert_allclose(sums.data.reshape(-1) / 1000, example()[Q], rtol=1e-6)
    assert tensors["blk.0.attn_q.weight.counts"].data.reshape(-1).tolist() == [1000.0]
    assert {"token_embd.weight.in_sum2", "v.blk.2.ffn_up.weight.counts"} <= tensors.keys()


@pytest.mark.parametrize("suffix", [".gguf", ".dat", ".imatrix"])
def test_llama_cpps_layouts_return_what_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"imatrix{suffix}"
    write_imatrix(example(), path)
    importance = read_imatrix(path)
    assert list(importance) == list(example())
    assert importance.datasets == ("a text.txt",)
    for name, values in example().items():
        np.testing.assert_allclose(importance[name], values, rtol=1e-6)


@pytest.mark.parametrize("vision", [False, True])
def test_mistral_rss_layout_returns_the_text_half(tmp_path: Path, vision: bool) -> None:
    path = tmp_path / "traffic.cimatrix"
    write_imatrix(example(), path, vision=vision)
    key = b"language_model.model.layers.0.self_attn.q_proj" if vision else b"model.layers.0.self_attn.q_proj"
    raw = path.read_bytes()
    assert struct.pack("<Q", len(key)) + key + struct.pack("<Q", 64) + example()[Q].tobytes() in raw
    importance = read_imatrix(path)
    assert list(importance) == [name for name in example() if not name.startswith(("vision", "projector"))]
    assert all(np.array_equal(importance[name], example()[name]) for name in importance)


def test_rows_that_nobody_counted_survive_a_gguf_file(tmp_path: Path) -> None:
    unknown = Importance({Q: np.array([0.25, 3.0], np.float32)})
    write_imatrix(unknown, tmp_path / "i.gguf")
    assert read_imatrix(tmp_path / "i.gguf")[Q].tolist() == [0.25, 3.0]


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        (entry("blk.0.ffn_gate_exps.weight", [1.0], 1), UnknownTensor, "that of another model"),
        (entry("blk.0.attn_q.weight", [float("nan")], 1), CorruptFile, "finite and not negative"),
        (entry("blk.0.attn_q.weight", [-1.0], 1), CorruptFile, "finite and not negative"),
        (entry("blk.0.attn_q.weight", [1.0], -1), CorruptFile, "not one number"),
        (entry("blk.0.attn_q.weight", [1.0], float("nan")), CorruptFile, "not one number"),
        (entry("blk.0.attn_q.weight", [1.0], 0), CorruptFile, "empty"),
        ({"blk.0.attn_q.weight.in_sum2": np.ones((1, 4), np.float32)}, CorruptFile, "no .counts"),
        (
            {
                "blk.0.attn_q.weight.in_sum2": np.ones((2, 4), np.float32),
                "blk.0.attn_q.weight.counts": np.ones((2, 1), np.float32),
            },
            CorruptFile,
            "not one number",
        ),
        (
            {
                "blk.0.attn_q.weight.in_sum2": np.ones((1, 4), np.float16),
                "blk.0.attn_q.weight.counts": np.ones((1, 1), np.float32),
            },
            CorruptFile,
            "stored as F16",
        ),
        ({"blk.0.attn_q.weight": np.ones((4, 4), np.float32)}, UnsupportedModel, "not an importance"),
    ],
)
def test_wrong_gguf_files(
    tmp_path: Path, tensors: dict[str, Any], error: type[ModelError], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_imatrix(write_gguf(tmp_path / "i.gguf", tensors))


def test_wrong_metadata(tmp_path: Path) -> None:
    tensors = entry("blk.0.attn_q.weight", [1.0], 1)
    with pytest.raises(CorruptFile, match="chunk_size is 0"):
        read_imatrix(write_gguf(tmp_path / "a.gguf", tensors, chunk_size=0))
    with pytest.raises(UnsupportedModel, match=r"general\.type is 'model'"):
        read_imatrix(write_gguf(tmp_path / "b.gguf", tensors, kind="model"))
    assert read_imatrix(write_gguf(tmp_path / "c.gguf", tensors, kind=None))[Q].tolist() == [1.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x01", "are claimed at 0"),
        (b"This is a text, not a matrix", "tensors are claimed"),
        (struct.pack("<i", 0) + bytes(40), "0 tensors"),
        (struct.pack("<i", -5) + bytes(40), "-5 tensors"),
        (struct.pack("<ii", 1, 2**30) + bytes(40), "a text of 1,073,741,824 bytes"),
        (struct.pack("<ii", 1, -2) + bytes(40), "-2 bytes"),
        (struct.pack("<ii", 1, 4) + b"\xff\xfe\xfd\xfc" + bytes(40), "not UTF-8"),
        (dat(("blk.0.attn_q.weight", 1, [])) + bytes(8), "0 values"),
        (dat(("blk.0.attn_q.weight", 1, [1.0, 2.0]))[:-1], "bytes are claimed"),
        (dat(("blk.0.attn_q.weight", -1, [1.0])), "-1 chunks"),
        (dat(("blk.0.attn_q.weight", 1, [float("inf")])), "finite"),
        (dat(("blk.0.attn_q.weight", 1, [1.0]), ("blk.0.attn_q.weight", 1, [1.0])), "twice"),
        (dat(("blk.0.attn_q.weight", 1, [1.0]), tail=struct.pack("<ii", 1, 99) + b"short"), "99 bytes"),
    ],
)
def test_wrong_older_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=message):
        read_imatrix(path)


def test_wrong_collected_files(tmp_path: Path) -> None:
    path = tmp_path / "i.cimatrix"
    path.write_bytes(struct.pack("<QQ", 1, 2**63) + bytes(40))
    with pytest.raises(CorruptFile, match="is claimed, the limit"):
        read_imatrix(path)
    write_imatrix(example(), path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CorruptFile, match="1 bytes follow"):
        read_imatrix(path)
    name = b"model.layers.0.experts.q"
    path.write_bytes(struct.pack("<QQ", 1, len(name)) + name + struct.pack("<Qf", 1, 1.0))
    with pytest.raises(UnknownTensor, match=r"experts\.q"):
        read_imatrix(path)


def test_missing_and_unwritable_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        read_imatrix(tmp_path / "absent.dat")
    with pytest.raises(InvalidParameter, match=r"ends in \.gguf"):
        write_imatrix(example(), tmp_path / "matrix.txt")
    with pytest.raises(InvalidParameter, match="no such folder"):
        write_imatrix(example(), tmp_path / "absent" / "matrix.gguf")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_files_give_typed_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / f"i{data.draw(st.sampled_from(['.gguf', '.dat', '.cimatrix']))}"
    write_imatrix(example(), path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, min(len(raw) - 1, 700)))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(1, len(raw)))])
    try:
        importance = read_imatrix(path)
    except ModelError as error:
        if str(path) not in error.message:
            raise
    else:
        assert all(np.isfinite(values).all() and (values >= 0).all() for values in importance.values())


@pytest.mark.parametrize("ending", [".gguf", ".dat", ".cimatrix"])
def test_values_that_are_signalling_nan_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"i{ending}"
    write_imatrix(Importance({Q: np.full(64, 3, np.float32)}), path)
    raw, written = path.read_bytes(), np.full(64, 3, "<f4").tobytes()
    assert raw.count(written) == 1
    path.write_bytes(raw.replace(written, struct.pack("<I", 0x7F800001) * 64))
    with pytest.raises(CorruptFile, match="finite"):
        read_imatrix(path)


def test_widths_are_checked() -> None:
    importance = Importance({Q: np.ones(64, np.float32)})
    importance.check_widths({Q: 64, DOWN: 96}, "i.gguf")
    with pytest.raises(BadTensor, match=r"i.gguf: .*q_proj.* has 64 columns, the model has 128"):
        importance.check_widths({Q: 128}, "i.gguf")
    with pytest.raises(BadTensor, match="does not have it"):
        importance.check_widths({}, "i.gguf")


def test_a_text_model_takes_the_importance_of_one_that_sees() -> None:
    importance = Importance({Q: np.ones(64, np.float32), FC1: np.ones(32, np.float32)})
    importance.check_widths({Q: 64}, "i.gguf")
    with pytest.raises(BadTensor, match=r"fc1.* has 32 columns, the model has 48"):
        importance.check_widths({Q: 64, FC1: 48}, "i.gguf")
    filled = Importance({FC1.replace("fc1", "fc2"): np.ones(128, np.float32)})
    filled.check_widths({FC1.replace("fc1", "fc2"): 100}, "i.gguf")


def test_the_digest_tells_contents_apart() -> None:
    one = Importance({Q: np.ones(64, np.float32)})
    assert one.digest() == Importance({Q: np.ones(64, np.float32)}, {Q: 7}).digest()
    assert one.digest() != Importance({Q: np.full(64, 2, np.float32)}).digest()
    assert one.digest() != Importance({DOWN: np.ones(64, np.float32)}).digest()
