"""What quantization cost: sizes and errors of the weights, and how far the model's answers moved.

Kullback-Leibler divergence, agreement of the most probable token and perplexity are those of llama.cpp's
perplexity tool; here all tokens of a piece of text but its first are judged, not only its second half.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ostro.errors import BadTensor
from ostro.ops.tensor import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ostro.ops.protocol import Rows
    from ostro.quant.importance import Importance

    Progress = Callable[[int, int], None]

_TABLES = ("embed_tokens.weight", "lm_head.weight")
"""Whose rows without a piece of text are left out of GGUF files."""
_INNER = re.compile(r"vision\.encoder\.layers\.\d+\.mlp\.fc[12]\.weight", re.ASCII)
"""Matrices that may have been filled up with zeros when they were quantized."""
BLOCK_WEIGHTS = 1 << 21
"""Weights that are dequantized at a time: 8 MiB as float32."""
LOGIT_ROWS, SLICE = 64, 8
"""Tokens that a model computes at a time, whose logits are 64 MiB, and those that are compared at a time."""


class ReadableMatrix(Protocol):
    """A matrix that can be looked into."""

    @property
    def rows(self) -> int:
        """Output width."""

    @property
    def cols(self) -> int:
        """Input width."""

    @property
    def format(self) -> str:
        """One of `FORMATS`."""

    def dequantize(self, start: int, stop: int) -> Rows:
        """Rows start:stop as float32 [stop - start, cols]."""


class Judged(Protocol):
    """A model that tells its logits; see `ostro.evaluation.Model`."""

    def logit_steps(self, input_ids: NDArray[np.int32], step: int) -> Iterator[Rows]:
        """Logits of all the ids, in parts of at most `step` rows, the same for every model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorKind:
    """All matrices of a kind, such as "q_proj" or "vision fc1".

    weights: their number in the source. nbytes: of the quantized ones. relative_rmse: sqrt(sum (q - w)^2 /
    sum w^2) over all weights w. weighted_rmse: the same, squares times the importance of their columns.
    """

    kind: str
    count: int
    formats: tuple[str, ...]
    weights: int
    nbytes: int
    relative_rmse: float
    weighted_rmse: float | None

    @property
    def bits_per_weight(self) -> float:
        """Of the quantized matrices, scales included."""
        return 8 * self.nbytes / self.weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Of a quantized model from its source, over `tokens` tokens; in nats.

    mean_kl, p99_kl, max_kl: Kullback-Leibler divergence D(source || quantized) of the next token's
    distribution. top1_agreement: share of tokens after which both find the same one most probable.
    """

    tokens: int
    mean_kl: float
    p99_kl: float
    max_kl: float
    top1_agreement: float
    source_perplexity: float
    perplexity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationReport:
    """Of matrices alone: norms and biases, a thousandth of a model, stay as they are."""

    kinds: tuple[TensorKind, ...]
    divergence: Divergence | None = None

    @property
    def nbytes(self) -> int:
        """Of all quantized matrices."""
        return sum(kind.nbytes for kind in self.kinds)

    @property
    def bits_per_weight(self) -> float:
        """Over all matrices."""
        return 8 * self.nbytes / sum(kind.weights for kind in self.kinds)

    def to_json(self) -> str:
        """An object with the fields of this class, sizes in bytes."""
        content: dict[str, Any] = dataclasses.asdict(self)
        for entry, kind in zip(content["kinds"], self.kinds, strict=True):
            entry["bits_per_weight"] = kind.bits_per_weight
        return json.dumps(
            content | {"nbytes": self.nbytes, "bits_per_weight": self.bits_per_weight}, indent=2
        )


def compare_weights(
    source: Iterable[tuple[str, ReadableMatrix]],
    quantized: Iterable[tuple[str, ReadableMatrix]],
    importance: Importance | None = None,
    progress: Progress | None = None,
) -> tuple[TensorKind, ...]:
    """The kinds of matrices in the order in which they first appear among the quantized ones.

    Both sides: (canonical name, matrix). progress: told about (done, total) weights.
    BadTensor when the source lacks a matrix or has it in another shape.
    """
    originals = dict(source)
    pairs = [(name, matrix, _original(originals, name, matrix)) for name, matrix in quantized]
    total = sum(min(matrix.rows, original.rows) * original.cols for _, matrix, original in pairs)
    kinds: dict[str, _Errors] = {}
    done = 0
    for name, matrix, original in pairs:
        errors = kinds.setdefault(kind_of(name), _Errors())
        errors.add(matrix, original, None if importance is None else importance.get(name))
        step = max(1, BLOCK_WEIGHTS // matrix.cols)
        rows = min(original.rows, matrix.rows)
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            stored = matrix.dequantize(start, stop)[:, : original.cols]
            errors.compare(original.dequantize(start, stop), stored)
            done += (stop - start) * original.cols
            if progress is not None:
                progress(done, total)
    return tuple(errors.result(kind) for kind, errors in kinds.items())


def kind_of(name: str) -> str:
    """A canonical name's last part, with "vision" or "projector" in front if it is of these."""
    half = name.partition(".")[0]
    part = re.sub(r"[._]weight$", "", name).rpartition(".")[2]
    return f"{half} {part}" if half in ("vision", "projector") else part


