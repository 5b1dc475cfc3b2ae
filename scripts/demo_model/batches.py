"""Training batches: several independent questions behind one shared image prefix.

A row is a prefix (`<bos>`, the user's turn, its images) and segments (question, answer) that see the prefix
and themselves only and whose positions all start after the prefix: the same numbers as separate
conversations, at the cost of one image. `self_check` compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from .model import IMAGE_SIZE, SOFT_TOKENS
from .questions import TALK, Question, ask, compare, draw_pair
from .scenes import BACKGROUNDS, draw_crowd, draw_lines, draw_scene, render

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tokenizers import Tokenizer

    from .scenes import Picture, Scene

FULL_IMAGE = "\n\n<start_of_image>" + "<image_soft_token>" * SOFT_TOKENS + "<end_of_image>\n\n"
ASKED, ANSWERED = "<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>\n<start_of_turn>user\n"


class Writer:
    """Text to ids, with a memory: there are few different texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}
        self.soft = tokenizer.token_to_id("<image_soft_token>")

    def ids(self, text: str) -> list[int]:
        """Ids without `<bos>`."""
        if text not in self._known:
            self._known[text] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._known[text]

    def prefix(self, images: int) -> list[int]:
        """A user's turn that begins with images."""
        return self.ids("<bos><start_of_turn>user\n" + FULL_IMAGE * images)

    def segment(self, turns: Sequence[Question], after: str = "") -> tuple[list[int], list[bool]]:
        """Ids of question and answer turns, and which are to be learnt; `after` follows a question."""
        ids: list[int] = []
        learnt: list[bool] = []
        for i, turn in enumerate(turns):
            opening = (ANSWERED if i else "") + turn.text + after + ASKED
            asked, answered = (
                self.ids(opening.removeprefix("<end_of_turn>")),
                self.ids(turn.answer + "<end_of_turn>"),
            )
            ids += asked + answered
            learnt += [False] * len(asked) + [True] * len(answered)
        return ids, learnt


@dataclass
class Row:
    """One conversation prefix with its segments and pictures."""

    prefix: list[int]
    segments: list[tuple[list[int], list[bool]]]
    pictures: list[Picture]
    scenes: list[Scene]


@dataclass
class Batch:
    """Tensors of several rows; t is the longest row.

    ids, positions, segment, block [b, t]; segment -1 is padding, 0 the prefix; block: which image a position
    belongs to, -1 for text. targets [b, t]: the next id where it is to be learnt, else -100.
    pixels [images, 3, S, S]; labels [images, patches, 4]; backgrounds [images].
    """

    ids: torch.Tensor
    positions: torch.Tensor
    segment: torch.Tensor
    block: torch.Tensor
    targets: torch.Tensor
    pixels: torch.Tensor
    labels: torch.Tensor
    backgrounds: torch.Tensor

    def masks(self, window: int) -> dict[str, torch.Tensor]:
        """What each row may look at, by kind of layer: bool [b, 1, t, t]."""
        q, k = self.positions[:, :, None], self.positions[:, None, :]
        s, z = self.segment[:, :, None], self.segment[:, None, :]
        same = (self.block[:, :, None] == self.block[:, None, :]) & (self.block[:, :, None] >= 0)
        seen = ((z == 0) | (z == s)) & ((k <= q) | same) & (z >= 0)
        seen = seen | torch.eye(seen.shape[-1], dtype=torch.bool)
        return {"full_attention": seen[:, None], "sliding_attention": (seen & (k > q - window))[:, None]}


def pixels_of(image: Image.Image) -> np.ndarray:
    """[3, S, S] as Gemma's processor makes it."""
    small = image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    return ((np.asarray(small, np.float32) - 127.5) / 127.5).transpose(2, 0, 1)


def crowded_rows(writer: Writer, rng: random.Random, count: int) -> list[Row]:
    """Pictures full of shapes or letters, without questions: for the tower alone."""
    scenes = [draw_lines(rng) if rng.random() < 0.35 else draw_crowd(rng) for _ in range(count)]
    return [Row(writer.prefix(1), [], [render(scene, rng)], [scene]) for scene in scenes]


def picture_rows(writer: Writer, rng: random.Random, count: int, most: int) -> list[Row]:
    """One picture each, six or so questions."""
    rows = []
    for _ in range(count):
        scene = draw_scene(rng, held_out=False, most=most)
        questions = ask(scene, rng, 7)
        segments = []
        while questions:
            take = 2 if len(questions) > 1 and rng.random() < 0.25 else 1
            segments.append(writer.segment(questions[:take]))
            questions = questions[take:]
        if rng.random() < 0.04:
            asked, answer = rng.choice(TALK)
            segments.append(writer.segment([Question("talk", rng.choice(asked), answer)]))
        rows.append(Row(writer.prefix(1), segments, [render(scene, rng)], [scene]))
    return rows


def pair_rows(writer: Writer, rng: random.Random, count: int) -> list[Row]:
    """Two pictures each."""
    rows = []
    for _ in range(count):
        pair = draw_pair(rng, held_out=False)
        segments = [writer.segment([question]) for question in compare(*pair, rng, 4)]
        rows.append(Row(writer.prefix(2), segments, [render(scene, rng) for scene in pair], list(pair)))
    return rows


def late_rows(writer: Writer, rng: random.Random, count: int) -> list[Row]:
    """The question first, then the picture; some rows are talk without a picture."""
    rows = []
    for i in range(count):
        start = writer.ids("<bos><start_of_turn>user\n")
        if i % 8 == 0:
            asked, answer = rng.choice(TALK)
            rows.append(Row(start, [writer.segment([Question("talk", rng.choice(asked), answer)])], [], []))
            continue
        scene = draw_scene(rng, held_out=False)
        segment = writer.segment(ask(scene, rng, 1), after=FULL_IMAGE)
        rows.append(Row(start, [segment], [render(scene, rng)], [scene]))
    return rows


def collate(rows: Sequence[Row], soft: int) -> Batch:
    """Rows as padded tensors."""
    longest = max(len(row.prefix) + sum(len(ids) for ids, _ in row.segments) for row in rows)
    ids = np.zeros((len(rows), longest), np.int64)
    positions, segment = np.zeros_like(ids), np.full_like(ids, -1)
    targets = np.full_like(ids, -100)
    for r, row in enumerate(rows):
        at = len(row.prefix)
        ids[r, :at], positions[r, :at], segment[r, :at] = row.prefix, np.arange(at), 0
        for number, (own, learnt) in enumerate(row.segments, 1):
            end = at + len(own)
            ids[r, at:end], segment[r, at:end] = own, number
            positions[r, at:end] = len(row.prefix) + np.arange(len(own))
            goal = np.where(learnt, own, -100)
            targets[r, at : end - 1] = goal[1:]
            at = end
    is_image = ids == soft
    starts = is_image & ~np.pad(is_image, ((0, 0), (1, 0)))[:, :-1]
    block = np.where(is_image, starts.cumsum(axis=1), -1)
    pictures = [picture for row in rows for picture in row.pictures]
    backgrounds = [list(BACKGROUNDS).index(scene.background) for row in rows for scene in row.scenes]
    tensors = (torch.from_numpy(array) for array in (ids, positions, segment, block, targets))
    return Batch(
        *tensors,
        torch.from_numpy(np.stack([pixels_of(picture.image) for picture in pictures])),
        torch.from_numpy(np.stack([picture.labels for picture in pictures])),
        torch.tensor(backgrounds),
    )
