"""Files of importance matrices: llama.cpp's, GGUF and older, and mistral.rs's.

Source of the layouts: llama.cpp's tools/imatrix (`<name>.in_sum2` and `<name>.counts` in GGUF files, the
older binary files without a magic number), mistral.rs's `.cimatrix`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from ostro.errors import CorruptFile, InvalidParameter, UnsupportedModel
from ostro.loading.gguf import GgufFile
from ostro.loading.mapped_file import map_file
from ostro.loading.names import canonical_to_gguf, gguf_to_canonical
from ostro.quant.imatrix_binary import (
    Entry,
    pack_collected,
    pack_dat,
    parse_collected,
    parse_dat,
    to_importance,
)
from ostro.quant.importance import CHUNK_SIZE, Importance

if TYPE_CHECKING:
    from pathlib import Path

    from ostro.ops.protocol import Rows
    from ostro.ops.tensor import Tensor

SUFFIXES = (".gguf", ".imatrix", ".dat", ".cimatrix")
"""Of files that `write_imatrix` writes; ".imatrix" and ".dat" are llama.cpp's older layout."""

_SUMS, _COUNTS = ".in_sum2", ".counts"
_UINT32, _STRING, _ARRAY, _F32 = 4, 8, 9, 0
_ALIGNMENT = 32


def read_imatrix(path: Path) -> Importance:
    """Read a file of any of the three layouts; `.cimatrix` is told by its suffix, GGUF by its content.

    ModelNotFound without such a file; CorruptFile for what is malformed or not finite; UnsupportedModel for a
    GGUF file of something else; UnknownTensor for names that Gemma 3 has no place for.
    """
    if path.suffix == ".cimatrix":
        return parse_collected(path)
    return _read_gguf(path) if map_file(path)[:4] == b"GGUF" else parse_dat(path)


def write_imatrix(importance: Importance, path: Path, *, vision: bool = False) -> None:
    """Write the layout that the suffix stands for, see `SUFFIXES`; InvalidParameter for another one.

    vision: the model has an image half, which mistral.rs puts into a `.cimatrix` file's names. llama.cpp
    weighs the tied embedding of Gemma 3 by what is written for "token_embd.weight", the head's input.
    """
    check_suffix(path)
    if path.suffix == ".cimatrix":
        path.write_bytes(pack_collected(importance, vision=vision))
    elif path.suffix == ".gguf":
        path.write_bytes(pack_gguf(importance))
    else:
        path.write_bytes(pack_dat(importance))


def check_suffix(path: Path) -> None:
    """InvalidParameter unless `write_imatrix` would write such a file into this folder."""
    if path.suffix not in SUFFIXES:
        raise InvalidParameter(
            f"{path}: an importance matrix is written to a file that ends in {', '.join(SUFFIXES)}",
            param="path",
        )
    if not path.absolute().parent.is_dir():
        raise InvalidParameter(f"{path}: there is no such folder", param="path")


def _read_gguf(path: Path) -> Importance:
    file = GgufFile(path)
    kind = file.metadata.get("general.type")
    tensors = file.tensors()
    sums = {name.removesuffix(_SUMS): tensor for name, tensor in tensors.items() if name.endswith(_SUMS)}
    if not sums or kind not in (None, "imatrix"):
        raise UnsupportedModel(
            f"{path}: not an importance matrix (general.type is {str(kind)[:40]!r}, "
            f"{len(sums)} tensors end in {_SUMS})"
        )
    chunk_size = file.metadata.get("imatrix.chunk_size", CHUNK_SIZE)
    if not isinstance(chunk_size, int) or not 0 < chunk_size < 1 << 31:
        raise CorruptFile(f"{path}: imatrix.chunk_size is {str(chunk_size)[:40]}, not a number of tokens")
    datasets = file.metadata.get("imatrix.datasets", [])
    if isinstance(datasets, np.ndarray | str | int | float):
        raise CorruptFile(f"{path}: imatrix.datasets is not a list of texts")
    entries = []
    for name, tensor in sums.items():
        count = _count(name, tensors.get(name + _COUNTS), path)
        if count > 0:  # what was never used has no importance
            # What is no number is refused by `to_importance`.
            with np.errstate(invalid="ignore", over="ignore"):
                values = (_floats(tensor, path) / np.float64(count)).astype(np.float32)
            entries.append(Entry(name, values, round(count)))
    return to_importance(
        entries,
        gguf_to_canonical,
        path,
        datasets=tuple(str(text) for text in datasets),
        chunk_size=chunk_size,
    )


def _count(name: str, tensor: Tensor | None, path: Path) -> float:
    """Inputs that were summed up; one number, since Gemma 3 has no experts."""
    if tensor is None:
        raise CorruptFile(f"{path}: {name[:80]!r} has sums and no {_COUNTS}")
    values = _floats(tensor, path)
    if len(values) != 1 or not 0 <= values[0] < 1 << 60:
        raise CorruptFile(f"{path}: {tensor.name[:80]!r} is not one number of inputs")
    return float(values[0])


def _floats(tensor: Tensor, path: Path) -> Rows:
    if tensor.format.name != "F32":
        raise CorruptFile(f"{path}: {tensor.name[:80]!r} is stored as {tensor.format.name}, not F32")
    return np.frombuffer(tensor.data, "<f4").astype(np.float32)


def pack_gguf(importance: Importance) -> bytes:
    """GGUF version 3, keys and names as llama.cpp's tool writes them."""
    texts = b"".join(_text(name) for name in importance.datasets)
    keys = [
        _text("general.type") + struct.pack("<I", _STRING) + _text("imatrix"),
        _text("imatrix.datasets") + struct.pack("<IIQ", _ARRAY, _STRING, len(importance.datasets)) + texts,
        _text("imatrix.chunk_count") + struct.pack("<II", _UINT32, max(1, importance.chunks)),
        _text("imatrix.chunk_size") + struct.pack("<II", _UINT32, importance.chunk_size),
    ]
    infos, data = [], bytearray()
    for name, values in importance.items():
        # A file without a count says nothing; one input stands for an unknown number.
        count = max(1, importance.rows[name])
        own = canonical_to_gguf(name)
        for suffix, content in ((_SUMS, values * np.float64(count)), (_COUNTS, np.array([count]))):
            infos.append(_text(own + suffix) + struct.pack("<IQQIQ", 2, len(content), 1, _F32, len(data)))
            data += content.astype("<f4").tobytes()
            data += bytes(-len(data) % _ALIGNMENT)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(keys)) + b"".join(keys + infos)
    return head + bytes(-len(head) % _ALIGNMENT) + bytes(data)


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw
