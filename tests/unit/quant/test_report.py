from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console

from ostro.errors import BadTensor
from ostro.ops.tensor import FORMATS
from ostro.quant.importance import Importance
from ostro.quant.report import (
    Divergence,
    QuantizationReport,
    TensorKind,
    compare_logits,
    compare_weights,
    kind_of,
)
from ostro.quant.report_table import render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Rows = NDArray[np.float32]

Q0, Q1, DOWN = (
    "layers.0.self_attn.q_proj.weight",
    "layers.1.self_attn.q_proj.weight",
    "layers.0.mlp.down_proj.weight",
)


class Stored:
    """Weights that claim a format."""

    def __init__(self, weights: Rows, format: str) -> None:
        self.weights, self.format = weights, format
        self.rows, self.cols = weights.shape
        self.largest = 0

    def dequantize(self, start: int, stop: int) -> Rows:
        self.largest = max(self.largest, stop - start)
        return self.weights[start:stop]


class Fixed:
    """A model whose logits are given."""

    def __init__(self, logits: list[Rows]) -> None:
        self.logits = iter(logits)

    def logit_steps(self, input_ids: NDArray[np.int32], step: int) -> Iterator[Rows]:
        logits = next(self.logits)
        assert len(logits) == len(input_ids)
        return (logits[start : start + step] for start in range(0, len(logits), step))


def pairs(rng: np.random.Generator) -> tuple[list[tuple[str, Stored]], list[tuple[str, Stored]]]:
    source, quantized = [], []
    for name, shape, noise, format in (
        (Q0, (6, 64), 0.1, "Q8_0"),
        (DOWN, (5, 96), 0.2, "Q4_0"),
        (Q1, (6, 64), 0.3, "Q4_0"),
    ):
        weights = rng.standard_normal(shape).astype(np.float32)
        source.append((name, Stored(weights, "F32")))
        changed = weights + noise * rng.standard_normal(shape).astype(np.float32)
        quantized.append((name, Stored(changed.astype(np.float32), format)))
    return source, quantized


def test_weights_are_summed_up_by_kind() -> None:
    source, quantized = pairs(np.random.default_rng(0))
    seen: list[tuple[int, int]] = []
    q, down = compare_weights(source, quantized, progress=lambda done, total: seen.append((done, total)))
    assert (q.kind, q.count, q.formats, q.weights) == ("q_proj", 2, ("Q8_0", "Q4_0"), 2 * 6 * 64)
    assert q.nbytes == 6 * 2 * 34 + 6 * 2 * 18
    assert down.bits_per_weight == 4.5
    both = [np.stack([dict(side)[name].weights for name in (Q0, Q1)]) for side in (source, quantized)]
    assert q.relative_rmse == pytest.approx(
        np.linalg.norm(both[1] - both[0]) / np.linalg.norm(both[0]), rel=1e-6
    )
    assert q.weighted_rmse is None
    assert seen[-1] == (2 * 6 * 64 + 5 * 96, 2 * 6 * 64 + 5 * 96)

    report = QuantizationReport(kinds=(q, down))
    assert report.bits_per_weight == 8 * report.nbytes / (2 * 6 * 64 + 5 * 96)


def test_errors_are_weighed_by_importance() -> None:
    rng = np.random.default_rng(0)
    source, quantized = pairs(rng)
    values = {Q0: rng.random(64, np.float32), Q1: rng.random(64, np.float32)}
    q, down = compare_weights(source, quantized, Importance(values))
    error = power = 0.0
    for name, importance in values.items():
        w, changed = dict(source)[name].weights, dict(quantized)[name].weights
        error += float(((changed - w) ** 2 * importance).sum())
        power += float((w**2 * importance).sum())
    assert q.weighted_rmse == pytest.approx(math.sqrt(error / power), rel=1e-5)
    assert down.weighted_rmse is None


def test_large_matrices_are_read_by_parts() -> None:
    weights = np.ones((5000, 1024), np.float32)
    stored = Stored(weights, "F16")
    (kind,) = compare_weights([(DOWN, Stored(weights, "F32"))], [(DOWN, stored)])
    assert stored.largest == 2048
    assert kind.relative_rmse == 0


def test_inner_widths_that_were_filled_up_are_compared() -> None:
    name = "vision.encoder.layers.0.mlp.fc2.weight"
    weights = np.random.default_rng(0).standard_normal((3, 20)).astype(np.float32)
    filled = np.pad(1.5 * weights, ((0, 0), (0, 12)))
    importance = Importance({name: np.ones(32, np.float32)})
    (kind,) = compare_weights([(name, Stored(weights, "F32"))], [(name, Stored(filled, "Q8_0"))], importance)
    assert (kind.weights, kind.nbytes) == (60, 3 * 34)
    assert kind.relative_rmse == pytest.approx(0.5)
    assert kind.weighted_rmse == pytest.approx(0.5)


