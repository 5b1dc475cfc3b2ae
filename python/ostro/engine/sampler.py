"""From logits to tokens.

Order: DRY, repetition, frequency and presence penalties, logit_bias, banned ids, temperature, top-k, top-p
over what top-k left, min-p, draw. A sequence's choice depends on its own row and random numbers, never on its
neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from ostro.engine.penalties import CountPenalties, DryPenalty
from ostro.errors import EngineError
from ostro.ops.batch import Best
from ostro.types import TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from ostro.engine.penalties import Penalty
    from ostro.types import Sampling

    Logits = NDArray[np.float32]

GREEDY_BELOW = 1e-7
"""Temperatures below this mean greedy."""

BAN_BIAS = -100.0
"""A logit_bias at or below this bans the token."""

VOCABULARY = 1 << 31
"""More tokens than any model has."""

_HEAD = 256  # candidates that nearly always settle a draw without top-k
_WIDEN = 16


class Selector(Protocol):
    """The two reductions of a vocabulary-wide row that a sampler needs; `ostro.ops.protocol.Ops` has them."""

    def top_k(self, logits: Logits, k: int) -> tuple[NDArray[np.int32], Logits]:
        """The k largest of each row [w, V], falling, smaller ids first: ids and values, both [w, k]."""

    def log_sum_exp(self, logits: Logits) -> NDArray[np.float64]:
        """log(sum(exp(row))) of each row [w, V]: [w]."""


class Sampled(NamedTuple):
    """A chosen token; logprob is None unless asked for."""

    token_id: int
    logprob: TokenLogprob | None


class SamplerState:
    """What one sequence brings to the sampler: its parameters, penalties and random numbers.

    seed: any integer; equal seeds give equal draws. breakers: ids at which DRY stops following a repetition.
    """

    def __init__(
        self, sampling: Sampling, seed: int, prompt_ids: Sequence[int], breakers: Collection[int] = ()
    ) -> None:
        self.sampling = sampling
        self.greedy = sampling.temperature < GREEDY_BELOW
        self.scale = 1.0 if self.greedy else 1.0 / sampling.temperature
        self.random = np.random.Generator(np.random.PCG64(seed % 2**64))
        self.penalties: list[Penalty] = []
        if sampling.dry is not None and sampling.dry.multiplier:
            self.penalties.append(DryPenalty(sampling.dry, breakers, prompt_ids))
        if sampling.repetition_penalty != 1.0 or sampling.frequency_penalty or sampling.presence_penalty:
            self.penalties.append(CountPenalties(sampling, prompt_ids))
        self._bias_ids = np.array(list(sampling.logit_bias), np.int64)
        bias = np.array(list(sampling.logit_bias.values()), np.float32)
        self._bias = np.where(bias <= BAN_BIAS, np.float32(-np.inf), bias)

    def width(self, vocab: int) -> int:
        """Candidates to draw from."""
        if self.greedy:
            return 1
        top_k = self.sampling.top_k
        return min(vocab, _HEAD if top_k is None or top_k >= vocab else top_k)

    def columns(self, vocab: int) -> int:
        """Candidates needed for drawing and reporting."""
        return max(self.width(vocab), min(vocab, self.sampling.logprobs or 0))

    def unlimited(self, vocab: int) -> bool:
        """Whether tokens beyond the candidates may be drawn as well."""
        top_k = self.sampling.top_k
        return not self.greedy and vocab > _HEAD and (top_k is None or top_k >= vocab)

    def needs_all(self) -> bool:
        """Whether logits beyond those of the candidates matter."""
        sampling = self.sampling
        reads = bool(self.penalties) or len(self._bias_ids) > 0 or sampling.watch is not None
        return reads or sampling.logprobs is not None or (not self.greedy and sampling.top_k is None)

    def adjust(self, row: Logits) -> None:
        """Show the logits [V] to who watches, then apply penalties and logit_bias in place."""
        if self.sampling.watch is not None:
            self.sampling.watch(row)
        for penalty in self.penalties:
            penalty.apply(row)
        if len(self._bias_ids):
            known = self._bias_ids < len(row)
            row[self._bias_ids[known]] += self._bias[known]

    def observe(self, token_id: int) -> None:
        """The sequence has got this token."""
        for penalty in self.penalties:
            penalty.observe(token_id)


class Sampler:
    """Chooses one token for each row of a step. banned: ids that no sequence ever emits."""

    def __init__(self, selector: Selector, banned: Sequence[int] = ()) -> None:
        self._selector = selector
        self._banned = np.array(sorted(banned), np.int32)

    def best(self, states: Sequence[SamplerState]) -> Best | None:
        """Which logits of each row `sample` is going to look at; None: all."""
        if any(state.needs_all() for state in states):
            return None
        count = max((state.columns(VOCABULARY) for state in states), default=1)
        return Best(count, self._banned) if count <= _HEAD else None

    def sample(self, logits: Logits, states: Sequence[SamplerState]) -> list[Sampled | EngineError]:
        """One token, or what is wrong with the row, for each row of logits [w, V], which are overwritten."""
        vocab = logits.shape[1]
        with np.errstate(all="ignore"):
            sound = np.isfinite(logits.sum(axis=1))
        if not sound.all():
            logits[~sound] = 0.0
        for row, state in zip(logits, states, strict=True):
            state.adjust(row)
        logits[:, self._banned[: self._banned.searchsorted(vocab)]] = -np.inf
        for i, state in enumerate(states):
            if state.scale != 1.0:
                logits[i] *= np.float32(state.scale)
        broken = EngineError("the model's logits are not finite")
        results: list[Sampled | EngineError] = [broken] * len(states)
        together = [i for i, state in enumerate(states) if state.columns(vocab) <= _HEAD]
        alone = [[i] for i, state in enumerate(states) if state.columns(vocab) > _HEAD]
        for rows in [together, *alone]:
            if rows:
                part = logits if len(rows) == len(states) else logits[rows]
                for i, result in zip(rows, self._choose(part, [states[i] for i in rows]), strict=True):
                    if sound[i]:
                        results[i] = result
        return results

    def _choose(self, logits: Logits, states: Sequence[SamplerState]) -> list[Sampled | EngineError]:
        vocab = logits.shape[1]
        ids, values = self._selector.top_k(logits, max(state.columns(vocab) for state in states))
        sums = self._log_sums(logits, states)
        columns = [0] * len(states)
        numbers = [0.0] * len(states)
        drawing = [i for i, state in enumerate(states) if not state.greedy and values[i, 0] > -np.inf]
        if drawing:
            for i in drawing:
                numbers[i] = states[i].random.random()
            plan = _Plan([states[i] for i in drawing], vocab, sums[drawing], np.array(numbers)[drawing])
            part = values if len(drawing) == len(states) else values[drawing]
            for i, column in zip(drawing, plan.draw(part).tolist(), strict=True):
                columns[i] = column
        results: list[Sampled | EngineError] = []
        for i, (state, column) in enumerate(zip(states, columns, strict=True)):
            if values[i, 0] == -np.inf:
                results.append(EngineError("every token is banned"))
                continue
            head = _Head(logits[i], ids[i], values[i], float(sums[i]))
            token_id = int(ids[i, column]) if column >= 0 else self._widen(head, state, numbers[i])
            count = state.sampling.logprobs
            results.append(Sampled(token_id, None if count is None else head.report(token_id, count)))
        return results

    def _log_sums(self, logits: Logits, states: Sequence[SamplerState]) -> NDArray[np.float64]:
        vocab = logits.shape[1]
        needed = [state.sampling.logprobs is not None or state.unlimited(vocab) for state in states]
        if all(needed):
            return self._selector.log_sum_exp(logits)
        sums = np.zeros(len(states))
        if any(needed):
            sums[needed] = self._selector.log_sum_exp(logits[needed])
        return sums

    def _widen(self, head: _Head, state: SamplerState, number: float) -> int:
        """Draw from the whole row, for the rare numbers that the first candidates do not settle."""
        vocab = len(head.row)
        width = state.width(vocab)
        if state.sampling.top_p >= 1.0 and state.sampling.min_p <= 0.0:
            return head.draw_beyond(width, number)
        while True:
            width = min(vocab, width * _WIDEN)
            ids, values = self._selector.top_k(head.row[None], width)
            plan = _Plan([state], vocab, np.array([head.log_sum]), np.array([number]), width)
            column = int(plan.draw(values)[0])
            if column >= 0:
                return int(ids[0, column])


class _Plan:
    """The limits of several rows as arrays [r]."""

    def __init__(
        self,
        states: Sequence[SamplerState],
        vocab: int,
        log_sums: NDArray[np.float64],
        numbers: NDArray[np.float64],
        width: int | None = None,
    ) -> None:
        self.widths = np.array([width or state.width(vocab) for state in states])
        self.unlimited = np.array([state.unlimited(vocab) and width != vocab for state in states])
        self.top_p = np.array([s.sampling.top_p if s.sampling.top_p < 1.0 else np.inf for s in states])
        self.min_p = np.array([s.sampling.min_p for s in states])
        self.log_sums = log_sums
        self.numbers = numbers

    def draw(self, values: Logits) -> NDArray[np.int64]:
        """The drawn column of each row of candidates [r, k] in falling order; -1 where more must be known."""
        rows = np.arange(len(values))
        best = values[:, :1].astype(np.float64)
        weights = np.exp(values - best)
        if self.widths.min() < values.shape[1]:
            weights[np.arange(values.shape[1]) >= self.widths[:, None]] = 0.0
        # Running sums do not depend on how many columns the widest row has; pairwise sums would.
        mass = weights.cumsum(axis=1)
        head = mass[rows, self.widths - 1]
        unlimited = self.unlimited.any()
        total = np.where(self.unlimited, np.exp(self.log_sums - best[:, 0]), head) if unlimited else head
        keep = (mass < (self.top_p * total)[:, None]).sum(axis=1) + 1
        if self.min_p.any():
            strong = (weights >= self.min_p[:, None]).sum(axis=1)
            # If all candidates are strong enough, those beyond them may be as well.
            keep = np.where((self.min_p > 0.0) & (strong < self.widths), np.minimum(keep, strong), keep)
        open_end = self.unlimited & (keep > self.widths)
        kept = mass[rows, np.minimum(keep, self.widths) - 1]
        if unlimited:
            free = open_end & (self.top_p > 1.0) & (self.min_p <= 0.0)
            kept = np.where(free, total, kept)
        target = np.minimum(self.numbers * kept, np.nextafter(kept, 0.0))
        columns: NDArray[np.int64] = (mass <= target[:, None]).sum(axis=1)
        if unlimited:
            columns[np.where(free, target >= head, open_end)] = -1
        return columns


class _Head(NamedTuple):
    """A row [V], its best candidates in falling order [k] and the logarithm of its sum of exponentials."""

    row: Logits
    ids: NDArray[np.int32]
    values: Logits
    log_sum: float

    def draw_beyond(self, width: int, number: float) -> int:
        """The token at `number` of the mass when the first `width` come first and the others follow by id."""
        best = float(self.values[0])
        mass = float(np.exp(self.values[:width].astype(np.float64) - best).cumsum()[-1])
        total = float(np.exp(self.log_sum - best))
        weights = np.exp(self.row.astype(np.float64) - best)
        weights[self.ids[:width]] = 0.0
        sums = weights.cumsum()
        rest = float(sums[-1])
        if rest <= 0.0 or total <= mass:
            return int(self.ids[width - 1])
        target = max(0.0, (number * total - mass) / (total - mass)) * rest
        return int(sums.searchsorted(min(target, float(np.nextafter(rest, 0.0))), side="right"))

    def report(self, token_id: int, count: int) -> TokenLogprob:
        """The token's log-probability beside those of the `count` best."""
        best = zip(self.ids[:count].tolist(), self.values[:count].tolist(), strict=True)
        top = tuple((i, value - self.log_sum) for i, value in best if value > -np.inf)
        return TokenLogprob(token_id, float(self.row[token_id]) - self.log_sum, top)
