"""A vocabulary of a few hundred pieces, built like Gemma's, in both of its file formats."""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING, Any

import numpy as np

from ostro.loading.checkpoint import GgufVocabulary

if TYPE_CHECKING:
    from pathlib import Path

NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6
_WORDS = (
    "▁the",
    "▁hello",
    "▁world",
    "▁user",
    "ing",
    "tion",
    "▁st",
    "art",
    "of",
    "▁turn",
    "model",
    "café",
    "▁日本",
    "語",
)
IMAGE_SOFT_TOKEN = "<image_soft_token>"


def _typed_pieces() -> list[tuple[str, int]]:
    pieces = [(text, CONTROL) for text in ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")]
    pieces.append(("[multimodal]", USER_DEFINED))
    pieces += [(f"<unused{i}>", CONTROL) for i in range(12)]
    pieces += [("<start_of_turn>", CONTROL), ("<end_of_turn>", CONTROL)]
    pieces += [("\n" * n, USER_DEFINED) for n in range(1, 32)]
    pieces += [(" " * n, USER_DEFINED) for n in range(2, 32)]
    pieces += [(f"<{tag}>", USER_DEFINED) for tag in ("b", "/b", "td", "/td", "/s")]
    pieces += [(f"<0x{value:02X}>", BYTE) for value in range(256)]
    merged = dict.fromkeys(word[:end] for word in _WORDS for end in range(2, len(word) + 1))
    characters = dict.fromkeys("▁" + string.ascii_letters + string.digits + string.punctuation + "é日本語")
    pieces += [(text, NORMAL) for text in (*sorted(merged, key=len), *characters)]
    pieces += [("\t" * n, USER_DEFINED) for n in range(1, 32)]
    # Marked as Gemma's files mark them: not as control tokens.
    return [*pieces, ("<start_of_image>", USER_DEFINED), ("<end_of_image>", USER_DEFINED)]


def small_vocabulary() -> GgufVocabulary:
    typed = _typed_pieces()
    first = next(i for i, (_, kind) in enumerate(typed) if kind == NORMAL)
    by_type = {CONTROL: -1000.0, USER_DEFINED: -1000.0, BYTE: 0.0}
    scores = [by_type.get(kind, float(first - i)) for i, (_, kind) in enumerate(typed)]
    return GgufVocabulary(
        pieces=[text for text, _ in typed],
        scores=np.array(scores, np.float32),
        token_types=np.array([kind for _, kind in typed], np.int32),
        bos_id=2,
        eos_id=1,
        unknown_id=3,
        padding_id=0,
        add_bos=True,
        add_space_prefix=False,
    )


def tokenizer_json() -> dict[str, Any]:
    """The structure of google/gemma-3-4b-it's tokenizer.json, whose special flags are just as sparse."""
    typed = [(text.replace(" ", "▁"), kind) for text, kind in _typed_pieces()]
    vocab = {text: i for i, (text, _) in enumerate(typed)}
    special = {"<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>"}
    added = [
        _added(i, text, text in special)
        for i, (text, kind) in enumerate(typed)
        if kind in (CONTROL, USER_DEFINED)
    ]
    merges = [
        [text[:cut], text[cut:]]
        for text in _merge_order(typed)
        for cut in range(1, len(text))
        if text[:cut] in vocab and text[cut:] in vocab
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [*added, _added(len(typed), IMAGE_SOFT_TOKEN, True)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def write_tokenizer_json(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**tokenizer_json(), **changes}), encoding="utf-8")
    return path


def _merge_order(typed: list[tuple[str, int]]) -> list[str]:
    """Space runs first and the longest first, as in the published file; then by rank."""
    runs = [text for text, kind in typed if kind == USER_DEFINED and set(text) == {"▁"}]
    normal = [text for text, kind in typed if kind == NORMAL and len(text) > 1]
    return [*sorted(runs, key=len, reverse=True), *normal]


def _added(token_id: int, text: str, special: bool) -> dict[str, Any]:
    return {
        "id": token_id,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }
