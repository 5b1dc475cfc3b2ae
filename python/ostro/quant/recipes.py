"""What a name such as "Q4K" means for every kind of matrix, as data.

Sources: mistral.rs for the plain names and for the promotion of embedding and head; llama.cpp's tool
"quantize" for the mixes (`Q4K_M` and its kind) and for what takes the place of a K-quant where rows are no
multiple of 256.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Refinement:
    """Other formats for some matrices of layers.

    where: of layer i of n, whether it is meant.
    """

    parts: tuple[str, ...]
    where: Callable[[int, int], bool]
    format: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """Formats by name. layers: the projections of all layers; embedding: the table and the head.

    refinements: the last that fits a matrix wins.
    """

    layers: str
    embedding: str
    refinements: tuple[Refinement, ...] = ()

    def of(self, part: str, layer: int, layers: int) -> str:
        """Of one projection ("self_attn.q_proj") of layer `layer` of `layers`."""
        fitting = (r.format for r in reversed(self.refinements) if part in r.parts and r.where(layer, layers))
        return next(fitting, self.layers)


def _all(layer: int, layers: int) -> bool:
    del layer, layers
    return True


def _sensitive(layer: int, layers: int) -> bool:
    """The first and the last eighth, and every third in between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _before(fraction: int) -> Callable[[int, int], bool]:
    return lambda layer, layers: layer < layers // fraction


def _first(count: int) -> Callable[[int, int], bool]:
    return lambda layer, _: layer < count


_V, _DOWN, _O = ("self_attn.v_proj",), ("mlp.down_proj",), ("self_attn.o_proj",)

RECIPES: dict[str, Recipe] = {
    "Q4_0": Recipe("Q4_0", "Q6_K"),
    "Q4_1": Recipe("Q4_1", "Q6_K"),
    "Q5_0": Recipe("Q5_0", "Q8_0"),
    "Q5_1": Recipe("Q5_1", "Q8_0"),
    "Q8_0": Recipe("Q8_0", "Q8_0"),
    "Q8_1": Recipe("Q8_1", "Q8_0"),
    "Q2K": Recipe("Q2_K", "Q6_K"),
    "Q3K": Recipe("Q3_K", "Q6_K"),
    "Q4K": Recipe("Q4_K", "Q6_K"),
    "Q5K": Recipe("Q5_K", "Q8_0"),
    "Q6K": Recipe("Q6_K", "Q8_0"),
    "Q8K": Recipe("Q8_K", "Q8_0"),
    "Q3K_S": Recipe("Q3_K", "Q6_K"),
    "Q3K_M": Recipe(
        "Q3_K",
        "Q6_K",
        (
            Refinement(_O + _V + _DOWN, _all, "Q4_K"),
            Refinement(_V, _first(2), "Q5_K"),
            Refinement(_DOWN, _before(16), "Q5_K"),
        ),
    ),
    "Q3K_L": Recipe("Q3_K", "Q6_K", (Refinement(_O + _V + _DOWN, _all, "Q5_K"),)),
    "Q4K_S": Recipe(
        "Q4_K", "Q6_K", (Refinement(_V, _first(4), "Q5_K"), Refinement(_DOWN, _before(8), "Q5_K"))
    ),
    "Q4K_M": Recipe("Q4_K", "Q6_K", (Refinement(_V + _DOWN, _sensitive, "Q6_K"),)),
    "Q5K_S": Recipe("Q5_K", "Q6_K"),
    "Q5K_M": Recipe("Q5_K", "Q6_K", (Refinement(_V + _DOWN, _sensitive, "Q6_K"),)),
    "HQQ4": Recipe("HQQ4", "Q6_K"),
    "HQQ8": Recipe("HQQ8", "Q8_0"),
    "FP8": Recipe("FP8", "Q8_0"),
    "AFQ2": Recipe("AFQ2", "AFQ6"),
    "AFQ3": Recipe("AFQ3", "AFQ6"),
    "AFQ4": Recipe("AFQ4", "AFQ6"),
    "AFQ6": Recipe("AFQ6", "AFQ8"),
    "AFQ8": Recipe("AFQ8", "AFQ8"),
    "F8Q8": Recipe("F8Q8", "Q8_0"),
    "MXFP4": Recipe("MXFP4", "Q6_K"),
}
"""By the names of `isq_names`."""

FALLBACKS: dict[str, str] = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "Q8_K": "Q8_0",
    "FP8": "Q8_0",
    "AFQ2": "Q4_0",
    "AFQ3": "Q4_0",
    "AFQ4": "Q4_1",
    "AFQ6": "Q8_0",
    "AFQ8": "Q8_0",
    "HQQ4": "Q4_1",
    "HQQ8": "Q8_0",
}
"""The next format up whose blocks are shorter, for rows that are no multiple of a format's block."""

VISION = "Q8_0"
"""The image half, whatever the recipe: it is small, and what it misses no later layer can see."""
