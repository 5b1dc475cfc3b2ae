"""The real Gemma 3 270m as a folder of Hugging Face's kind, made from its GGUF file.

Weights are those of the file rounded to bfloat16. tokenizer.json has the file's pieces, and as merges
whatever two pieces are a piece together, the best score first, as Gemma's own tokenizer.json has.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import GGMLQuantizationType, dequantize

from ostro.loading.gguf_checkpoint import open_gguf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ostro.loading.checkpoint import GgufVocabulary
    from ostro.loading.config import Gemma3Config
    from ostro.ops.tensor import Tensor

SPACE = "\u2581"
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4


def write_folder(folder: Path, source: Path) -> None:
    """Write config.json, model.safetensors and tokenizer.json of the GGUF file `source`."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = open_gguf(source, name="270m")
    (folder / "config.json").write_text(json.dumps(_config(checkpoint.config), indent=1))
    assert checkpoint.tokenizer is not None
    assert not isinstance(checkpoint.tokenizer, Path)
    (folder / "tokenizer.json").write_text(
        json.dumps(tokenizer_json(checkpoint.tokenizer), ensure_ascii=False)
    )
    header: dict[str, Any] = {}
    position = 0
    for name, tensor in checkpoint.tensors.items():
        size = 2 * int(np.prod(tensor.shape))
        offsets = [position, position + size]
        header["model." + name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": offsets}
        position += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name, tensor in checkpoint.tensors.items():
            file.write(_bfloat16(_weights(tensor) - np.float32(name.endswith("norm.weight"))).data)


def _config(config: Gemma3Config) -> dict[str, Any]:
    kinds = {"local": "sliding_attention", "global": "full_attention"}
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": len(config.layer_kinds),
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "query_pre_attn_scalar": config.head_dim,
        "sliding_window": config.sliding_window,
        "layer_types": [kinds[kind] for kind in config.layer_kinds],
        "max_position_embeddings": config.context_length,
        "eos_token_id": [1, 106],
    }


def tokenizer_json(vocabulary: GgufVocabulary) -> dict[str, Any]:
    """A tokenizer.json of the file's pieces."""
    kinds = vocabulary.token_types.tolist()
    pieces = [piece.replace(" ", SPACE) for piece in vocabulary.pieces]
    ids = {piece: i for i, piece in enumerate(pieces)}
    normal = {i for i, kind in enumerate(kinds) if kind == NORMAL}
    merges = [
        [pieces[i][:cut], pieces[i][cut:]]
        for i in sorted(normal, key=lambda i: -float(vocabulary.scores[i]))
        for cut in range(1, len(pieces[i]))
        if ids.get(pieces[i][:cut]) in normal and ids.get(pieces[i][cut:]) in normal
    ]
    added = [
        {"id": i, "content": piece, "special": kinds[i] == CONTROL, "normalized": False, "single_word": False,
         "lstrip": False, "rstrip": False}
        for i, piece in enumerate(vocabulary.pieces) if kinds[i] in (CONTROL, USER_DEFINED)
    ]  # fmt: skip
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": ids,
            "merges": merges,
        },
    }  # fmt: skip


def _weights(tensor: Tensor) -> NDArray[np.float32]:
    rows = tensor.data.reshape(int(np.prod(tensor.shape[:-1])), -1)
    weights: NDArray[np.float32] = dequantize(rows, GGMLQuantizationType(tensor.format.ggml_type))
    return weights.reshape(tensor.shape)


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
