"""The demo model as a pair of GGUF files, text and mmproj: the same answers as from its own folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from demo_model.questions import held_out_questions

from ostro import ChatCompletionRequest, Runner, Which
from ostro.loading.demo import demo_folder
from ostro.loading.open import open_checkpoint
from tests.unit.loading.tiny import PREFIX, gguf_name, write_any_gguf
from tests.unit.loading.tiny_vision import MMPROJ_NAMES, NORM, PROJECTION

from .numpy_ops import dequantize

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def text_metadata() -> dict[str, Any]:
    config = open_checkpoint(demo_folder()).config
    return {
        PREFIX + "context_length": config.context_length,
        PREFIX + "embedding_length": config.hidden_size,
        PREFIX + "block_count": len(config.layer_kinds),
        PREFIX + "feed_forward_length": config.intermediate_size,
        PREFIX + "attention.head_count": config.num_attention_heads,
        PREFIX + "attention.head_count_kv": config.num_key_value_heads,
        PREFIX + "attention.key_length": config.head_dim,
        PREFIX + "attention.value_length": config.head_dim,
        PREFIX + "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        PREFIX + "attention.sliding_window": config.sliding_window,
        PREFIX + "attention.sliding_window_pattern": [kind == "local" for kind in config.layer_kinds],
        PREFIX + "rope.freq_base": config.rope_theta,
    }


def mmproj_metadata() -> dict[str, Any]:
    config = open_checkpoint(demo_folder()).config
    vision = config.vision
    assert vision is not None
    return {
        "clip.has_vision_encoder": True,
        "clip.projector_type": "gemma3",
        "clip.use_gelu": True,
        "clip.vision.image_size": vision.image_size,
        "clip.vision.patch_size": vision.patch_size,
        "clip.vision.embedding_length": vision.hidden_size,
        "clip.vision.feed_forward_length": vision.intermediate_size,
        "clip.vision.block_count": vision.num_hidden_layers,
        "clip.vision.attention.head_count": vision.num_attention_heads,
        "clip.vision.attention.layer_norm_epsilon": vision.layer_norm_eps,
        "clip.vision.projection_dim": config.hidden_size,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.5, 0.5],
        "clip.vision.projector.scale_factor": vision.grid // round(vision.tokens_per_image**0.5),
    }


def mmproj_name(canonical: str) -> str:
    if canonical in (NORM, PROJECTION):
        return MMPROJ_NAMES[canonical]
    stem, _, kind = canonical.removeprefix("vision.").rpartition(".")
    if stem.startswith("encoder."):
        _, _, index, part = stem.split(".", 3)
        return f"v.blk.{index}.{MMPROJ_NAMES[part]}.{kind}"
    return f"{MMPROJ_NAMES[stem]}.{kind}"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both files; all weights float32, the 1 + of RMSNorm added as converters do."""
    folder = tmp_path_factory.mktemp("pair")
    checkpoint = open_checkpoint(demo_folder())

    def shifted(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.array(values + 1 if name.endswith("norm.weight") else values, np.float32)

    text = {gguf_name(name): shifted(name, dequantize(t)) for name, t in checkpoint.tensors.items()}
    vision = {
        mmproj_name(name): np.array(dequantize(tensor) + (1 if name == NORM else 0), np.float32)
        for name, tensor in checkpoint.vision_tensors.items()
    }
    tokenizer = json.loads((demo_folder() / "tokenizer.json").read_text())
    pieces = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    vocabulary = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [0.0] * len(pieces),
        "tokenizer.ggml.token_type": [1] * len(pieces),
    }
    write_any_gguf(folder / "model.gguf", "gemma3", text_metadata() | vocabulary, text)
    write_any_gguf(folder / "mmproj-model.gguf", "clip", mmproj_metadata(), vision)
    return folder


def answers(runner: Runner) -> list[str]:
    said = []
    for images, question, _, _ in held_out_questions(30, seed=5):
        parts: list[Any] = [{"type": "image", "image": image} for image in images]
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
        request = ChatCompletionRequest(messages=messages, temperature=0, max_tokens=120)
        response: Any = runner.send_chat_completion_request(request)
        said.append(str(response.choices[0].message.content))
    return said


@pytest.mark.parametrize("named", [True, False])
def test_a_pair_of_gguf_files_answers_like_the_folder(pair: Path, named: bool) -> None:
    """The image half is found beside the model, or by its name."""
    mmproj = "mmproj-model.gguf" if named else None
    which = Which.GGUF(str(pair), "model.gguf", str(demo_folder()), mmproj_filename=mmproj)
    with Runner() as folder, Runner(which) as files:
        assert files.host.config.vision is not None
        assert answers(files) == answers(folder)
