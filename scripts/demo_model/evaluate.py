"""How many held-out questions are answered exactly."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import torch

from .batches import Row, Writer, collate
from .questions import Question, held_out_questions
from .scenes import PATCHES, Picture, Scene, noise_image

if TYPE_CHECKING:
    from transformers import Gemma3ForConditionalGeneration

BATCH = 25


@torch.no_grad()
def accuracy(
    model: Gemma3ForConditionalGeneration, writer: Writer, count: int, *, seed: int = 0, noise: bool = False
) -> dict[str, float]:
    """Share of right answers by kind of question, and of all. noise: in place of the pictures.

    An answer counts if each of its tokens, and the end of the turn, is the likeliest one after those before
    it: just then greedy decoding writes it.
    """
    from .training import answer_scores

    rng = random.Random(f"noise {seed}")
    right: dict[str, list[bool]] = defaultdict(list)
    asked = sorted(held_out_questions(count, seed), key=lambda item: len(item[0]))
    while asked:
        width = len(asked[0][0])
        group = [item for item in asked[:BATCH] if len(item[0]) == width]
        asked = asked[len(group) :]
        rows = [
            Row(
                writer.prefix(width),
                [writer.segment([Question(kind, question, answer)])],
                [
                    Picture(noise_image(rng) if noise else image, np.zeros((PATCHES**2, 4), np.int64))
                    for image in images
                ],
                [Scene("white")] * width,
            )
            for images, question, answer, kind in group
        ]
        batch = collate(rows, writer.soft)
        features = model.model.vision_tower(batch.pixels).last_hidden_state
        window = model.config.text_config.sliding_window
        scores, targets = answer_scores(model, batch, features, writer.soft, window)
        owner = (batch.targets >= 0).nonzero()[:, 0]
        hit = scores.argmax(-1) == targets
        for i, (_, _, _, kind) in enumerate(group):
            right[kind].append(bool(hit[owner == i].all()))
    everything = [value for values in right.values() for value in values]
    shares = {kind: sum(values) / len(values) for kind, values in sorted(right.items())}
    return {"all": sum(everything) / len(everything), **shares}
