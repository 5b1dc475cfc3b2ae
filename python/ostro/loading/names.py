"""Tensors are renamed here and nowhere else: every layout's names to the canonical ones.

Canonical are Hugging Face's names without prefix ("layers.3.mlp.up_proj.weight"). The image half has two
prefixes: "vision." for the tower ("vision.encoder.layers.0.layer_norm1.bias") and "projector.".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ostro.errors import MissingTensor, UnknownTensor
from ostro.loading.vision_names import COMBINED, MMPROJ

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ostro.loading.vision_names import VisionSpelling

_GGUF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GGUF_TOP = {"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head"}

_TEXT_NAME = re.compile(
    rf"((embed_tokens|norm)|layers\.(0|[1-9]\d{{0,5}})\.({'|'.join(map(re.escape, _GGUF_LAYER.values()))}))"
    r"\.weight",
    re.ASCII,
)

_TEXT_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.", "")
_VISION_PREFIXES = (
    "model.vision_tower.vision_model.",
    "vision_tower.vision_model.",
    "model.vision_tower.",
    "vision_tower.",
)
_PROJECTOR_PREFIXES = ("model.multi_modal_projector.", "multi_modal_projector.")
HEADS = ("lm_head.weight", "language_model.lm_head.weight")
_TEXT_PROBE = "embed_tokens.weight"

_BUFFERS = re.compile(r"(^|\.)(rotary_emb(_local)?\.(\w+_)?inv_freq|embeddings\.position_ids)$")
"""Saved by some writers, computed from the configuration by every reader."""
_VISION_HEAD = "head."
"""The tower's attention pooling: Gemma 3 does not use it."""


@dataclass(frozen=True, slots=True)
class Renaming:
    """Canonical name -> the file's own name, for both halves; a name in neither is to be ignored.

    text_prefix, vision_prefix, projector_prefix: what Hugging Face files put before names; text_prefix is
        None for GGUF files. spelling: of a GGUF file's image half.
    """

    text_prefix: str | None
    text: dict[str, str] = field(default_factory=dict)
    vision: dict[str, str] = field(default_factory=dict)
    vision_prefix: str = _VISION_PREFIXES[0]
    projector_prefix: str = _PROJECTOR_PREFIXES[0]
    spelling: VisionSpelling = COMBINED

    def own_name(self, canonical: str) -> str:
        """What the file would call a tensor, whether it has it or not."""
        half, _, rest = canonical.partition(".")
        if half in ("vision", "projector"):
            if self.text_prefix is None:
                return self.spelling.own(canonical)
            return (self.vision_prefix if half == "vision" else self.projector_prefix) + rest
        if canonical == "lm_head.weight" and self.text_prefix is not None:
            return canonical
        return _gguf_own_name(canonical) if self.text_prefix is None else self.text_prefix + canonical


def _gguf_own_name(canonical: str) -> str:
    stem = canonical.removesuffix(".weight")
    for own, renamed in _GGUF_TOP.items():
        if stem == renamed:
            return f"{own}.weight"
    _, layer, suffix = stem.split(".", 2)
    return next(f"blk.{layer}.{own}.weight" for own, renamed in _GGUF_LAYER.items() if renamed == suffix)


def from_gguf(names: Iterable[str], source: str) -> Renaming:
    """Rename a GGUF file's tensors; UnknownTensor for names that Gemma 3 has no place for."""
    result = Renaming(text_prefix=None)
    leftovers = []
    for name in names:
        text, vision = _gguf_text_name(name), COMBINED.canonical(name)
        if text is not None:
            result.text[text] = name
        elif vision is not None:
            result.vision[vision] = name
        else:
            leftovers.append(name)
    _refuse(leftovers, source)
    return result


def gguf_to_canonical(name: str) -> str | None:
    """The canonical name of a GGUF tensor of either half, in any spelling; None for what has no place."""
    return _gguf_text_name(name) or MMPROJ.canonical(name) or COMBINED.canonical(name)


def canonical_to_gguf(name: str) -> str:
    """What llama.cpp calls a tensor: in the text model's file, or in that of the image half."""
    return MMPROJ.own(name) if name.startswith(("vision.", "projector.")) else _gguf_own_name(name)


