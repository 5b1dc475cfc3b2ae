from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ostro.engine.sampler import Sampled, Sampler, SamplerState
from ostro.errors import EngineError
from ostro.types import Dry, Sampling
from tests.unit.engine.mock_model import NumpySelector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DRAWS = 6_400


def state(seed: int = 0, prompt: Sequence[int] = (), **sampling: Any) -> SamplerState:
    return SamplerState(Sampling(**sampling), seed, prompt)


@pytest.mark.parametrize(
    ("sampling", "count"),
    [
        ({"temperature": 0.0}, 1),
        ({"temperature": 0.0, "top_k": 50}, 1),
        ({"top_k": 50}, 50),
        ({"top_k": 64, "top_p": 0.95, "min_p": 0.1, "temperature": 0.7}, 64),
        ({"top_k": 257}, None),
        ({}, None),
        ({"top_p": 0.5}, None),
        ({"temperature": 0.0, "logprobs": 0}, None),
        ({"temperature": 0.0, "repetition_penalty": 1.1}, None),
        ({"temperature": 0.0, "presence_penalty": 0.1}, None),
        ({"temperature": 0.0, "dry": Dry(multiplier=1.0)}, None),
        ({"temperature": 0.0, "logit_bias": {3: 1.0}}, None),
        ({"temperature": 0.0, "watch": lambda _: None}, None),
    ],
)
def test_only_candidates_are_asked_for_where_nothing_else_matters(
    sampling: dict[str, Any], count: int | None
) -> None:
    sampler = Sampler(NumpySelector(), banned=[9, 5])
    best = sampler.best([state(temperature=0.0), state(**sampling)])
    assert (None if best is None else best.k) == count
    if best is not None:
        assert best.excluded.dtype == np.int32
        assert best.excluded.tolist() == [5, 9]


def test_a_step_without_rows_asks_for_one_candidate() -> None:
    best = Sampler(NumpySelector()).best([])
    assert best is not None
    assert best.k == 1


class EqualRows(NumpySelector):
    """Sorts equal rows once."""

    def top_k(self, logits: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        ids, values = super().top_k(logits[:1], k)
        return np.tile(ids, (len(logits), 1)), np.tile(values, (len(logits), 1))


def sample(
    logits: NDArray[np.float32],
    states: list[SamplerState],
    banned: Sequence[int] = (),
    selector: NumpySelector | None = None,
) -> list[Sampled]:
    results = Sampler(selector or NumpySelector(), banned).sample(logits.copy(), states)
    assert all(isinstance(result, Sampled) for result in results), results
    return [result for result in results if isinstance(result, Sampled)]


def draw(
    logits: NDArray[np.float32], count: int = DRAWS, batch: int = 64, **sampling: Any
) -> NDArray[np.int64]:
    """How often each token comes, drawn in batches by one state each."""
    states = [state(seed, **sampling) for seed in range(batch)]
    counts = np.zeros(len(logits), np.int64)
    for _ in range(count // batch):
        for result in sample(np.tile(logits, (batch, 1)), states, selector=EqualRows()):
            counts[result.token_id] += 1
    return counts


def reference(
    logits: NDArray[np.float32], sampling: Sampling, banned: Sequence[int] = ()
) -> NDArray[np.float64]:
    """Probabilities after all limits, token by token in falling order."""
    values = logits.astype(np.float64)
    for token, bias in sampling.logit_bias.items():
        values[token] += bias if bias > -100 else -math.inf
    values[list(banned)] = -math.inf
    values /= sampling.temperature
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))[: sampling.top_k]
    weights = [math.exp(values[i] - values[order[0]]) for i in order]
    total, mass, kept = sum(weights), 0.0, []
    for token, weight in zip(order, weights, strict=True):
        kept.append((token, weight))
        mass += weight
        if mass >= sampling.top_p * total:
            break
    kept = [(token, weight) for token, weight in kept if weight >= sampling.min_p * weights[0]]
    probabilities = np.zeros(len(values))
    for token, weight in kept:
        probabilities[token] = weight / sum(weight for _, weight in kept)
    return probabilities


def assert_drawn_from(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> None:
    """Chi-square at about four standard deviations; neighbouring rare tokens share a bin."""
    assert counts[probabilities == 0].sum() == 0
    observed, wanted = [0.0], [0.0]
    for count, probability in zip(counts.tolist(), probabilities.tolist(), strict=True):
        if wanted[-1] >= 8:
            observed.append(0.0)
            wanted.append(0.0)
        observed[-1] += count
        wanted[-1] += probability * float(counts.sum())
    if len(wanted) > 1:  # the last bin may be too small
        observed[-2:], wanted[-2:] = [sum(observed[-2:])], [sum(wanted[-2:])]
    freedom = max(1, len(wanted) - 1)
    chi = sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True))
    limit = freedom * (1 - 2 / (9 * freedom) + 4 * math.sqrt(2 / (9 * freedom))) ** 3  # Wilson and Hilferty
    assert chi < limit, (chi, limit)