def test_other_shapes_are_refused() -> None:
    one = [(Q0, Stored(np.ones((2, 32), np.float32), "Q8_0"))]
    with pytest.raises(BadTensor, match=r"q_proj.*in the source nothing"):
        compare_weights([], one)
    with pytest.raises(BadTensor, match=r"quantized \[2, 32\], in the source \[4, 32\]"):
        compare_weights([(Q0, Stored(np.ones((4, 32), np.float32), "F32"))], one)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (Q0, "q_proj"),
        ("embed_tokens.weight", "embed_tokens"),
        ("vision.encoder.layers.3.mlp.fc1.weight", "vision fc1"),
        ("vision.embeddings.patch_embedding.weight", "vision patch_embedding"),
        ("projector.mm_input_projection_weight", "projector mm_input_projection"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_divergence_against_the_textbook() -> None:
    rng = np.random.default_rng(3)
    pieces = [rng.integers(0, 50, length).astype(np.int32) for length in (150, 65, 2)]
    source = [4 * rng.standard_normal((len(ids), 50)).astype(np.float32) for ids in pieces]
    quantized = [logits + rng.standard_normal(logits.shape).astype(np.float32) for logits in source]
    result = compare_logits(Fixed(source), Fixed(quantized), pieces)

    p_all, q_all, targets = [], [], []
    for ids, p, q in zip(pieces, source, quantized, strict=True):
        p_all.append(np.exp(p[:-1].astype(np.float64)))
        q_all.append(np.exp(q[:-1].astype(np.float64)))
        targets.append(ids[1:])
    p, q = (np.concatenate(side) / np.concatenate(side).sum(axis=1)[:, None] for side in (p_all, q_all))
    chosen = np.arange(len(p)), np.concatenate(targets)
    kl = (p * np.log(p / q)).sum(axis=1)
    assert result.tokens == len(p) == 149 + 64 + 1
    assert result.mean_kl == pytest.approx(kl.mean())
    assert result.p99_kl == pytest.approx(np.percentile(kl, 99))
    assert result.max_kl == pytest.approx(kl.max())
    assert result.top1_agreement == (p.argmax(axis=1) == q.argmax(axis=1)).mean()
    assert result.source_perplexity == pytest.approx(math.exp(-np.log(p[chosen]).mean()))
    assert result.perplexity == pytest.approx(math.exp(-np.log(q[chosen]).mean()))


def test_a_model_does_not_diverge_from_itself() -> None:
    ids = np.arange(9, dtype=np.int32)
    logits = np.random.default_rng(0).standard_normal((9, 20)).astype(np.float32)
    result = compare_logits(Fixed([logits]), Fixed([logits]), [ids])
    assert (result.mean_kl, result.max_kl, result.top1_agreement) == (0, 0, 1)
    assert result.perplexity == result.source_perplexity


def example() -> QuantizationReport:
    kind: dict[str, Any] = {"formats": ("Q4_K",), "weights": 1 << 20, "nbytes": 589_824}
    return QuantizationReport(
        kinds=(
            TensorKind(kind="q_proj", count=3, relative_rmse=0.0625, weighted_rmse=0.05, **kind),
            TensorKind(kind="vision fc1", count=2, relative_rmse=0.07, weighted_rmse=None, **kind),
        ),
        divergence=Divergence(
            tokens=1234,
            mean_kl=0.0321,
            p99_kl=0.456,
            max_kl=1.5,
            top1_agreement=0.9123,
            source_perplexity=20.0,
            perplexity=21.0,
        ),
    )


def test_json_has_everything() -> None:
    content = json.loads(example().to_json())
    assert content["bits_per_weight"] == 4.5
    assert content["nbytes"] == 2 * 589_824
    assert content["kinds"][0] == {
        "kind": "q_proj",
        "count": 3,
        "formats": ["Q4_K"],
        "weights": 1 << 20,
        "nbytes": 589_824,
        "relative_rmse": 0.0625,
        "weighted_rmse": 0.05,
        "bits_per_weight": 4.5,
    }
    assert content["divergence"]["p99_kl"] == 0.456
    assert json.loads(QuantizationReport(kinds=example().kinds).to_json())["divergence"] is None


def test_the_tables_show_it() -> None:
    console = Console(width=110)
    with console.capture() as shown:
        console.print(render(example()))
    text = shown.get()
    for part in (
        "q_proj",
        "Q4_K",
        "4.500",
        "6.2500%",
        "5.0000%",
        "1.1",
        "1,234 tokens",
        "91.23%",
        "(+5.00%)",
    ):
        assert part in text, part
    with console.capture() as shown:
        console.print(render(QuantizationReport(kinds=example().kinds[1:])))
    assert "weighted" not in shown.get()
    assert "perplexity" not in shown.get()


def test_every_format_has_a_size() -> None:
    for format in FORMATS.values():
        stored = Stored(np.ones((2, 2 * format.block), np.float32), format.name)
        (kind,) = compare_weights([(Q0, stored)], [(Q0, stored)])
        assert kind.nbytes == 4 * format.bytes