def hugging_face_to_canonical(name: str) -> str | None:
    """The canonical name of a tensor under any prefix of Hugging Face's; None for what has no place."""
    if name in HEADS:
        return "lm_head.weight"
    for prefixes, half in ((_VISION_PREFIXES, "vision."), (_PROJECTOR_PREFIXES, "projector.")):
        for prefix in prefixes:
            if name.startswith(prefix):
                return half + name.removeprefix(prefix)
    for prefix in _TEXT_PREFIXES:
        if name.startswith(prefix) and _TEXT_NAME.fullmatch(name, len(prefix)):
            return name.removeprefix(prefix)
    return None


def from_mmproj(names: Iterable[str], source: str) -> Renaming:
    """Rename the tensors of llama.cpp's file of the image half; UnknownTensor for names without a place."""
    result = Renaming(text_prefix=None, spelling=MMPROJ)
    leftovers = []
    for name in names:
        canonical = MMPROJ.canonical(name)
        if canonical is None:
            leftovers.append(name)
        else:
            result.vision[canonical] = name
    _refuse(leftovers, source)
    return result


def _gguf_text_name(name: str) -> str | None:
    if match := re.fullmatch(r"blk\.(0|[1-9]\d{0,5})\.(\w+)\.weight", name, re.ASCII):
        suffix = _GGUF_LAYER.get(match[2])
        return None if suffix is None else f"layers.{match[1]}.{suffix}.weight"
    top = _GGUF_TOP.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
    return None if top is None else f"{top}.weight"


def from_hugging_face(names: Iterable[str], source: str, *, tied: bool) -> Renaming:
    """Rename the tensors of a Hugging Face checkpoint, in whichever of its prefix layouts.

    tied: whether the output head is the embedding table; a stored head is ignored then.
    MissingTensor when no layout has an embedding table, UnknownTensor for names without a place.
    """
    names = [name for name in names if not _BUFFERS.search(name)]
    known = set(names)
    text_prefix = next((prefix for prefix in _TEXT_PREFIXES if prefix + _TEXT_PROBE in known), None)
    if text_prefix is None:
        raise MissingTensor(
            f"{source}: no tensor {_TEXT_PROBE!r} under any prefix that Gemma 3 checkpoints use"
        )
    vision_prefix = _prefix_in_use(known, _VISION_PREFIXES)
    projector_prefix = _prefix_in_use(known, _PROJECTOR_PREFIXES)
    result = Renaming(text_prefix, vision_prefix=vision_prefix, projector_prefix=projector_prefix)
    leftovers = []
    for name in names:
        if name in HEADS:
            if tied:
                continue
            table, canonical = result.text, "lm_head.weight"
        elif name.startswith(vision_prefix):
            table, canonical = result.vision, "vision." + name.removeprefix(vision_prefix)
            if canonical.startswith("vision." + _VISION_HEAD):
                continue
        elif name.startswith(projector_prefix):
            table, canonical = result.vision, "projector." + name.removeprefix(projector_prefix)
        elif name.startswith(text_prefix):
            table, canonical = result.text, name.removeprefix(text_prefix)
        else:
            leftovers.append(name)
            continue
        if canonical in table:
            leftovers.append(name)
        table[canonical] = name
    _refuse(leftovers, source)
    return result


def _prefix_in_use(names: set[str], prefixes: tuple[str, ...]) -> str:
    """The first prefix that any name has, so that one tensor suffices to tell a half that lacks others."""
    in_use = (prefix for prefix in prefixes if any(name.startswith(prefix) for name in names))
    return next(in_use, prefixes[0])


def _refuse(leftovers: list[str], source: str) -> None:
    if leftovers:
        shown = ", ".join(repr(name[:80]) for name in leftovers[:5])
        more = f" and {len(leftovers) - 5} more" if len(leftovers) > 5 else ""
        raise UnknownTensor(f"{source}: Gemma 3 has no place for {shown}{more}")


def as_mistral_rs(canonical: str, *, sees: bool) -> str:
    """The name under which mistral.rs looks for a tensor: Google's own layout. sees: it has an image half."""
    if canonical == "lm_head.weight":
        return HEADS[1] if sees else HEADS[0]
    text_prefix = "language_model.model." if sees else "model."
    renaming = Renaming(
        text_prefix, vision_prefix=_VISION_PREFIXES[1], projector_prefix=_PROJECTOR_PREFIXES[1]
    )
    return renaming.own_name(canonical)
