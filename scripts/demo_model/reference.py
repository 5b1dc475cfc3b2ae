"""The demo model's answers by transformers: what ostro's are compared with, and what the card reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoProcessor, Gemma3ForConditionalGeneration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from PIL import Image


def chat_turn(images: list[Image.Image], question: str) -> dict[str, Any]:
    """A user's turn for `apply_chat_template`: images first."""
    content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*content, {"type": "text", "text": question}]}


@torch.no_grad()
def reference_answers(
    folder: Path, questions: Iterable[tuple[list[Image.Image], str]], *, max_tokens: int = 96
) -> Iterator[str]:
    """Greedy answers to (images, question) pairs, computed in float32 from the folder's bfloat16 weights."""
    processor = AutoProcessor.from_pretrained(folder)
    model = Gemma3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    for images, question in questions:
        prompt = processor.apply_chat_template(
            [chat_turn(images, question)],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        written = model.generate(**prompt, do_sample=False, max_new_tokens=max_tokens)
        ids = written[0, prompt["input_ids"].shape[1] :]
        yield processor.tokenizer.decode(ids, skip_special_tokens=True)
