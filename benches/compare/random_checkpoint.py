"""A Hugging Face folder in the shape of Gemma 3 4b, image half included, with random bfloat16 weights.

Names and files are those of Google's repository; the tokenizer is the small one of the model inside the
package, so that the folder needs nothing from a hub. Weights are normal with a few large ones, every tensor
another.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np

from ostro.loading.demo import demo_folder
from ostro.loading.hf_config import parse_config
from ostro.loading.shapes import expected_shapes, expected_vision_shapes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ostro.loading.config import Gemma3Config

STD = 0.02
CHUNK = 1 << 22
SIDE_FILES = (
    "chat_template.jinja", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip
TEXT = {
    "vocab_size": 262_208,
    "hidden_size": 2560,
    "intermediate_size": 10_240,
    "num_hidden_layers": 34,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "max_position_embeddings": 131_072,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
}
VISION = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 896,
    "patch_size": 14,
}


def write(folder: Path, *, seed: int = 0) -> None:
    """Make the folder; it appears under its name when it is complete. 8.6 GB."""
    source = demo_folder()
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in SIDE_FILES:
        shutil.copy(source / name, part / name)
    for name in ("preprocessor_config.json", "processor_config.json"):
        settings = json.loads((part / name).read_text())
        settings["image_seq_length"] = 256
        if "size" in settings:
            settings["size"] = {"height": VISION["image_size"], "width": VISION["image_size"]}
        (part / name).write_text(json.dumps(settings, indent=1))
    settings = json.loads((source / "config.json").read_text())
    settings["mm_tokens_per_image"] = 256
    settings["text_config"].pop("layer_types", None)
    settings["text_config"] |= TEXT
    settings["vision_config"] |= VISION
    (part / "config.json").write_text(json.dumps(settings, indent=1))
    config = parse_config(settings, "config.json")
    random = np.random.Generator(np.random.SFC64(seed))
    shards = {"model-00001-of-00002.safetensors": _names(config, vision=True)}
    shards["model-00002-of-00002.safetensors"] = _names(config, vision=False)
    weight_map: dict[str, str] = {}
    for shard, names in shards.items():
        _write_shard(part / shard, names, random)
        weight_map |= dict.fromkeys(names, shard)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (part / "model.safetensors.index.json").write_text(json.dumps(index))
    part.replace(folder)


def _names(config: Gemma3Config, *, vision: bool) -> dict[str, tuple[int, ...]]:
    """Google's names and the shapes, of one half."""
    assert config.vision is not None
    if not vision:
        prefix = "language_model.model."
        return {prefix + name: shape for name, shape in expected_shapes(config).items()}
    prefixes = {"vision": "vision_tower.vision_model", "projector": "multi_modal_projector"}
    result = {}
    for name, shape in expected_vision_shapes(config.vision, config.hidden_size).items():
        half, _, rest = name.partition(".")
        result[f"{prefixes[half]}.{rest}"] = shape
    return result


def _write_shard(path: Path, names: dict[str, tuple[int, ...]], random: np.random.Generator) -> None:
    header, position = {}, 0
    for name, shape in names.items():
        end = position + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in names.items():
            left = int(np.prod(shape))
            while left:
                count = min(left, CHUNK)
                file.write(_weights(name, count, random).tobytes())
                left -= count


def _weights(name: str, count: int, random: np.random.Generator) -> NDArray[np.uint16]:
    values = random.standard_normal(count, np.float32) * np.float32(STD)
    if len(values) > 1 << 16:
        values[:: 1 << 12] *= 6.0  # what quantizers find hard
    elif "norm" in name and not name.endswith(".bias"):
        values = np.abs(values)
    bits = values.view(np.uint32)
    halves: NDArray[np.uint16] = ((bits + 0x8000) >> 16).astype(np.uint16)
    return halves
