"""GGUF files as ostro writes them, read back by ostro and by the format's own package."""

from __future__ import annotations

import errno
import shutil
import weakref
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest

from ostro.errors import BadTensor, CannotWrite, UnsupportedExport
from ostro.loading.gguf import GgufFile
from ostro.loading.gguf_values import encoded_value
from ostro.loading.gguf_writer import Part, write_gguf
from ostro.ops.tensor import BY_GGML_TYPE, FORMATS, Format, Tensor

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ostro.loading.gguf_values import Value

METADATA: dict[str, Value] = {
    "general.architecture": "gemma3",
    "text": "naïve ▁",
    "empty": "",
    "yes": True,
    "no": False,
    "count": 262_144,
    "large": 1 << 40,
    "below": -5,
    "float": 1e-6,
    "i32": np.int32(-64),
    "f64": np.float64(0.1),
    "scores": np.array([0, -1.5, -1000], np.float32),
    "types": np.array([3, 1, 6], np.int32),
    "flags": np.array([True, False, True]),
    "pieces": ["<pad>", "▁the", "", "日本"],
}
WRITABLE = [fmt for fmt in BY_GGML_TYPE.values() if fmt.name not in ("Q8_1", "Q8_K")]


def part(name: str, fmt: Format, shape: tuple[int, ...], seed: int = 0) -> Part:
    size = fmt.row_bytes(shape[-1]) * int(np.prod(shape[:-1]))
    data = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return Part.of(name, Tensor(name, fmt, shape, data))


def test_metadata_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, METADATA, [])
    ours = GgufFile(path).metadata
    theirs = {name: entry.contents() for name, entry in gguf.GGUFReader(path).fields.items()}
    assert list(ours) == list(METADATA)
    for name, value in METADATA.items():
        expected: Any = np.float32(value) if isinstance(value, float) and name != "f64" else value
        for found in (ours[name], theirs[name]):
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(found, value)
            else:
                assert found == expected
    assert ours["scores"].dtype == np.float32
    assert ours["types"].dtype == np.int32


@pytest.mark.parametrize(
    "value",
    [np.zeros((2, 2), np.float32), np.array([1j]), np.zeros(2, np.float16)],
    ids=lambda v: str(v.dtype),
)
def test_values_without_a_type(value: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"metadata has lists|no type for"):
        encoded_value(value)


@pytest.mark.parametrize("fmt", WRITABLE, ids=lambda fmt: fmt.name)
def test_tensors_come_back_bit_for_bit(tmp_path: Path, fmt: Format) -> None:
    path = tmp_path / "m.gguf"
    shapes = [(3, 2 * fmt.block), (fmt.block,), (2, 3, fmt.block), (5, fmt.block)]
    parts = [part(f"t{number}", fmt, shape, number) for number, shape in enumerate(shapes)]
    write_gguf(path, METADATA, parts)
    ours = GgufFile(path).tensors()
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert list(ours) == [written.name for written in parts]
    for written in parts:
        mine, other = ours[written.name], theirs[written.name]
        assert (mine.format, mine.shape) == (fmt, written.shape)
        np.testing.assert_array_equal(mine.data, written.read())
        assert other.tensor_type.name == fmt.name
        assert tuple(other.shape) == written.shape[::-1]
        np.testing.assert_array_equal(other.data.reshape(-1).view(np.uint8), written.read())


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    made: list[weakref.ref[NDArray[np.uint8]]] = []

    def read() -> NDArray[np.uint8]:
        assert all(earlier() is None for earlier in made)
        data = np.zeros(64, np.uint8)
        made.append(weakref.ref(data))
        return data

    write_gguf(tmp_path / "m.gguf", {}, [Part(f"t{i}", FORMATS["F32"], (16,), read) for i in range(5)])
    assert len(made) == len(GgufFile(tmp_path / "m.gguf").tensors()) == 5


def test_rows_are_cut_off_when_they_are_read(tmp_path: Path) -> None:
    whole = part("table", FORMATS["Q8_0"], (10, 64))
    write_gguf(tmp_path / "m.gguf", {}, [whole.first_rows(7)])
    found = GgufFile(tmp_path / "m.gguf").tensors()["table"]
    assert found.shape == (7, 64)
    np.testing.assert_array_equal(found.data, whole.read()[: 7 * 68])


def test_progress_ends_with_the_size_of_the_file(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    path = tmp_path / "m.gguf"
    parts = [part("a", FORMATS["F32"], (9, 7)), part("b", FORMATS["Q4_K"], (3, 256))]
    write_gguf(path, METADATA, parts, lambda *report: told.append(report))
    size = path.stat().st_size
    done = [report[1] for report in told]
    assert {(what, total) for what, _, total in told} == {("m.gguf", size)}
    assert done == sorted(done)
    assert done[-1] == size


def failing(error: Exception) -> Part:
    def read() -> NDArray[np.uint8]:
        raise error

    return Part("t", FORMATS["F32"], (16,), read)


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            CannotWrite,
            "the disk is full; the file needs 0.0 GB",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            CannotWrite,
            "cannot be written: Permission denied",
        ),
        (BadTensor("a weight is not finite"), BadTensor, "a weight is not finite"),
    ],
)
def test_a_failure_leaves_what_was_there(
    tmp_path: Path, error: Exception, raised: type[Exception], message: str
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"before")
    with pytest.raises(raised, match=message):
        write_gguf(path, METADATA, [part("a", FORMATS["F32"], (1 << 20,)), failing(error)])
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_target_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotWrite, match=r"is a folder; give the name of a file, such as .*model\.gguf"):
        write_gguf(tmp_path, {}, [])
    with pytest.raises(CannotWrite, match=r"there is no folder .*nowhere; make it first"):
        write_gguf(tmp_path / "nowhere" / "m.gguf", {}, [])
    full = shutil.disk_usage(tmp_path)._replace(free=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(CannotWrite, match=r"needs 0\.0 GB, but .* has 0\.0 GB left"):
        write_gguf(tmp_path / "m.gguf", {}, [failing(AssertionError("read before the disk was looked at"))])


@pytest.mark.parametrize("name", ["HQQ4", "Q8_1", "Q8_K"])
def test_formats_that_gguf_files_cannot_have(tmp_path: Path, name: str) -> None:
    fmt = FORMATS.get(name) or Format(name, 9999, 64, 36)
    with pytest.raises(UnsupportedExport, match=rf"blk\.0 is {name}, and GGUF .* write UQFF"):
        write_gguf(tmp_path / "m.gguf", {}, [Part("blk.0", fmt, (4, 256), lambda: np.zeros(1, np.uint8))])
    assert not list(tmp_path.iterdir())


def test_a_tensor_of_many_dimensions(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedExport, match="t has 5 dimensions"):
        write_gguf(tmp_path / "m.gguf", {}, [part("t", FORMATS["F32"], (1, 1, 1, 1, 1))])


def test_weights_that_are_not_as_announced(tmp_path: Path) -> None:
    short = Part("t", FORMATS["F32"], (16,), lambda: np.zeros(60, np.uint8))
    with pytest.raises(ValueError, match="t: 60 bytes instead of 64"):
        write_gguf(tmp_path / "m.gguf", {}, [short])
    assert not list(tmp_path.iterdir())
