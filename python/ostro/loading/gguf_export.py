"""The text model of a checkpoint as a GGUF file that llama.cpp loads.

Source: llama.cpp's converter of Hugging Face checkpoints (Gemma3Model) and the keys that its loader reads.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ostro.errors import UnsupportedExport
from ostro.loading.floats import float32, from_float32
from ostro.loading.gguf_file_type import file_type
from ostro.loading.gguf_writer import Part, write_gguf
from ostro.loading.json_vocabulary import json_vocabulary
from ostro.loading.layer_kinds import DEFAULT_PERIOD, periodic
from ostro.loading.names import canonical_to_gguf
from ostro.loading.shapes import expected_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ostro.loading.checkpoint import Checkpoint, GgufVocabulary, Progress
    from ostro.loading.config import Gemma3Config
    from ostro.loading.gguf_values import Value
    from ostro.ops.tensor import Tensor

logger = logging.getLogger(__name__)

QUANTIZATION_VERSION = 2
"""Of ggml's block layouts."""
_LAYERS_27B = 62
_UNSCALED = 32768
"""Readers take longer contexts of the sizes from 4b on to be scaled, unless the file says otherwise."""
_DEFAULT_LOCAL_THETA = 1e4


def export_text(
    checkpoint: Checkpoint,
    path: Path,
    *,
    quantized: Mapping[str, Part] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the text half of `checkpoint` to `path`, its tensors in the formats that they have.

    quantized: what takes the place of tensors, by canonical name; made one at a time as the file grows.
    Norm weights become float32 with Hugging Face's 1 + added. Rows of the embedding table without a piece of
    the tokenizer are left out, as llama.cpp wants it.
    Errors: UnsupportedExport for a checkpoint without tokenizer, and those of `write_gguf`.
    """
    vocabulary = _vocabulary(checkpoint, path)
    parts = text_parts(checkpoint, quantized or {}, rows=len(vocabulary.pieces))
    metadata = {
        **general(checkpoint, "gemma3", "model", parts),
        **_hyperparameters(checkpoint.config),
        **_sampling(checkpoint),
        **_tokenizer(checkpoint, vocabulary),
    }
    write_gguf(path, metadata, parts, progress)


def _vocabulary(checkpoint: Checkpoint, path: Path) -> GgufVocabulary:
    rows = checkpoint.config.vocab_size
    if checkpoint.tokenizer is None:
        raise UnsupportedExport(
            f"{path}: {checkpoint.name} has no tokenizer, which a GGUF file needs; put tokenizer.json beside"
            " it, or name one"
        )
    if isinstance(checkpoint.tokenizer, Path):
        return json_vocabulary(checkpoint.tokenizer, rows)
    return checkpoint.tokenizer


def text_parts(checkpoint: Checkpoint, quantized: Mapping[str, Part], *, rows: int) -> list[Part]:
    """What is written of the text half, in the order of the model; rows: of the embedding table."""
    scale = _query_scale(checkpoint.config)
    parts: list[Part] = []
    for name in expected_shapes(checkpoint.config):
        part = quantized.get(name) or Part.of(name, checkpoint.tensors[name])
        if name.endswith("norm.weight"):
            factor = scale if name.endswith("q_norm.weight") else 1.0
            part = _norm(checkpoint.tensors[name], checkpoint.norm_offset, factor)
        elif name in ("embed_tokens.weight", "lm_head.weight"):
            part = part.first_rows(rows)
        parts.append(replace(part, name=canonical_to_gguf(name)))
    return parts


def _norm(tensor: Tensor, offset: float, factor: float) -> Part:
    values = (float32(tensor) + np.float32(offset)) * np.float32(factor)
    return Part.of(tensor.name, from_float32(tensor, values))


def _query_scale(config: Gemma3Config) -> float:
    """What the queries' norm takes over of the score scale, which GGUF files do not state.

    Readers derive it from the head dimension, or from the width in the model of 62 layers (27b).
    """
    derived = config.head_dim
    if len(config.layer_kinds) == _LAYERS_27B:
        derived = config.hidden_size // config.num_attention_heads
    scale = config.attention_scale * math.sqrt(derived)
    return 1.0 if math.isclose(scale, 1.0, rel_tol=1e-6) else scale


def general(checkpoint: Checkpoint, architecture: str, kind: str, parts: list[Part]) -> dict[str, Value]:
    """The keys that every file has; kind: "model" or "mmproj"."""
    weights = sum(math.prod(part.shape) for part in parts)
    return {
        "general.architecture": architecture,
        "general.type": kind,
        "general.name": checkpoint.name,
        "general.size_label": _size_label(weights),
        "general.quantization_version": QUANTIZATION_VERSION,
        "general.file_type": file_type(parts),
    }


def _size_label(weights: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if weights >= size:
            count = weights / size
            return f"{count:.1f}{unit}" if count < 10 else f"{count:.0f}{unit}"
    return str(weights)


def _hyperparameters(config: Gemma3Config) -> dict[str, Value]:
    layers = len(config.layer_kinds)
    keys: dict[str, Value] = {
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "block_count": layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_theta,
    }
    if config.sliding_window is not None:
        keys["attention.sliding_window"] = config.sliding_window
        if config.layer_kinds != periodic(layers, DEFAULT_PERIOD):
            keys["attention.sliding_window_pattern"] = _pattern(config)
        if config.rope_local_theta != _DEFAULT_LOCAL_THETA:
            keys["rope.freq_base_swa"] = config.rope_local_theta
    if config.rope_factor != 1.0:
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": config.rope_factor}
    elif config.context_length > _UNSCALED:
        keys["rope.scaling.type"] = "none"
    if config.final_logit_softcap is not None:
        keys["final_logit_softcapping"] = config.final_logit_softcap
    return {f"gemma3.{key}": value for key, value in keys.items()}


def _pattern(config: Gemma3Config) -> Value:
    """The period of global layers; where there is none, whether each layer is local."""
    layers = len(config.layer_kinds)
    for period in range(2, layers + 2):
        if config.layer_kinds == periodic(layers, period):
            return period
    return np.array([kind == "local" for kind in config.layer_kinds])


def _sampling(checkpoint: Checkpoint) -> dict[str, Value]:
    defaults = checkpoint.generation
    keys: dict[str, Value] = {}
    if defaults.do_sample is False:
        keys["general.sampling.temp"] = 0.0
    elif defaults.temperature is not None:
        keys["general.sampling.temp"] = float(defaults.temperature)
    if defaults.top_k is not None:
        keys["general.sampling.top_k"] = np.int32(defaults.top_k)
    if defaults.top_p is not None:
        keys["general.sampling.top_p"] = float(defaults.top_p)
    return keys


def _tokenizer(checkpoint: Checkpoint, vocabulary: GgufVocabulary) -> dict[str, Value]:
    keys: dict[str, Value] = {
        "model": "llama",
        "pre": "default",
        "tokens": vocabulary.pieces,
        "scores": vocabulary.scores,
        "token_type": vocabulary.token_types,
        "bos_token_id": vocabulary.bos_id,
        "eos_token_id": vocabulary.eos_id,
        "unknown_token_id": vocabulary.unknown_id,
        "padding_token_id": vocabulary.padding_id,
        "add_bos_token": vocabulary.add_bos,
        "add_eos_token": False,
        "add_sep_token": False,
        "add_space_prefix": vocabulary.add_space_prefix,
    }
    ends = [*checkpoint.config.eos_token_ids, *checkpoint.generation.eos_token_ids]
    others = [end for end in dict.fromkeys(ends) if end != vocabulary.eos_id]
    # GGUF has names for two further ids that end an answer: end of turn, and end of message.
    keys |= dict(zip(("eot_token_id", "eom_token_id"), others, strict=False))
    if len(others) > 2:
        logger.warning(
            "%s: a GGUF file has no place for more ids that end an answer: %s", checkpoint.name, ends
        )
    result = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    if checkpoint.chat_template is not None:
        result["tokenizer.chat_template"] = checkpoint.chat_template
    return result
