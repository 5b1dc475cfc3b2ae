"""UQFF between mistral.rs and ostro, both ways, with the vision model of the package.

    .venv/bin/python -m benches.uqff_with_mistralrs [--types Q8_0,Q4K] [--keep FOLDER]
    .venv/bin/python -m benches.uqff_with_mistralrs --sample tests/parity/data/uqff

Prints a line per number format: what each of the two says about the package's picture, from the file that
mistral.rs wrote and from the one that ostro wrote, as "same" if it is what mistral.rs says with the original.
The second form writes the small random model again that the tests read. mistral.rs gets an environment of its
own, as in `benches.compare`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benches.compare.peers import MISTRAL_RS, ROOT, cache_folder, install, python_of

from ostro import ChatCompletionRequest, ChatCompletionResponse, Runner, Which
from ostro.errors import OstroError
from ostro.isq_names import IsqType, isq_name
from ostro.loading.demo import demo_folder
from ostro.loading.safetensors_writer import Entry, write_safetensors

if TYPE_CHECKING:
    from numpy.typing import NDArray


HIDDEN, INNER, HEAD_DIM, VISION, VISION_INNER, PATCH = 256, 64, 32, 32, 64, 7
SPECIAL = (
    "<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>",
    "<end_of_image>", "<image_soft_token>",
)  # fmt: skip
BYTES = tuple(f"<0x{value:02X}>" for value in range(256))
VOCABULARY = (*SPECIAL, *"\n\u2581.,!?'abcdefghijklmnopqrstuvwxyz", *BYTES)


def sample_weights() -> dict[str, NDArray[np.float32]]:
    """Random weights of the small model, under Google's names."""
    rng = np.random.default_rng(5)
    text = {
        "embed_tokens": (len(VOCABULARY), HIDDEN),
        "norm": (HIDDEN,),
        "layers.0.self_attn.q_proj": (2 * HEAD_DIM, HIDDEN),
        "layers.0.self_attn.k_proj": (HEAD_DIM, HIDDEN),
        "layers.0.self_attn.v_proj": (HEAD_DIM, HIDDEN),
        "layers.0.self_attn.o_proj": (HIDDEN, 2 * HEAD_DIM),
        "layers.0.self_attn.q_norm": (HEAD_DIM,),
        "layers.0.self_attn.k_norm": (HEAD_DIM,),
        "layers.0.mlp.gate_proj": (INNER, HIDDEN),
        "layers.0.mlp.up_proj": (INNER, HIDDEN),
        "layers.0.mlp.down_proj": (HIDDEN, INNER),
        "layers.0.input_layernorm": (HIDDEN,),
        "layers.0.post_attention_layernorm": (HIDDEN,),
        "layers.0.pre_feedforward_layernorm": (HIDDEN,),
        "layers.0.post_feedforward_layernorm": (HIDDEN,),
    }
    block = "encoder.layers.0."
    vision: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embedding": (VISION, 3, PATCH, PATCH),
        "post_layernorm": (VISION,),
        block + "layer_norm1": (VISION,),
        block + "layer_norm2": (VISION,),
        block + "mlp.fc1": (VISION_INNER, VISION),
        block + "mlp.fc2": (VISION, VISION_INNER),
    }
    vision |= {f"{block}self_attn.{name}_proj": (VISION, VISION) for name in ("q", "k", "v", "out")}
    shapes = {f"language_model.model.{name}.weight": shape for name, shape in text.items()}
    for name, shape in vision.items():
        shapes[f"vision_tower.vision_model.{name}.weight"] = shape
        shapes[f"vision_tower.vision_model.{name}.bias"] = shape[:1]
    shapes["vision_tower.vision_model.embeddings.position_embedding.weight"] = (16, VISION)
    shapes["multi_modal_projector.mm_input_projection_weight"] = (VISION, HIDDEN)
    shapes["multi_modal_projector.mm_soft_emb_norm.weight"] = (VISION,)
    return {
        name: rng.standard_normal(shape, np.float32) / np.float32(shape[-1] ** 0.5)
        for name, shape in shapes.items()
    }


