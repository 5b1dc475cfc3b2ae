"""32k tokens on the real 270m: the fast path against float32 compute at the end of a long document."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ostro.evaluation import load_model
from ostro.loading.open import open_checkpoint
from ostro.prompt.tokenizer import load_tokenizer

from .test_real_270m import log_sum_exp

if TYPE_CHECKING:
    from pathlib import Path

LENGTH = 32_700
LAST = 64
PORTS = ["Aalborg", "Bergen", "Cork", "Dakar", "Esbjerg", "Fremantle", "Gdynia", "Haifa"]
GOODS = ["timber", "copper wire", "dried figs", "wool", "sheet glass", "coffee", "machine parts", "salt"]


def document(lines: int) -> str:
    """A harbour's log book; the first entry says what the last one asks."""
    rng = random.Random(11)
    text = ["The harbour master of the year was Ingeborg Halvorsen-Quist.\n"]
    text += [
        f"Day {day}: the ship from {rng.choice(PORTS)} brought {rng.randint(2, 900)} crates of "
        f"{rng.choice(GOODS)}, {rng.choice(['inspected', 'stored', 'sold'])} by noon.\n"
        for day in range(1, lines)
    ]
    return "".join(text)


@pytest.mark.timeout(900)
def test_end_of_a_32k_document_equals_f32_compute(real_file: Path) -> None:
    source = open_checkpoint(real_file).tokenizer
    assert source is not None
    tokenizer = load_tokenizer(source)
    ids = np.array([2, *tokenizer.encode(document(1500), control=False)], np.int32)
    assert len(ids) >= LENGTH
    ids = ids[:LENGTH]

    exact = load_model(real_file, compute="f32").logits(ids, last=LAST)
    fast = load_model(real_file).logits(ids, last=LAST)
    exact, fast = (logits - log_sum_exp(logits)[:, None].astype(np.float32) for logits in (exact, fast))

    top = np.argsort(-exact, axis=1)[:, :32]
    difference = np.abs(np.take_along_axis(fast, top, 1) - np.take_along_axis(exact, top, 1))
    assert difference.mean() <= 0.05
    assert (fast.argmax(axis=1) == exact.argmax(axis=1)).mean() >= 0.95
    # It still reads the document: the log book's next words are far from a guess among 262,144 tokens.
    nll = -float(np.mean(exact[np.arange(LAST - 1), ids[-LAST + 1 :]]))
    assert nll < 1.5