def gaussian(size: int, width: float, seed: int = 3) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(size) * width).astype(np.float32)


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 1.7},
        {"top_k": 5},
        {"top_k": 64, "top_p": 0.95},
        {"top_k": 300},
        {"top_k": 5000, "temperature": 2.0},
        {"top_p": 0.3},
        {"top_p": 0.9},
        {"top_p": 0.999},
        {"min_p": 0.1},
        {"min_p": 0.001},
        {"top_p": 0.9, "min_p": 0.2},
        {"top_k": 20, "top_p": 0.7, "min_p": 0.05, "temperature": 1.3},
        {"logit_bias": {5: 3.0, 7: -100.0, 9: -2.0}},
    ],
    ids=str,
)
@pytest.mark.parametrize(("size", "width"), [(40, 1.5), (900, 2.0), (900, 0.3)])
def test_draws_follow_the_distribution(size: int, width: float, sampling: dict[str, Any]) -> None:
    logits = gaussian(size, width)
    counts = draw(logits, **sampling)
    assert_drawn_from(counts, reference(logits, Sampling(**sampling)))


def test_the_tail_of_an_unlimited_draw_is_exact() -> None:
    # 256 candidates hold a seventh of the mass here: most draws come from beyond them.
    logits = gaussian(3000, 0.2)
    counts = draw(logits, 12_800)
    probabilities = reference(logits, Sampling())
    assert_drawn_from(counts, probabilities)
    head = np.argsort(-logits)[:256]
    share = probabilities[head].sum()
    assert counts[head].sum() / counts.sum() == pytest.approx(share, abs=4 * math.sqrt(share / 12_800))


def test_top_p_beyond_the_first_candidates() -> None:
    logits = np.linspace(0.001, 0, 5000, dtype=np.float32)
    kept = {sample(logits[None], [state(seed, top_p=0.5)])[0].token_id for seed in range(1500)}
    assert 2400 < max(kept) < 2500
    assert min(kept) < 20


def test_a_chi_square_test_that_can_fail() -> None:
    logits = gaussian(40, 1.5)
    counts = draw(logits, temperature=1.1)
    with pytest.raises(AssertionError):
        assert_drawn_from(counts, reference(logits, Sampling()))


@pytest.mark.parametrize("temperature", [0.0, 1e-8])
def test_greedy_takes_the_best_and_of_equals_the_smaller_id(temperature: float) -> None:
    logits = np.zeros((2, 300), np.float32)
    logits[0, [17, 40, 299]] = 2.0
    assert [r.token_id for r in sample(logits, [state(temperature=temperature)] * 2)] == [17, 0]


def test_a_tiny_temperature_is_nearly_greedy_and_finite() -> None:
    logits = gaussian(500, 3.0)
    best = int(logits.argmax())
    assert {sample(logits[None], [state(s, temperature=1e-6)])[0].token_id for s in range(50)} == {best}


@pytest.mark.parametrize("sampling", [{"top_p": 0.0}, {"top_k": 1}, {"min_p": 1.0}])
def test_the_narrowest_limits_leave_the_best(sampling: dict[str, Any]) -> None:
    logits = gaussian(500, 1.0)
    best = int(logits.argmax())
    assert {sample(logits[None], [state(s, **sampling)])[0].token_id for s in range(30)} == {best}


MIXED: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.7, "top_k": 3},
    {"top_p": 0.8, "logprobs": 3},
    {"top_k": 700},
    {"min_p": 0.01},
    {"repetition_penalty": 1.4, "frequency_penalty": 0.3, "temperature": 2.0},
    {"temperature": 0.0, "logprobs": 20, "presence_penalty": 1.0},
    {"dry": Dry(multiplier=0.8), "top_p": 0.99},
]


def test_neighbours_change_nothing() -> None:
    rng = np.random.default_rng(5)
    steps = [(rng.standard_normal((len(MIXED), 1000)) * 1.2).astype(np.float32) for _ in range(30)]
    together = [state(i, [1, 2, 3], **sampling) for i, sampling in enumerate(MIXED)]
    apart = [state(i, [1, 2, 3], **sampling) for i, sampling in enumerate(MIXED)]
    for logits in steps:
        order = rng.permutation(len(MIXED))
        batched = sample(logits[order], [together[i] for i in order])
        for result, i in zip(batched, order, strict=True):
            (single,) = sample(logits[i : i + 1], [apart[i]])
            assert single == result
            together[i].observe(result.token_id)
            apart[i].observe(result.token_id)


