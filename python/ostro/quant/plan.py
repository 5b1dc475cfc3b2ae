"""Which tensor of a checkpoint gets which number format."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from ostro.loading.vision_names import PROJECTION
from ostro.ops.tensor import FORMATS
from ostro.quant.recipes import FALLBACKS, RECIPES, VISION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ostro.loading.checkpoint import Checkpoint
    from ostro.ops.tensor import Format, Tensor
    from ostro.quant.topology import Topology

    Plan = Mapping[str, Format]

logger = logging.getLogger(__name__)

PADDED = 32
"""To what multiple the inner width of the image half is filled up with neurons that are always zero.

Its width of 4,304 is no multiple of any format's block.
"""

_LAYER = re.compile(r"layers\.(\d+)\.(self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)\.weight", re.ASCII)
_TABLES = ("embed_tokens.weight", "lm_head.weight")
_VISION = re.compile(
    r"vision\.(?:embeddings\.patch_embedding|encoder\.layers\.\d+\.(?:self_attn\.\w+_proj|mlp\.fc[12]))\.weight"
    f"|{re.escape(PROJECTION)}",
    re.ASCII,
)


def plan(
    checkpoint: Checkpoint, isq: str | None, *, topology: Topology | None = None, vision: bool = True
) -> Plan:
    """Canonical name -> format, of every tensor that is to be stored in another format than it has.

    isq: a name of `isq_names`; None: only what the topology names. vision: whether the image half is meant.
    A tensor stays as it is if that takes no more bytes, or if there is no format for its rows.
    """
    recipe = None if isq is None else RECIPES[isq]
    layers = len(checkpoint.config.layer_kinds)
    result: dict[str, Format] = {}
    for name, tensor in (*checkpoint.tensors.items(), *checkpoint.vision_tensors.items()):
        seen = _VISION.fullmatch(name) is not None
        match = _LAYER.fullmatch(name)
        if match is None and name not in _TABLES and not seen:
            continue
        override = None if topology is None else topology.name(name, tensor.name)
        if override is not None:
            asked = RECIPES[override].layers
        elif recipe is None or (seen and not vision):
            continue
        elif seen:
            asked = VISION
        else:
            asked = recipe.embedding if match is None else recipe.of(match[2], int(match[1]), layers)
        chosen = _fitting(name, tensor, FORMATS[asked])
        if chosen is not None:
            result[name] = chosen
    return result


def columns(name: str, tensor: Tensor) -> int:
    """Weights in a row of the matrix that is multiplied, zeros that fill it up included."""
    if name == PROJECTION:
        return tensor.shape[0]  # stored the other way round
    cols = tensor.as_matrix().shape[1]
    return -(-cols // PADDED) * PADDED if name.endswith(".mlp.fc2.weight") else cols


def _fitting(name: str, tensor: Tensor, asked: Format) -> Format | None:
    """The format, or the next one that has room for such rows; None: the tensor had better stay as it is."""
    cols = columns(name, tensor)
    chosen: Format | None = asked
    while chosen is not None and cols % chosen.block:
        chosen = FORMATS[FALLBACKS[chosen.name]] if chosen.name in FALLBACKS else None
    if chosen is None:
        logger.info("%s stays %s: no format has rows of %d weights", name, tensor.format.name, cols)
        return None
    own = tensor.format.bytes / tensor.format.block
    if chosen == tensor.format or chosen.bytes / chosen.block >= own:
        return None
    return chosen
