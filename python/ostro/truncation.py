"""Making a prompt that is too long fit."""

from __future__ import annotations

from dataclasses import replace

from ostro.types import Prompt

ROOM_FOR_ANSWER = 256
"""Tokens kept free for the answer when the request does not say how many it wants."""


def keep_tail(prompt: Prompt, context_length: int, max_tokens: int | None) -> Prompt:
    """The prompt without its oldest tokens, so that it and max_tokens fit; `<bos>` stays in front.

    At most half of the context is kept free for the answer. Images are dropped whole.
    """
    room = min(max_tokens or ROOM_FOR_ANSWER, context_length // 2)
    limit = max(context_length - room, 2)
    if len(prompt.token_ids) <= limit:
        return prompt
    cut = len(prompt.token_ids) - limit + 1
    for image in prompt.images:
        if image.start < cut < image.start + image.length:
            cut = image.start + image.length
    images = tuple(
        replace(image, start=image.start - cut + 1) for image in prompt.images if image.start >= cut
    )
    return Prompt(prompt.token_ids[:1] + prompt.token_ids[cut:], images)
