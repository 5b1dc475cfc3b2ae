"""The demo model's tokenizer: Gemma 3's file format and rules, with a vocabulary of its own corpus."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from .questions import TALK, ask, compare, draw_pair
from .scenes import WORDS, draw_scene

if TYPE_CHECKING:
    from pathlib import Path

CONTROL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
NEWLINES = ("\n", "\n\n", "\n\n\n", "\n\n\n\n")
BOI, EOI, IMAGE = "<start_of_image>", "<end_of_image>", "<image_soft_token>"
LEARNT = 400
"""Pieces that are learnt beside single characters."""

CHAT_TEMPLATE = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""


def build_tokenizer() -> dict[str, Any]:
    """tokenizer.json, as an object; the image soft token is the last row."""
    learnt, merges = _learn()
    pieces = [*CONTROL, *NEWLINES, BOI, EOI, *(f"<0x{value:02X}>" for value in range(256)), *learnt, IMAGE]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    assert len(vocab) == len(pieces)
    added = [*CONTROL, *NEWLINES, BOI, EOI, IMAGE]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    bos = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": vocab[text],
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": text not in NEWLINES,
            }
            for text in sorted(added, key=vocab.__getitem__)
        ],
        "normalizer": replace,
        "pre_tokenizer": {
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                bos,
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<bos>", "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [vocab["<bos>"]], "tokens": ["<bos>"]}},
        },
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
    }  # fmt: skip


def write_tokenizer(folder: Path) -> Tokenizer:
    """Write tokenizer.json, tokenizer_config.json and the chat template; returns the tokenizer."""
    (folder / "tokenizer.json").write_text(json.dumps(build_tokenizer(), ensure_ascii=False, indent=1))
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "boi_token": BOI,
        "bos_token": "<bos>",
        "clean_up_tokenization_spaces": False,
        "eoi_token": EOI,
        "eos_token": "<eos>",
        "extra_special_tokens": {"boi_token": BOI, "eoi_token": EOI, "image_token": IMAGE},
        "image_token": IMAGE,
        "model_max_length": 8192,
        "pad_token": "<pad>",
        "padding_side": "left",
        "processor_class": "Gemma3Processor",
        "spaces_between_special_tokens": False,
        "tokenizer_class": "GemmaTokenizer",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def _learn() -> tuple[list[str], list[list[str]]]:
    """Pieces and merges; no piece joins digits, punctuation or words with each other."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation(),
        ]
    )
    alphabet = [chr(code) for code in range(33, 127)] + ["▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + LEARNT, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    learnt = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return learnt, [
        list(merge) if not isinstance(merge, str) else merge.split(" ") for merge in model["merges"]
    ]


def _corpus() -> list[str]:
    rng = random.Random("corpus")
    texts = ["user", "model", *WORDS, *(f'"{word}"' for word in WORDS)]
    for _ in range(3000):
        scene = draw_scene(rng, held_out=False)
        for question in ask(scene, rng, 4):
            texts += (question.text, question.answer)
        for question in compare(*draw_pair(rng, held_out=False), rng, 2):
            texts += (question.text, question.answer)
    for asked, answer in TALK:
        texts += [*asked, answer] * 30
    return texts