def compare_logits(
    source: Judged,
    quantized: Judged,
    pieces: Sequence[NDArray[np.int32]],
    progress: Progress | None = None,
) -> Divergence:
    """Run both models side by side over pieces of text (see `ostro.quant.windows`), [at least 2] ids each.

    progress: told about (done, total) tokens.
    """
    total = sum(len(ids) - 1 for ids in pieces)
    sums = _Divergences()
    for ids in pieces:
        steps = zip(source.logit_steps(ids, LOGIT_ROWS), quantized.logit_steps(ids, LOGIT_ROWS), strict=True)
        at = 0
        for p_logits, q_logits in steps:
            targets = ids[at + 1 : at + 1 + len(p_logits)]  # the last token has no next one
            at += len(p_logits)
            for start in range(0, len(targets), SLICE):
                part = targets[start : start + SLICE]
                rows = slice(start, start + len(part))
                known = p_logits[rows, : q_logits.shape[1]]
                sums.add(_log_softmax(known), _log_softmax(q_logits[rows]), part)
                if progress is not None:
                    progress(sums.tokens, total)
    return sums.result()


class _Divergences:
    """Sums over tokens."""

    def __init__(self) -> None:
        self.kl: list[NDArray[np.float64]] = []
        self.source_loss = self.loss = 0.0
        self.tokens = self.agree = 0

    def add(self, p: NDArray[np.float64], q: NDArray[np.float64], targets: NDArray[np.int32]) -> None:
        """p, q: log-probabilities [n, V] of the source and of the quantized model; both are overwritten."""
        rows = np.arange(len(targets))
        self.tokens += len(targets)
        self.source_loss -= float(p[rows, targets].sum())
        self.loss -= float(q[rows, targets].sum())
        self.agree += int(np.count_nonzero(p.argmax(axis=1) == q.argmax(axis=1)))
        np.subtract(p, q, out=q)
        np.exp(p, out=p)
        self.kl.append(np.maximum(np.einsum("ij,ij->i", p, q), 0.0))  # rounding may leave -1e-17

    def result(self) -> Divergence:
        each = np.concatenate(self.kl)
        return Divergence(
            tokens=self.tokens,
            mean_kl=float(each.mean()),
            p99_kl=float(np.percentile(each, 99)),
            max_kl=float(each.max()),
            top1_agreement=self.agree / self.tokens,
            source_perplexity=math.exp(self.source_loss / self.tokens),
            perplexity=math.exp(self.loss / self.tokens),
        )


def _log_softmax(logits: Rows) -> NDArray[np.float64]:
    result = logits.astype(np.float64)
    result -= result.max(axis=1, keepdims=True)
    result -= np.log(np.exp(result).sum(axis=1, keepdims=True))
    return result


def _original(originals: dict[str, ReadableMatrix], name: str, matrix: ReadableMatrix) -> ReadableMatrix:
    original = originals.get(name)
    if original is not None:
        more = (matrix.rows - original.rows, matrix.cols - original.cols)
        filled_up = _INNER.fullmatch(name) and min(more) >= 0
        cut = name in _TABLES and more[0] <= 0 and more[1] == 0
        if more == (0, 0) or filled_up or cut:
            return original
    found = "nothing" if original is None else f"[{original.rows}, {original.cols}]"
    raise BadTensor(
        f"{name}: quantized [{matrix.rows}, {matrix.cols}], in the source {found}; "
        "compare a model with the one that it was made of"
    )


class _Errors:
    """Sums over the matrices of a kind."""

    def __init__(self) -> None:
        self.count = self.weights = self.nbytes = 0
        self.formats: dict[str, None] = {}
        self.error = self.power = 0.0
        self.weighted_error = self.weighted_power = 0.0
        self.weighed = True
        self.importance: NDArray[np.float64] | None = None

    def add(self, matrix: ReadableMatrix, original: ReadableMatrix, importance: Rows | None) -> None:
        self.count += 1
        self.weights += min(matrix.rows, original.rows) * original.cols
        self.nbytes += matrix.rows * FORMATS[matrix.format].row_bytes(matrix.cols)
        self.formats[matrix.format] = None
        self.importance = None if importance is None else importance[: original.cols].astype(np.float64)
        self.weighed &= importance is not None

    def compare(self, original: Rows, quantized: Rows) -> None:
        difference = quantized - original
        error = np.einsum("ij,ij->j", difference, difference, dtype=np.float64)
        power = np.einsum("ij,ij->j", original, original, dtype=np.float64)
        self.error += float(error.sum())
        self.power += float(power.sum())
        if self.importance is not None:
            self.weighted_error += float(error @ self.importance)
            self.weighted_power += float(power @ self.importance)

    def result(self, kind: str) -> TensorKind:
        return TensorKind(
            kind=kind,
            count=self.count,
            formats=tuple(self.formats),
            weights=self.weights,
            nbytes=self.nbytes,
            relative_rmse=_root_ratio(self.error, self.power),
            weighted_rmse=_root_ratio(self.weighted_error, self.weighted_power) if self.weighed else None,
        )


def _root_ratio(error: float, power: float) -> float:
    return 0.0 if error == 0 else math.sqrt(error / power) if power else math.inf
