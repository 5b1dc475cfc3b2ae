"""Small Gemma 3 checkpoints of both kinds, with random weights, written by the formats' own libraries."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Weights = dict[str, NDArray[Any]]

VOCAB, HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, LAYERS = 40, 64, 96, 4, 2, 32, 2
PREFIX = "gemma3."

CONFIG: dict[str, Any] = {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "sliding_window": 16,
}


def weights(*, layers: int = LAYERS, seed: int = 0) -> Weights:
    """Canonical names, float16."""
    rng = np.random.default_rng(seed)
    queries, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (VOCAB, HIDDEN), "norm": (HIDDEN,)}
    for index in range(layers):
        prefix = f"layers.{index}."
        shapes |= {
            prefix + "self_attn.q_proj": (queries, HIDDEN),
            prefix + "self_attn.k_proj": (keys, HIDDEN),
            prefix + "self_attn.v_proj": (keys, HIDDEN),
            prefix + "self_attn.o_proj": (HIDDEN, queries),
            prefix + "self_attn.q_norm": (HEAD_DIM,),
            prefix + "self_attn.k_norm": (HEAD_DIM,),
            prefix + "mlp.gate_proj": (INNER, HIDDEN),
            prefix + "mlp.up_proj": (INNER, HIDDEN),
            prefix + "mlp.down_proj": (HIDDEN, INNER),
            prefix + "input_layernorm": (HIDDEN,),
            prefix + "post_attention_layernorm": (HIDDEN,),
            prefix + "pre_feedforward_layernorm": (HIDDEN,),
            prefix + "post_feedforward_layernorm": (HIDDEN,),
        }
    return {f"{name}.weight": rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "embed_tokens": "token_embd",
    "norm": "output_norm",
}


def gguf_name(canonical: str) -> str:
    stem = canonical.removesuffix(".weight")
    if stem.startswith("layers."):
        _, index, rest = stem.split(".", 2)
        return f"blk.{index}.{GGUF_NAMES[rest]}.weight"
    return f"{GGUF_NAMES[stem]}.weight"


def gguf_metadata() -> dict[str, Any]:
    """Values by key: bool, int (uint32), float (float32), str, or lists of one of these."""
    return {
        PREFIX + "context_length": 2048,
        PREFIX + "embedding_length": HIDDEN,
        PREFIX + "block_count": LAYERS,
        PREFIX + "feed_forward_length": INNER,
        PREFIX + "attention.head_count": HEADS,
        PREFIX + "attention.head_count_kv": KV_HEADS,
        PREFIX + "attention.key_length": HEAD_DIM,
        PREFIX + "attention.value_length": HEAD_DIM,
        PREFIX + "attention.layer_norm_rms_epsilon": 1e-6,
        PREFIX + "attention.sliding_window": 16,
        PREFIX + "rope.freq_base": 1e6,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [f"piece{index}" for index in range(VOCAB)],
        "tokenizer.ggml.scores": [-float(index) for index in range(VOCAB)],
        "tokenizer.ggml.token_type": [1] * VOCAB,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.eot_token_id": 6,
    }


def write_gguf(
    path: Path,
    *,
    metadata: dict[str, Any] | None = None,
    tensors: Weights | None = None,
    architecture: str = "gemma3",
    quantize: Callable[[str], gguf.GGMLQuantizationType | None] = lambda _: None,
) -> Path:
    """tensors: by the file's own names. None in metadata leaves a key out."""
    if tensors is None:
        tensors = {gguf_name(name): weight for name, weight in weights().items()}
    return write_any_gguf(path, architecture, {**gguf_metadata(), **(metadata or {})}, tensors, quantize)


def write_any_gguf(
    path: Path,
    architecture: str,
    metadata: dict[str, Any],
    tensors: Weights,
    quantize: Callable[[str], gguf.GGMLQuantizationType | None] = lambda _: None,
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif value is not None:
            writer.add_array(name, value)
    for name, weight in tensors.items():
        kind = quantize(name)
        if kind is None:
            writer.add_tensor(name, weight)
        else:
            data = gguf.quants.quantize(weight.astype(np.float32), kind)
            writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_hugging_face(
    folder: Path,
    *,
    config: dict[str, Any] | None = None,
    tensors: Weights | None = None,
    prefix: str = "model.",
) -> Path:
    """tensors: by the file's own names, in place of the usual ones under `prefix`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config), "utf-8")
    own = {prefix + name: weight for name, weight in weights().items()} if tensors is None else tensors
    save_file(own, folder / "model.safetensors")
    return folder


def write_sharded(folder: Path, tensors: Weights, shards: int = 2) -> dict[str, str]:
    """Weights in several files and their index; returns the index's weight map."""
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = names[number::shards]
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return weight_map
