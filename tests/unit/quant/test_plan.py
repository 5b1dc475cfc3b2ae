"""Which tensor gets which format; shapes are those of the published sizes, without any weights."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from ostro.isq_names import IsqType
from ostro.loading.checkpoint import Checkpoint
from ostro.loading.config import VisionConfig
from ostro.loading.hf_config import parse_config
from ostro.loading.shapes import expected_shapes, expected_vision_shapes
from ostro.ops.tensor import FORMATS, Tensor
from ostro.quant.plan import plan
from ostro.quant.recipes import FALLBACKS, RECIPES
from ostro.quant.topology import Topology
from ostro.types import GenerationDefaults

VISION = VisionConfig(
    hidden_size=1152,
    intermediate_size=4304,
    num_hidden_layers=2,
    num_attention_heads=16,
    image_size=896,
    patch_size=14,
    layer_norm_eps=1e-6,
    tokens_per_image=256,
)


def checkpoint(hidden: int, *, layers: int = 8, tied: bool = True, stored: str = "BF16") -> Checkpoint:
    config = dataclasses.replace(
        parse_config(
            {
                "model_type": "gemma3_text",
                "vocab_size": 1000,
                "hidden_size": hidden,
                "intermediate_size": 2048,
                "num_hidden_layers": layers,
                "num_attention_heads": 4,
                "num_key_value_heads": 1,
                "head_dim": 256,
                "sliding_window": 512,
                "tie_word_embeddings": tied,
            },
            "config.json",
        ),
        vision=VISION,
    )

    def tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
        nothing = np.empty(0, np.uint8)
        return {name: Tensor(name, FORMATS[stored], shape, nothing) for name, shape in shapes.items()}

    return Checkpoint(
        name="shapes",
        config=config,
        tensors=tensors(expected_shapes(config)),
        norm_offset=1.0,
        tokenizer=None,
        chat_template=None,
        generation=GenerationDefaults(),
        vision_tensors=tensors(expected_vision_shapes(VISION, hidden)),
    )


def formats(source: Checkpoint, isq: str | None, **arguments: object) -> dict[str, str]:
    return {name: chosen.name for name, chosen in plan(source, isq, **arguments).items()}  # type: ignore[arg-type]


def test_every_name_has_a_recipe_of_known_formats() -> None:
    assert set(RECIPES) == {member.value for member in IsqType}
    for recipe in RECIPES.values():
        named = {recipe.layers, recipe.embedding, *(r.format for r in recipe.refinements)}
        assert named <= set(FORMATS)
    for tight, roomy in FALLBACKS.items():
        assert FORMATS[roomy].block < FORMATS[tight].block
        # Sums that products could use, and a scale in float32, make Q8_K larger than Q8_0.
        fewer = FORMATS[roomy].bytes / FORMATS[roomy].block < FORMATS[tight].bytes / FORMATS[tight].block
        assert not fewer or tight == "Q8_K"


def test_q4k_of_a_wide_model() -> None:
    chosen = formats(checkpoint(2560), "Q4K")
    assert chosen["embed_tokens.weight"] == "Q6_K"
    assert {chosen[f"layers.{i}.{part}.weight"] for i in range(8) for part in
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
             "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")} == {"Q4_K"}  # fmt: skip
    assert not [name for name in chosen if "norm" in name or name.endswith(".bias")]
    # The image half: its matrices, but neither the patches of 588 values nor the positions.
    seen = {name for name in chosen if not name.startswith(("layers", "embed"))}
    assert {chosen[name] for name in seen} == {"Q8_0"}
    assert "projector.mm_input_projection_weight" in seen
    assert len(seen) == 2 * 6 + 1
    assert "vision.embeddings.patch_embedding.weight" not in chosen


def test_narrow_rows_take_the_next_format_up() -> None:
    chosen = formats(checkpoint(640), "Q4K", vision=False)
    assert chosen["embed_tokens.weight"] == "Q8_0"
    assert chosen["layers.0.mlp.gate_proj.weight"] == "Q5_0"
    assert chosen["layers.0.mlp.down_proj.weight"] == "Q4_K"
    assert not [name for name in chosen if name.startswith(("vision", "projector"))]


def test_the_mix_of_q4k_m() -> None:
    chosen = formats(checkpoint(2560, layers=34), "Q4K_M")
    finer = [i for i in range(34) if chosen[f"layers.{i}.mlp.down_proj.weight"] == "Q6_K"]
    # As in llama.cpp's files of the 4b.
    assert finer == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 29, 30, 31, 32, 33]
    assert finer == [i for i in range(34) if chosen[f"layers.{i}.self_attn.v_proj.weight"] == "Q6_K"]
    assert {chosen[f"layers.{i}.self_attn.q_proj.weight"] for i in range(34)} == {"Q4_K"}


def test_the_last_refinement_wins() -> None:
    chosen = formats(checkpoint(2560, layers=34), "Q3K_M")
    assert [chosen[f"layers.{i}.self_attn.v_proj.weight"] for i in range(4)] == [
        "Q5_K",
        "Q5_K",
        "Q4_K",
        "Q4_K",
    ]
    assert [chosen[f"layers.{i}.mlp.down_proj.weight"] for i in range(4)] == ["Q5_K", "Q5_K", "Q4_K", "Q4_K"]
    assert chosen["layers.0.self_attn.o_proj.weight"] == "Q4_K"
    assert chosen["layers.0.mlp.up_proj.weight"] == "Q3_K"


def test_an_untied_head_is_treated_as_the_embedding() -> None:
    chosen = formats(checkpoint(2560, tied=False), "Q5K")
    assert chosen["lm_head.weight"] == chosen["embed_tokens.weight"] == "Q8_0"


def test_a_topology_goes_before_everything_else() -> None:
    patterns = ((re.compile("embed_tokens"), "Q5K"), (re.compile(r"^vision.*fc2"), "Q4_0"))
    topology = Topology(((0, 2, "Q8_0"),), patterns)
    chosen = formats(checkpoint(2560), "Q4K", topology=topology)
    assert chosen["layers.1.mlp.up_proj.weight"] == "Q8_0"
    assert chosen["layers.2.mlp.up_proj.weight"] == "Q4_K"
    assert chosen["embed_tokens.weight"] == "Q5_K"
    assert chosen["vision.encoder.layers.0.mlp.fc2.weight"] == "Q4_0"
    alone = formats(checkpoint(2560), None, topology=topology)
    assert {name.split(".")[1] for name in alone if name.startswith("layers")} == {"0", "1"}
    assert len(alone) == 2 * 7 + 1 + 2


@pytest.mark.parametrize(("stored", "isq"), [("Q4_0", "Q8_0"), ("Q8_0", "Q8_0"), ("Q5_0", "HQQ8")])
def test_what_takes_no_more_bits_stays(stored: str, isq: str) -> None:
    assert formats(checkpoint(2560, stored=stored), isq, vision=False) == {}
