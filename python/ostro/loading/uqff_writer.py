"""Writes a model as UQFF, so that mistral.rs and ostro load it. The format: `uqff`.

Quantized projections and tables become layers, with their numbers as they are; mistral.rs reads those of the
vision tower, too. All else is written to residual.safetensors, without quantization.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ostro.errors import CannotWrite, UnsupportedExport
from ostro.loading.fields import read_json
from ostro.loading.layout import SIDE_FILES, TOKENIZER
from ostro.loading.names import as_mistral_rs
from ostro.loading.safetensors_writer import Entry, write_safetensors
from ostro.loading.uqff import RESIDUAL, VERSION, VERSION_KEYS
from ostro.loading.uqff_entries import is_layer, layer_entries, stored_as
from ostro.loading.uqff_files import REPORT, SUFFIX
from ostro.loading.uqff_residual import as_float32, residual_entries
from ostro.version import ostro_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ostro.loading.checkpoint import Checkpoint, Progress
    from ostro.ops.tensor import Tensor

SHARD_BYTES = 10 << 30
_VERSION = ".".join(map(str, VERSION))


def write_uqff(
    checkpoint: Checkpoint,
    folder: Path | None,
    target: Path,
    progress: Progress | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """Write a quantized model and all that belongs to it; returns the .uqff files.

    folder: Hugging Face's JSON files of the model, which are copied; None: where the checkpoint came from.
        AFQ, FP8 and MXFP4 layers take memory for a copy while they are written, others do not.
    target: "FOLDER/NAME.uqff" makes FOLDER/NAME-0.uqff and so on; "FOLDER" names them after the format.
        What is there under the same names is replaced when everything is written.
    UnsupportedExport when the format has no place for what the model has, CannotWrite when the disk refuses.
    """
    folder = folder or checkpoint.folder
    if folder is None or not (folder / "config.json").is_file():
        raise UnsupportedExport(
            f"{checkpoint.name}: UQFF needs Hugging Face's config.json and tokenizer.json of the model; "
            "load the model from a folder that has them"
        )
    layers, residual = _split(checkpoint)
    kinds = Counter(stored_as(tensor) for tensor in layers.values())
    if not kinds:
        raise UnsupportedExport(
            f"{checkpoint.name}: nothing of it is quantized, which UQFF is for; quantize it first"
        )
    quant = kinds.most_common(1)[0][0]
    target = target if target.suffix.lower() == SUFFIX else target / f"{quant}{SUFFIX}"
    shards = list(_shards(layers, checkpoint, residual, shard_bytes))
    names = [f"{target.stem}-{number}{SUFFIX}" for number in range(len(shards))]
    files = {**dict(zip(names, shards, strict=True)), RESIDUAL: list(residual_entries(residual, checkpoint))}
    try:
        _write(target.parent, files, progress)
        _side_files(folder, target.parent, checkpoint)
        _write_json(target.parent / REPORT, _report(quant, names, kinds, layers, checkpoint))
        _remove_stale(target, len(shards))
    except OSError as error:
        raise CannotWrite(f"{target.parent}: {error.strerror or error}") from error
    return [target.parent / name for name in names]


def _split(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The quantized tensors that are layers, and all others, by canonical names."""
    every = {**checkpoint.tensors, **checkpoint.vision_tensors}
    layers = {name: every[name] for name in sorted(every) if is_layer(name) and every[name].format.block > 1}
    return layers, {name: tensor for name, tensor in every.items() if name not in layers}


def _own(canonical: str, checkpoint: Checkpoint) -> str:
    return as_mistral_rs(canonical, sees=bool(checkpoint.vision_tensors))


def _shards(
    layers: Mapping[str, Tensor], checkpoint: Checkpoint, residual: dict[str, Tensor], limit: int
) -> Iterator[list[Entry]]:
    """The entries of each file. Biases of layers go with them, out of `residual`."""
    entries = [
        Entry.of(key, np.array(number, "<u4")) for key, number in zip(VERSION_KEYS, VERSION, strict=True)
    ]
    size = 0
    for name, tensor in layers.items():
        layer = layer_entries(_own(name, checkpoint).removesuffix(".weight"), tensor)
        bias = residual.pop(f"{name.removesuffix('.weight')}.bias", None)
        if bias is not None:
            # mistral.rs adds it to sums in the dtype that it computes in, which is float32 on a CPU.
            layer.append(as_float32(_own(name, checkpoint).removesuffix("weight") + "bias", bias))
        added = sum(entry.data.size for entry in layer)
        if size and size + added > limit:
            yield entries
            entries, size = [], 0
        entries.extend(layer)
        size += added
    yield entries


def _write(folder: Path, files: Mapping[str, Sequence[Entry]], progress: Progress | None) -> None:
    """Write all files of weights, and only then give them their names."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: folder / f".{name}.{os.getpid()}.part" for name in files}
    metadata = {"uqff.producer": f"ostro {ostro_version()}", "uqff.version": _VERSION}
    try:
        for name, entries in files.items():
            write_safetensors(parts[name], entries, metadata, _counter(name, entries, progress))
        for name, part in parts.items():
            part.replace(folder / name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _counter(name: str, entries: Sequence[Entry], progress: Progress | None) -> Callable[[int], None]:
    total, done = sum(entry.data.size for entry in entries), 0

    def written(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(name, done, total)

    return written


def _side_files(source: Path, target: Path, checkpoint: Checkpoint) -> None:
    """Copy the JSON files, and the tokenizer that the checkpoint goes with."""
    config = _without_quantization(read_json(source / "config.json"))
    inner = checkpoint.vision_tensors.get("vision.encoder.layers.0.mlp.fc1.weight")
    if inner is not None and isinstance(config.get("vision_config"), dict):
        # Neurons may have been added, which are always zero, to fill up the last block.
        config["vision_config"]["intermediate_size"] = inner.shape[0]
    _write_json(target / "config.json", config)
    own = {name: source / name for name in SIDE_FILES}
    if isinstance(checkpoint.tokenizer, Path):
        own[TOKENIZER] = checkpoint.tokenizer
    for name, path in own.items():
        with suppress(FileNotFoundError, shutil.SameFileError):
            shutil.copyfile(path, target / name)


def _without_quantization(value: Any) -> Any:
    """mistral.rs would take the source's quantization for that of the file."""
    if isinstance(value, dict):
        return {key: _without_quantization(v) for key, v in value.items() if key != "quantization_config"}
    return [_without_quantization(v) for v in value] if isinstance(value, list) else value


def _report(
    quant: str,
    files: list[str],
    kinds: Mapping[str, int],
    layers: Mapping[str, Tensor],
    checkpoint: Checkpoint,
) -> dict[str, Any]:
    details = [
        {
            "module": _own(name, checkpoint).removesuffix(".weight"),
            "stored": stored_as(tensor),
            "shape": list(tensor.shape),
        }
        for name, tensor in layers.items()
    ]
    output = {
        "quant": quant,
        "shards": files,
        "layers": len(layers),
        "actual_counts": dict(sorted(kinds.items())),
        "fallback_count": 0,
        "layer_details": details,
    }
    return {
        "schema": 1,
        "generated_by": {"tool": f"ostro {ostro_version()}"},
        "uqff_version": _VERSION,
        "outputs": [output],
    }


def _write_json(path: Path, value: Any) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
    part.replace(path)


def _remove_stale(target: Path, count: int) -> None:
    """Files of the same model that an earlier, larger one has left."""
    number = count
    while (stale := target.with_name(f"{target.stem}-{number}{SUFFIX}")).exists():
        stale.unlink()
        number += 1
