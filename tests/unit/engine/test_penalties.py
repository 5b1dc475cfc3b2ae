from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostro.engine.penalties import MAX_MATCH, Breakers, CountPenalties, DryPenalty
from ostro.types import Dry, Sampling
from tests.unit.engine.mock_model import MockVocabulary

SMALL = st.lists(st.integers(0, 4), max_size=80)


def plain_dry(logits: np.ndarray, dry: Dry, breakers: set[int], ids: list[int]) -> np.ndarray:
    """The definition, place by place."""
    out = logits.astype(np.float64)
    if not ids or ids[-1] in breakers:
        return out
    longest: dict[int, int] = {}
    for end in range(len(ids) - 1):
        if ids[end] != ids[-1] or ids[end + 1] in breakers:
            continue
        length = 1
        while length < MAX_MATCH and length <= end:
            token = ids[-1 - length]
            if ids[end - length] != token or token in breakers:
                break
            length += 1
        longest[ids[end + 1]] = max(longest.get(ids[end + 1], 0), length)
    for token, length in longest.items():
        if length >= dry.allowed_length:
            out[token] -= dry.multiplier * dry.base ** (length - dry.allowed_length)
    return out


@given(
    prompt=SMALL,
    answer=SMALL,
    breakers=st.sets(st.integers(0, 4), max_size=2),
    allowed=st.integers(1, 5),
    repeat=st.integers(1, 3),
)
@settings(max_examples=300, deadline=None)
def test_dry_is_its_definition(
    prompt: list[int], answer: list[int], breakers: set[int], allowed: int, repeat: int
) -> None:
    prompt = prompt * repeat
    dry = Dry(multiplier=0.8, base=1.1, allowed_length=allowed)
    penalty = DryPenalty(dry, breakers, prompt)
    logits = np.linspace(-2, 2, 5, dtype=np.float32)
    ids = list(prompt)
    for token in [*answer, None]:
        row = logits.copy()
        penalty.apply(row)
        np.testing.assert_allclose(row, plain_dry(logits, dry, breakers, ids), rtol=1e-5, atol=1e-5)
        if token is not None:
            ids.append(token)
            penalty.observe(token)


def test_dry_caps_the_match_and_stays_finite() -> None:
    dry = Dry(multiplier=1.0, base=1e30)
    row = np.zeros(4, np.float32)
    penalty = DryPenalty(dry, (), [1] * 500)
    penalty.apply(row)
    assert row[1] == np.float32(-1e30)
    assert (row[[0, 2, 3]] == 0).all()
    capped = DryPenalty(Dry(multiplier=1.0, base=2.0), (), [1] * 500)
    row = np.zeros(4, np.float32)
    capped.apply(row)
    assert row[1] == -(2.0 ** (MAX_MATCH - 2))


def test_dry_passes_over_ids_without_a_logit() -> None:
    row = np.zeros(4, np.float32)
    DryPenalty(Dry(multiplier=1.0, allowed_length=1), (), [9, 9, 9]).apply(row)
    assert (row == 0).all()


def test_dry_follows_a_long_context_quickly() -> None:
    rng = np.random.default_rng(0)
    # One token in ten is the same, as with commas in a real text.
    ids = np.where(rng.random(32_000) < 0.1, 7, rng.integers(0, 5000, 32_000)).tolist()
    start = time.process_time()
    penalty = DryPenalty(Dry(multiplier=0.8), (), ids)
    assert time.process_time() - start < 1.0
    row = np.zeros(5000, np.float32)
    start = time.process_time()
    for token in [7, 3, 7, 11] * 25:
        penalty.observe(token)
        penalty.apply(row)
    assert (time.process_time() - start) / 100 < 2e-3


@given(
    prompt=SMALL,
    answer=SMALL,
    repetition=st.sampled_from([1.0, 1.3, 0.7]),
    frequency=st.sampled_from([0.0, 0.5, -1.0]),
    presence=st.sampled_from([0.0, 1.5, -0.5]),
)
@settings(max_examples=200, deadline=None)
def test_counts_are_their_definition(
    prompt: list[int], answer: list[int], repetition: float, frequency: float, presence: float
) -> None:
    sampling = Sampling(repetition_penalty=repetition, frequency_penalty=frequency, presence_penalty=presence)
    penalties = CountPenalties(sampling, prompt)
    for token in answer:
        penalties.observe(token)
    logits = np.array([-3.0, -0.5, 0.0, 0.5, 3.0], np.float32)
    row = logits.copy()
    penalties.apply(row)
    for token, logit in enumerate(logits.tolist()):
        expected = logit
        if token in prompt or token in answer:
            expected = logit / repetition if logit > 0 else logit * repetition
        if token in answer:
            expected -= frequency * answer.count(token) + presence
        assert row[token] == pytest.approx(expected, abs=1e-5)


def test_repetition_passes_over_ids_without_a_logit() -> None:
    row = np.ones(4, np.float32)
    CountPenalties(Sampling(repetition_penalty=2.0), [1, 262_144]).apply(row)
    assert row.tolist() == [1, 0.5, 1, 1]


def test_breakers_are_all_tokens_that_contain_the_text() -> None:
    vocabulary = MockVocabulary()
    breakers = Breakers(vocabulary)
    a, space_a = vocabulary.pieces.index(b"a"), vocabulary.pieces.index(b" a")
    assert breakers.token_ids(["a"]) == {a, space_a}
    assert breakers.token_ids(["\n"]) == {6}
    assert breakers.token_ids(["a", "\n", ""]) == {a, space_a, 6}
    assert breakers.token_ids([]) == frozenset()


def test_a_breaker_of_several_tokens_is_its_last_one() -> None:
    vocabulary = MockVocabulary()
    assert Breakers(vocabulary).token_ids(["abc"]) == {vocabulary.pieces.index(b"c")}


def test_no_breaker_is_found_across_two_tokens() -> None:
    # Pieces "a" and "b" are neighbours in the table; "ab" is in neither.
    vocabulary = MockVocabulary()
    assert Breakers(vocabulary).token_ids(["ab"]) == {vocabulary.pieces.index(b"b")}
