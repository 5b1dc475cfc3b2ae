"""A tensor as a layer of a UQFF file: the way back from `uqff_layer`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from ostro.errors import UnsupportedExport
from ostro.loading.safetensors_writer import Entry
from ostro.loading.uqff_codes import afq_codes, fp8_codes, mxfp4_codes
from ostro.loading.uqff_layer import AFQ, DENSE, E4M3, F8Q8, FP8, GGUF, MXFP4

if TYPE_CHECKING:
    from ostro.ops.tensor import Tensor

_LAYERS = re.compile(
    r"(embed_tokens|lm_head|layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    r"|vision\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12]))\.weight"
)
_AFQ = re.compile(r"AFQ([23468])")
_GGUF = re.compile(r"Q\d_[01K]")


def is_layer(canonical: str) -> bool:
    """True for tensors that mistral.rs looks for among the layers; all others it wants dense."""
    return _LAYERS.fullmatch(canonical) is not None


def stored_as(tensor: Tensor) -> str:
    """mistral.rs' name of a tensor's number format: "q4k", "q8_0", "afq4", "fp8"."""
    return re.sub(r"(?<=\d)_K$", "K", tensor.format.name).lower()


def layer_entries(key: str, tensor: Tensor) -> list[Entry]:
    """What stands in the file for a quantized weight [out, in] called "`key`.weight".

    UnsupportedExport for formats that UQFF has no place for.
    """
    name, rows = f"{key}.weight", tensor.shape[0]
    kind = tensor.format.name
    shape = Entry.of(f"{name}.shape", np.array(tensor.shape, "<u4"))
    number = tensor.format.ggml_type
    if _GGUF.fullmatch(kind) and number is not None:
        blocks = Entry(name, "U8", (tensor.data.size,), tensor.data)
        return [_kind(name, GGUF), blocks, _number(f"{name}.dtype", number), shape]
    if kind == "F8Q8":
        blocks = Entry(name, "U8", (tensor.data.size,), tensor.data)
        count = tensor.data.size // tensor.format.bytes
        return [_kind(name, F8Q8), blocks, _number(f"{name}.num_blocks", count), shape]
    if kind == "MXFP4":
        codes, scales = mxfp4_codes(tensor.data, rows)
        return [_kind(name, MXFP4), Entry.of(name, codes), Entry.of(f"{name}.scales", scales)]
    if kind == "FP8":
        return [_kind(name, FP8), *_fp8(name, tensor)]
    if match := _AFQ.fullmatch(kind):
        return [_kind(name, AFQ), *_afq(name, tensor, int(match[1]))]
    if tensor.format.block == 1:
        return [_kind(name, DENSE), Entry.dense(name, tensor)]
    raise UnsupportedExport(
        f"{tensor.name}: UQFF has no place for {kind} as ostro has it; quantize to another type, such as Q4K"
    )


def _fp8(name: str, tensor: Tensor) -> list[Entry]:
    codes, scales = fp8_codes(tensor.data, tensor.shape[0])
    scale = scales.flat[0]
    if (scales != scale).any():
        raise UnsupportedExport(
            f"{tensor.name}: UQFF has one scale for all FP8 weights of a tensor, this one has several; "
            "quantize to another type, such as Q8_0"
        )
    back = np.array(scale, "<f4")
    with np.errstate(divide="ignore"):
        forth = np.array(np.float32(1) / scale, "<f4")
    return [
        Entry(name, "F8_E4M3", tensor.shape, codes.reshape(-1)),
        Entry.of(f"{name}.dequant_w_scale", back),
        Entry.of(f"{name}.dequant_x_scale", back),
        Entry.of(f"{name}.quant_scale", forth),
        _number(f"{name}.dtype", E4M3),
    ]


def _afq(name: str, tensor: Tensor, bits: int) -> list[Entry]:
    stream, scales, biases = afq_codes(tensor.data, tensor.shape[0], bits)
    return [
        _byte(f"{name}.bits", bits),
        _byte(f"{name}.group_size", tensor.format.block),
        Entry.of(name, stream.view("<u4")),
        # As mistral.rs computes on a CPU: it takes no other dtype there.
        Entry.of(f"{name}.scales", scales.astype("<f4")),
        Entry.of(f"{name}.biases", biases.astype("<f4")),
    ]


def _kind(name: str, kind: int) -> Entry:
    return _byte(f"{name}.format", kind)


def _byte(name: str, value: int) -> Entry:
    return Entry.of(name, np.array(value, "u1"))


def _number(name: str, value: int) -> Entry:
    return Entry.of(name, np.array(value, "<u4"))
