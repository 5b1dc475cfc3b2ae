"""Whether training sees what inference sees: packed rows against separate conversations."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import AutoProcessor, Gemma3ForConditionalGeneration

from .batches import Row, Writer, collate, late_rows, pair_rows, picture_rows, pixels_of
from .questions import held_out_questions
from .reference import chat_turn
from .training import answer_scores

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer


@torch.no_grad()
def self_check(folder: Path, tokenizer: Tokenizer, questions: int = 20) -> dict[str, float]:
    """Compare a model folder's packed training rows with transformers' own way; raises AssertionError.

    Returns the largest differences: of scores, packed against alone, and of pixels in levels of 255.
    """
    model, found = Gemma3ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not found[what], f"{what}: {found[what]}"
    writer = Writer(tokenizer)
    pixels = _check_prompts(folder, writer, questions)
    scores = _check_packing(model.eval(), writer)
    assert scores < 1e-3, f"packed scores differ by {scores}"
    assert pixels < 1e-3, f"pixels differ by {pixels} levels"
    return {"score difference": scores, "pixel difference": pixels}


def _check_prompts(folder: Path, writer: Writer, questions: int) -> float:
    processor = AutoProcessor.from_pretrained(folder)
    worst = 0.0
    for images, question, _, _ in held_out_questions(questions, seed=2):
        prompt = processor.apply_chat_template(
            [chat_turn(images, question)],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        asked = f"{question}<end_of_turn>\n<start_of_turn>model\n"
        assert prompt["input_ids"][0].tolist() == writer.prefix(len(images)) + writer.ids(asked)
        own = np.stack([pixels_of(image) for image in images])
        worst = max(worst, float(np.abs(prompt["pixel_values"].numpy() - own).max()) * 127.5)
    return worst


def _check_packing(model: Gemma3ForConditionalGeneration, writer: Writer) -> float:
    rng = random.Random("self check")
    rows = [
        *picture_rows(writer, rng, 2, 4), *pair_rows(writer, rng, 2), *late_rows(writer, rng, 2)
    ]  # fmt: skip
    batch = collate(rows, writer.soft)
    features = model.model.vision_tower(batch.pixels).last_hidden_state
    packed, _ = answer_scores(model, batch, features, writer.soft, model.config.text_config.sliding_window)
    owner, at = (batch.targets >= 0).nonzero().T
    segment = batch.segment[owner, at]
    worst = 0.0
    for r, row in enumerate(rows):
        for number, (ids, learnt) in enumerate(row.segments, 1):
            alone = _alone(model, row, ids, writer.soft)
            wanted = alone[[len(row.prefix) + i - 1 for i, value in enumerate(learnt) if value]]
            worst = max(worst, (packed[(owner == r) & (segment == number)] - wanted).abs().max().item())
    return worst


def _alone(model: Gemma3ForConditionalGeneration, row: Row, ids: list[int], soft: int) -> torch.Tensor:
    """Scores [t, V] of one segment as a conversation of its own."""
    whole = torch.tensor([row.prefix + ids])
    images = {}
    if row.pictures:
        pixels = np.stack([pixels_of(picture.image) for picture in row.pictures])
        images = {"pixel_values": torch.from_numpy(pixels), "token_type_ids": (whole == soft).long()}
    return model(input_ids=whole, attention_mask=torch.ones_like(whole), **images).logits[0]
