"""The two stages: the tower learns to see through throw-away heads, then everything learns to answer.

Schedules go by the clock, so that a run of any length ends annealed; it can be stopped and resumed.
"""

from __future__ import annotations

import copy
import json
import math
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from .batches import Batch, Row, Writer, collate, crowded_rows, late_rows, pair_rows, picture_rows
from .evaluate import accuracy
from .model import make_model
from .muon import Muon
from .scenes import BACKGROUNDS, COLOURS, GLYPHS, SHAPES, SIZES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tokenizers import Tokenizer
    from transformers import Gemma3ForConditionalGeneration

TOWER_SHARE = 0.25
"""Part of the time that goes to the tower alone."""
SAVE_SECONDS = 180
EVALUATE_SECONDS = 420


class Heads(nn.Module):
    """What each patch shows: only for training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        classes = (len(SHAPES) + 1, len(COLOURS) + 1, len(SIZES) + 1, len(GLYPHS) + 1)
        self.parts = nn.ModuleList(nn.Linear(width, count) for count in classes)
        self.background = nn.Linear(width, len(BACKGROUNDS))

    def forward(self, features: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, list[float]]:
        """Loss, and accuracy of each head over the patches that show something."""
        loss = functional.cross_entropy(self.background(features.mean(1)), batch.backgrounds)
        right = []
        for i, head in enumerate(self.parts):
            scores, labels = head(features).flatten(0, 1), batch.labels[..., i].flatten()
            weight = torch.where(labels > 0, 1.0, 0.1)
            each = functional.cross_entropy(scores, labels, reduction="none")
            loss = loss + (each * weight).sum() / weight.sum()
            shown = labels > 0
            right.append((scores.argmax(-1) == labels)[shown].float().mean().item() if shown.any() else 1.0)
        return loss, right


@dataclass
class Progress:
    """What is needed to go on, beside weights and optimizer."""

    seconds: float = 0.0
    steps: int = 0
    images: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)


class Training:
    """One run in `folder`, `minutes` long in all."""

    def __init__(self, tokenizer: Tokenizer, folder: Path, minutes: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.rng = random.Random(f"training {seed}")
        self.writer = Writer(tokenizer)
        self.folder = folder
        self.total = minutes * 60
        self.model = make_model(tokenizer.get_vocab())
        self.window = self.model.config.text_config.sliding_window
        self.heads = Heads(self.model.config.vision_config.hidden_size)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        hidden = [p for name, p in self.model.named_parameters() if ".layers." in name and p.ndim == 2]
        known = {id(p) for p in hidden}
        rest = [p for p in self.parameters() if id(p) not in known]
        self.muon = Muon(hidden)
        self.adam = torch.optim.AdamW(rest, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
        self.progress = Progress()

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of the model and of the heads."""
        yield from self.model.parameters()
        yield from self.heads.parameters()

    def run(self) -> None:
        """Train to the end."""
        progress = self.progress
        saved = evaluated = shown = progress.seconds
        while progress.seconds < self.total:
            started = time.perf_counter()
            in_tower = progress.seconds < TOWER_SHARE * self.total
            rate = self._rate()
            for group in self.muon.param_groups:
                group["lr"] = rate
            for group in self.adam.param_groups:
                group["lr"] = rate / 2
            batch = self._tower_batch() if in_tower else self._answer_batch()
            loss, shares = self._tower_loss(batch) if in_tower else self._answer_loss(batch)
            self.muon.zero_grad()
            self.adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(list(self.parameters()), 1.0)
            self.muon.step()
            self.adam.step()
            self._follow(0.0 if in_tower else min(0.995, progress.steps / (progress.steps + 100)))
            progress.steps += 1
            progress.images += len(batch.pixels)
            progress.seconds += time.perf_counter() - started
            if progress.seconds - shown > 15:
                shown = progress.seconds
                self._note({"lr": round(rate, 6), **shares})
            if progress.seconds - evaluated > EVALUATE_SECONDS and not in_tower:
                evaluated = progress.seconds
                self._note({"held_out": accuracy(self.average, self.writer, 200)})
            if progress.seconds - saved > SAVE_SECONDS:
                saved = progress.seconds
                self.save()
        self.save()

    def save(self) -> None:
        """Everything that `resume` needs."""
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "average": self.average.state_dict(),
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
            "progress": vars(self.progress),
            "rng": self.rng.getstate(),
            "torch_rng": torch.get_rng_state(),
        }
        part = self.folder / "checkpoint.part"
        torch.save(state, part)
        part.replace(self.folder / "checkpoint.pt")

    def resume(self) -> None:
        """Go on from the last save."""
        state = torch.load(self.folder / "checkpoint.pt", weights_only=False)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.average.load_state_dict(state["average"])
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        self.progress = Progress(**state["progress"])
        self.rng.setstate(state["rng"])
        torch.set_rng_state(state["torch_rng"])

    def _rate(self) -> float:
        """Warm-up and cosine, for each stage anew."""
        begin, end, peak, last = 0.0, TOWER_SHARE * self.total, 4e-3, 1e-3
        if self.progress.seconds >= end:
            begin, end, peak, last = end, self.total, 3e-3, 2e-5
        share = (self.progress.seconds - begin) / (end - begin)
        warm = min(1.0, (self.progress.seconds - begin) / 30 + 0.02)
        return warm * (last + (peak - last) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))

    def _tower_batch(self) -> Batch:
        return self._collate(crowded_rows(self.writer, self.rng, 24))

    def _answer_batch(self) -> Batch:
        kind = self.progress.steps % 6
        if kind == 2:
            return self._collate(pair_rows(self.writer, self.rng, 20))
        if kind == 5:
            return self._collate(late_rows(self.writer, self.rng, 40))
        return self._collate(picture_rows(self.writer, self.rng, 32, most=4))

    def _collate(self, rows: list[Row]) -> Batch:
        return collate(rows, self.writer.soft)

    def _tower_loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        features = self.model.model.vision_tower(batch.pixels).last_hidden_state
        loss, right = self.heads(features, batch)
        return loss, {"loss": round(loss.item(), 4), "patches": [round(value, 3) for value in right]}

    def _answer_loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        features = self.model.model.vision_tower(batch.pixels).last_hidden_state
        aux, right = self.heads(features, batch)
        scores, targets = answer_scores(self.model, batch, features, self.writer.soft, self.window)
        loss = functional.cross_entropy(scores, targets)
        shares = {
            "loss": round(loss.item(), 4),
            "tokens": round((scores.argmax(-1) == targets).float().mean().item(), 4),
            "patches": [round(value, 3) for value in right],
        }
        return loss + 0.15 * aux, shares

    @torch.no_grad()
    def _follow(self, keep: float) -> None:
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1 - keep)

    def _note(self, values: dict[str, Any]) -> None:
        progress = self.progress
        line = {
            "minutes": round(progress.seconds / 60, 2),
            "steps": progress.steps,
            "images": progress.images,
            **values,
        }
        progress.curve.append(line)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def answer_scores(
    model: Gemma3ForConditionalGeneration, batch: Batch, features: torch.Tensor, soft: int, window: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores [m, V] of the m tokens that are to be learnt, and the tokens."""
    text = model.model.language_model
    rows = model.model.multi_modal_projector(features)
    x = text.embed_tokens(batch.ids)
    x = x.masked_scatter((batch.ids == soft)[..., None], rows)
    hidden = text(
        inputs_embeds=x, attention_mask=batch.masks(window), position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    learnt = batch.targets >= 0
    return model.lm_head(hidden[learnt]), batch.targets[learnt]
