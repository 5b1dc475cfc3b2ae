"""A reader of UQFF, mistral.rs' format of quantized models, versions 1.0 to 1.2.

Source: mistral.rs 0.9 (docs "UQFF format", mistralrs-quant/src/uqff, mistralrs-core/src/pipeline/isq.rs), and
the files that it writes.

A model is a folder::

    NAME-0.uqff NAME-1.uqff ...   the quantized layers: safetensors files of at most about 10 GiB
    residual.safetensors          everything else: norms, embeddings of the vision tower, its projector
    config.json tokenizer.json .. copies of the source's side files
    uqff_report.json              optional: which files belong together, and what they hold

Beside layers there are three u32 scalars, in the first file or in all: uqff.version.major, .minor and .patch.
Older files, whose tensors are called "0", "1", ..., have none and are refused, as mistral.rs does.

A layer KEY (the weight's name less ".weight") has KEY.weight, the u8 scalar KEY.weight.format, and by that::

    0 GGUF    weight u8 [bytes]: ggml's blocks, row after row; .dtype u32: ggml's type; .shape u32 [rank]
    1 dense   weight f32, f16 or bf16 [out, in]
    2 HQQ     weight u8, .scales, .zeros, .shape, .bits u8, .group_size u32, .axis u8, .round_zeros u8,
              .channel_wise u8, .optimization_steps u32
    3 FP8     weight f8_e4m3 [out, in]; .dequant_w_scale, .dequant_x_scale, .quant_scale f32; .dtype u32: 9
    4 AFQ     weight u32 [out, in * bits / 32]; .scales, .biases [out, in / group]; .bits, .group_size u8
    5 F8Q8    weight u8 [bytes]: blocks of an E4M3 scale and 32 int8; .num_blocks u32; .shape u32 [rank]
    6 MXFP4   weight u8 [out, in / 2]: pairs of E2M1, the first in the low half; .scales u8 [out, in / 32]

and KEY.bias [out] if it has a bias. Keys are Hugging Face's names: "model.layers.0.mlp.up_proj", after
"language_model." in models that see; "vision_tower.vision_model.encoder.layers.0.mlp.fc1". Layers are the
projections of text and tower, the embedding table (a tied head has no tensor of its own) and an untied head.
Norms are as Hugging Face has them, without the 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, Protocol

from ostro.errors import CorruptFile, UnknownTensor, UnsupportedModel
from ostro.loading.safetensors import Stored, read_safetensors
from ostro.loading.uqff_layer import Layer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ostro.ops.tensor import Tensor

RESIDUAL = "residual.safetensors"
VERSION = (1, 2, 0)
VERSION_KEYS = ("uqff.version.major", "uqff.version.minor", "uqff.version.patch")

_FORMAT = ".weight.format"


class Weight(Protocol):
    """Something stored that becomes a tensor when it is needed."""

    @property
    def path(self) -> Path:
        """The file that it is in."""

    def tensor(self) -> Tensor:
        """As a weight, under its name in the file."""


def read_uqff(paths: Sequence[Path]) -> dict[str, Weight]:
    """All layers of a model's files, as "KEY.weight" and "KEY.bias"; weights stay mapped.

    CorruptFile for what is malformed, incomplete or there twice; UnsupportedModel for other versions;
    UnknownTensor for what belongs to no layer. How a layer is stored is looked at when it becomes a tensor.
    """
    stored = _merged(paths)
    _check_version(stored, paths[0])
    for key in VERSION_KEYS:
        stored.pop(key, None)
    keys = [name.removesuffix(_FORMAT) for name in stored if name.endswith(_FORMAT)]
    parts: dict[str, dict[str, Stored]] = {key: {} for key in keys}
    result: dict[str, Weight] = {}
    for name, tensor in stored.items():
        key, found, suffix = name.rpartition(".weight")
        if found and key in parts and suffix[:1] in ("", "."):
            parts[key][suffix.removeprefix(".")] = tensor
        elif name.removesuffix(".bias") in parts:
            result[name] = tensor
        else:
            raise UnknownTensor(f"{tensor.path}: tensor {name[:80]!r} belongs to no layer of a UQFF model")
    return result | {f"{key}.weight": Layer(f"{key}.weight", found) for key, found in parts.items()}


def _merged(paths: Sequence[Path]) -> dict[str, Stored]:
    result: dict[str, Stored] = {}
    for path in paths:
        for name, tensor in read_safetensors(path).items():
            other = result.setdefault(name, tensor)
            if other is not tensor and (
                name not in VERSION_KEYS or other.data.tobytes() != tensor.data.tobytes()
            ):
                raise CorruptFile(f"{path}: tensor {name[:80]!r} is already in {other.path.name}")
    return result


def _check_version(stored: dict[str, Stored], path: Path) -> None:
    def refuse(problem: str) -> NoReturn:
        known = ".".join(map(str, VERSION))
        raise UnsupportedModel(
            f"{path}: {problem}; ostro reads UQFF 1.0 to {known}: write the file again with a current "
            "`mistralrs quantize`, or quantize the original model with ostro"
        )

    if all(name.isdecimal() for name in stored):
        refuse("a UQFF file from before version 1.0")
    if VERSION_KEYS[0] not in stored:
        refuse("no UQFF version in it")
    numbers = []
    for key in VERSION_KEYS:
        tensor = stored.get(key)
        if tensor is None or tensor.dtype != "U32" or tensor.shape != ():
            raise CorruptFile(f"{path}: {key} is not a u32 scalar")
        numbers.append(int.from_bytes(tensor.data.tobytes(), "little"))
    if numbers[0] != VERSION[0] or numbers[1] > VERSION[1]:
        refuse(f"UQFF version {'.'.join(map(str, numbers))}")