def test_equal_seeds_draw_equally_and_others_do_not() -> None:
    logits = gaussian(300, 0.5)

    def ids(seed: int) -> list[int]:
        own = state(seed)
        return [sample(logits[None], [own])[0].token_id for _ in range(20)]

    assert ids(7) == ids(7)
    assert ids(7) != ids(8)
    assert ids(-1) == ids(2**64 - 1)


def test_banned_ids_never_come_whatever_the_bias() -> None:
    logits = gaussian(300, 1.0)
    banned = [3, 40, 299, 5000]
    states = [state(s, logit_bias={3: 100.0}) for s in range(300)]
    drawn = {r.token_id for r in sample(np.tile(logits, (300, 1)), states, banned)}
    assert not drawn.intersection(banned)


def test_a_bias_of_minus_100_bans_and_100_forces() -> None:
    logits = np.zeros((1, 50), np.float32)
    logits[0, 4] = 90.0
    assert sample(logits, [state(temperature=0.0, logit_bias={4: -100.0})])[0].token_id == 0
    hot = {sample(logits, [state(s, temperature=50.0, logit_bias={4: -100})])[0].token_id for s in range(300)}
    assert 4 not in hot
    forced = {sample(logits * 0, [state(s, logit_bias={9: 100})])[0].token_id for s in range(50)}
    assert forced == {9}


def test_a_bias_for_an_id_without_a_logit_is_passed_over() -> None:
    assert (
        sample(np.zeros((1, 10), np.float32), [state(temperature=0, logit_bias={12: 5.0})])[0].token_id == 0
    )


def test_order_of_penalties_bias_and_temperature() -> None:
    logits = np.array([[4.0, 3.0, 2.0, 1.0]], np.float32)
    own = state(
        0,
        [0],
        temperature=2.0,
        repetition_penalty=2.0,
        presence_penalty=0.5,
        logit_bias={3: 1.0},
        logprobs=4,
    )
    own.observe(1)
    (result,) = sample(logits, [own])
    # 4/2; 3/2 - 0.5; 2; 1 + 1; then all halved
    expected = np.array([2.0, 1.0, 2.0, 2.0]) / 2
    expected -= np.log(np.exp(expected).sum())
    assert result.logprob is not None
    assert dict(result.logprob.top) == pytest.approx(dict(enumerate(expected.tolist())))


def test_logprobs_are_taken_before_the_limits() -> None:
    logits = gaussian(400, 1.0)
    exact = logits / 0.5 - np.log(np.exp(logits.astype(np.float64) / 0.5).sum())
    (result,) = sample(logits[None], [state(1, temperature=0.5, top_k=2, top_p=0.9, logprobs=5)])
    assert result.logprob is not None
    assert result.logprob.logprob == pytest.approx(exact[result.token_id], abs=1e-5)
    assert [i for i, _ in result.logprob.top] == np.argsort(-logits, kind="stable")[:5].tolist()
    assert [p for _, p in result.logprob.top] == pytest.approx(np.sort(exact)[::-1][:5].tolist(), abs=1e-5)


def test_greedy_logprobs_are_those_of_temperature_1() -> None:
    logits = gaussian(400, 1.0)
    (result,) = sample(logits[None], [state(temperature=0.0, logprobs=0)])
    assert result.logprob is not None
    assert result.logprob.top == ()
    assert result.logprob.logprob == pytest.approx(logits.max() - np.log(np.exp(logits).sum()), abs=1e-5)


def test_banned_tokens_are_no_alternatives() -> None:
    (result,) = sample(np.zeros((1, 4), np.float32), [state(logprobs=4)], banned=[0, 1])
    assert result.logprob is not None
    assert dict(result.logprob.top) == pytest.approx({2: -math.log(2), 3: -math.log(2)})


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_a_broken_row_leaves_the_others_alone(fault: float) -> None:
    logits = gaussian(300, 1.0)
    broken = np.tile(logits, (3, 1))
    broken[1, 123] = fault
    results = Sampler(NumpySelector()).sample(broken, [state(s, top_k=5) for s in range(3)])
    assert isinstance(results[1], EngineError)
    assert results[1].message == "the model's logits are not finite"
    expected = sample(np.tile(logits, (3, 1)), [state(s, top_k=5) for s in range(3)])
    assert [results[0], results[2]] == [expected[0], expected[2]]


def test_all_tokens_banned_is_an_error_of_that_row_only() -> None:
    logits = np.zeros((2, 3), np.float32)
    own = state(logit_bias={0: -100, 1: -100, 2: -100})
    results = Sampler(NumpySelector()).sample(logits, [own, state(temperature=0.0)])
    assert isinstance(results[0], EngineError)
    assert results[0].message == "every token is banned"
    assert results[1] == Sampled(0, None)