def _sample_source(folder: Path) -> None:
    """The small model as Hugging Face's files."""
    text = {
        "model_type": "gemma3_text", "vocab_size": len(VOCABULARY), "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": HEAD_DIM, "query_pre_attn_scalar": HEAD_DIM,
        "max_position_embeddings": 512, "sliding_window": 64, "sliding_window_pattern": 2,
    }  # fmt: skip
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": VISION, "intermediate_size": VISION_INNER,
        "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 4 * PATCH, "patch_size": PATCH,
        "vision_use_head": False,
    }  # fmt: skip
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text,
        "vision_config": vision, "mm_tokens_per_image": 4,
        "image_token_index": VOCABULARY.index("<image_soft_token>"), "eos_token_id": [1, 5],
    }  # fmt: skip
    size = {"height": 4 * PATCH, "width": 4 * PATCH}
    processor = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_seq_length": 4}
    template = (demo_folder() / "chat_template.jinja").read_text("utf-8")
    tokens = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    files = {
        "config.json": config,
        "generation_config.json": {"bos_token_id": 2, "eos_token_id": [1, 5]},
        "preprocessor_config.json": {**processor, "do_resize": True, "resample": 2, "size": size},
        "processor_config.json": {"processor_class": "Gemma3Processor", "image_seq_length": 4},
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {**tokens, "chat_template": template},
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value), "utf-8")
    entries = [Entry.of(name, weight) for name, weight in sample_weights().items()]
    write_safetensors(folder / "model.safetensors", entries, {"format": "pt"})


def _tokenizer() -> dict[str, Any]:
    """Letters, and bytes for all else."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    space = {"pattern": {"String": " "}, "content": "\u2581"}
    back = {"pattern": {"String": "\u2581"}, "content": " "}
    vocabulary = {piece: index for index, piece in enumerate(VOCABULARY)}
    return {
        "version": "1.0",
        "added_tokens": [{"id": index, "content": text, **flags} for index, text in enumerate(SPECIAL)],
        "normalizer": {"type": "Replace", **space},
        "decoder": {
            "type": "Sequence",
            "decoders": [{"type": "Replace", **back}, {"type": "ByteFallback"}, {"type": "Fuse"}],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": [],
        },
    }


def _mistral(*arguments: str) -> str:
    """The last line that the worker prints, or its complaint."""
    command = [str(python_of(cache_folder(), MISTRAL_RS)), "-m", "benches.uqff_worker", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return lines[-1]
    return next((line for line in done.stderr.splitlines() if "Error" in line), "no answer")


def _ostro(folder: Path, picture: Path) -> str:
    content = [
        {"type": "image_url", "image_url": {"url": str(picture)}},
        {"type": "text", "text": "describe"},
    ]
    request = ChatCompletionRequest(
        model="default",
        messages=[{"role": "user", "content": content}],
        max_tokens=48,
        temperature=0.0,
    )
    try:
        with contextlib.closing(Runner(which=Which.Plain(str(folder)))) as runner:
            response = runner.send_chat_completion_request(request)
    except OstroError as error:
        return f"{type(error).__name__}: {error}"
    assert isinstance(response, ChatCompletionResponse)
    return str(response.choices[0].message.content)


def _write(target: Path, quant: str) -> str:
    """Quantize the package's model and write it; what went wrong, or nothing."""
    try:
        Runner(
            which=Which.VisionPlain(str(demo_folder()), write_uqff=str(target)), in_situ_quant=quant
        ).close()
    except OstroError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _compare(quant: str, folder: Path, expected: str) -> str:
    """One line of the table."""
    source, picture = demo_folder(), demo_folder() / "picture.png"
    theirs, ours = folder / f"{quant}-mistralrs", folder / f"{quant}-ostro"
    file = f"{quant.lower()}-0.uqff"
    _mistral("write", str(source), str(theirs / f"{quant.lower()}.uqff"), quant)
    cells = [_mistral("ask", str(theirs), file, str(picture)), _ostro(theirs, picture)]
    problem = _write(ours / f"{quant.lower()}.uqff", quant)
    cells += [problem or _mistral("ask", str(ours), file, str(picture)), problem or _ostro(ours, picture)]
    shown = ["same" if cell == expected else cell[:200] for cell in cells]
    size = sum(path.stat().st_size for path in theirs.glob("*.uqff"))
    return f"| {quant} | {size / 1e6:.2f} MB | {' | '.join(shown)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--types", default=",".join(kind.value for kind in IsqType))
    parser.add_argument("--keep", type=Path, help="write the files here, and leave them there")
    parser.add_argument("--sample", type=Path, help="only write the small model of the tests here")
    arguments = parser.parse_args()
    install(cache_folder(), MISTRAL_RS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        if arguments.sample is not None:
            _sample_source(folder)
            print(_mistral("write", str(folder), str(arguments.sample.resolve() / "q4k.uqff"), "Q4K"))
            return
        expected = _mistral("ask", str(demo_folder()), "-", str(demo_folder() / "picture.png"))
        print(f"mistral.rs without quantization: {expected}\n")
        print("| type | size | mistral.rs' file: mistral.rs | ostro | ostro's file: mistral.rs | ostro |")
        print("| --- | ---: | --- | --- | --- | --- |")
        for quant in arguments.types.split(","):
            print(_compare(isq_name(quant), folder, expected), flush=True)


if __name__ == "__main__":
    main()
