from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostro.errors import EngineError, InvalidParameter, PromptTooLong
from ostro.types import Dry, Prompt, Sampling
from tests.unit.engine.mock_model import (
    BOS,
    END_OF_TURN,
    EOS,
    GREEDY,
    IMAGE,
    MockModel,
    MockVocabulary,
    alone,
    assert_idle,
    ids_of,
    image_at,
    last_of,
    make_engine,
    prompt_of,
    run,
    text_of,
)

ENDLESS = replace(GREEDY, ignore_eos=True)

SAMPLINGS = [
    GREEDY,
    Sampling(seed=3),
    Sampling(seed=4, temperature=0.7, top_k=5, top_p=0.9),
    Sampling(seed=5, repetition_penalty=1.3, frequency_penalty=0.2, dry=Dry(multiplier=1.0)),
    Sampling(seed=6, ignore_eos=True, min_p=0.02, stop=(" ab", "c d", "zz")),
    replace(ENDLESS, presence_penalty=0.5),
]


def requests() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "seed": st.integers(0, 5),
            "length": st.integers(1, 150),
            "image": st.none() | st.tuples(st.integers(1, 100), st.integers(1, 40)),
            "sampling": st.sampled_from(range(len(SAMPLINGS))),
            "max_tokens": st.integers(1, 40),
            "arrival": st.integers(0, 25),
            "cancel": st.none() | st.integers(0, 60),
        }
    )


_ALONE: dict[tuple[object, ...], tuple[str, list[int]]] = {}


def build(request: dict[str, Any]) -> tuple[Prompt, Sampling]:
    prompt = prompt_of(request["seed"], request["length"])
    if request["image"] and request["image"][0] < request["length"]:
        start, length = request["image"]
        ids = prompt.token_ids
        images = (image_at(start, length),)
        prompt = Prompt((*ids[:start], *[IMAGE] * length, *ids[start:]), images)
    return prompt, replace(SAMPLINGS[request["sampling"]], max_tokens=request["max_tokens"])


def answer_alone(prompt: Prompt, sampling: Sampling, window: int | None) -> tuple[str, list[int]]:
    key = (prompt, str(sampling), window)
    if key not in _ALONE:
        events = alone(prompt, sampling, window)
        _ALONE[key] = text_of(events, 0), ids_of(events, 0)
    return _ALONE[key]


@given(
    st.lists(requests(), min_size=1, max_size=7),
    st.integers(1, 6),
    st.integers(1, 120),
    st.integers(10_000, 20_000),
    st.sampled_from([70, 1, 64, None]),
)
@settings(max_examples=200, deadline=None)
def test_company_and_cancellations_change_nothing(
    requests: list[dict[str, Any]], max_seqs: int, chunk: int, kv_bytes: int, window: int | None
) -> None:
    engine = make_engine(
        MockModel(window), max_seqs=max_seqs, prefill_chunk=chunk, kv_bytes=kv_bytes, context_length=300
    )
    waiting = sorted(requests, key=lambda request: int(request["arrival"]))
    running: dict[int, dict[str, Any]] = {}
    events = []
    step = 0
    while waiting or engine.has_work:
        while waiting and waiting[0]["arrival"] <= step:
            request = waiting.pop(0)
            running[engine.add(*build(request))] = request
        for sequence_id, request in running.items():
            if request["cancel"] == step:
                engine.cancel(sequence_id)
        events += engine.step()
        step += 1
        assert step < 5000
    assert_idle(engine)
    for sequence_id, request in running.items():
        text, ids = answer_alone(*build(request), window)
        own_text, own_ids = text_of(events, sequence_id), ids_of(events, sequence_id)
        last = last_of(events, sequence_id)
        assert last.timing is not None
        assert last.timing.completion_tokens == len(own_ids)
        if last.finish_reason == "canceled":
            assert own_ids == ids[: len(own_ids)]
        else:
            assert (own_text, own_ids) == (text, ids)


@pytest.mark.parametrize("kv_bytes", [12_000, 14_000, 16_000])
def test_preempted_sequences_go_on_with_the_same_text(kv_bytes: int) -> None:
    engine = make_engine(kv_bytes=kv_bytes, context_length=350, prefill_chunk=90)
    sampling = [replace(s, max_tokens=200, ignore_eos=True, stop=()) for s in SAMPLINGS]
    ids = [engine.add(prompt_of(i, 50 + i), s) for i, s in enumerate(sampling)]
    events = run(engine)
    assert engine.stats().preemptions > 0
    for i, sequence_id in enumerate(ids):
        expected = alone(prompt_of(i, 50 + i), sampling[i])
        assert ids_of(events, sequence_id) == ids_of(expected, 0)
        assert text_of(events, sequence_id) == text_of(expected, 0)


def test_the_mock_sees_a_wrong_page() -> None:
    """The tests above can fail: one number changed in the cache changes the answer."""
    texts = []
    for fault in (False, True):
        model = MockModel()
        engine = make_engine(model)
        sequence_id = engine.add(prompt_of(1, 100), replace(ENDLESS, max_tokens=10))
        events = engine.step()
        if fault:
            page = engine._scheduler.running[0].pages["global"].ids[0]
            model.stores["global"].slots[page * 64 + 3] += 1
        texts.append(ids_of(events + run(engine), sequence_id))
    assert texts[0][0] == texts[1][0]
    assert texts[0] != texts[1]


def force(*tokens: int, base: Sampling = GREEDY) -> Sampling:
    """Make the first of these tokens come again and again."""
    return replace(base, logit_bias=dict.fromkeys(tokens, 100.0))


@pytest.mark.parametrize("stop_id", [EOS, END_OF_TURN])
def test_the_end_token_is_counted_and_has_no_text(stop_id: int) -> None:
    engine = make_engine()
    engine.add(prompt_of(1, 5), replace(force(stop_id), logprobs=2))
    (event,) = run(engine)
    assert (event.finish_reason, event.text, event.token_ids, event.logprobs) == ("stop", "", (stop_id,), ())
    assert event.timing is not None
    assert (event.timing.prompt_tokens, event.timing.completion_tokens) == (5, 1)


def test_ignore_eos_goes_on_past_the_end_token() -> None:
    engine = make_engine()
    engine.add(prompt_of(1, 5), replace(force(EOS), ignore_eos=True, max_tokens=3, logprobs=0))
    events = run(engine)
    assert ids_of(events, 0) == [EOS] * 3
    assert text_of(events, 0) == ""
    assert last_of(events, 0).finish_reason == "length"
    assert sum(len(event.logprobs) for event in events) == 3


def test_max_tokens_and_the_context_end_by_length() -> None:
    engine = make_engine(context_length=50)
    short = engine.add(prompt_of(1, 10), replace(ENDLESS, max_tokens=7))
    full = engine.add(prompt_of(1, 10), ENDLESS)
    over = engine.add(prompt_of(1, 10), replace(ENDLESS, max_tokens=1000))
    events = run(engine)
    assert [len(ids_of(events, i)) for i in (short, full, over)] == [7, 40, 40]
    assert {last_of(events, i).finish_reason for i in (short, full, over)} == {"length"}


def test_the_configuration_may_lower_the_context() -> None:
    assert make_engine(context_length=500).stats().longest == 500
    assert make_engine(config_context=20, context_length=500).stats().longest == 20
    assert make_engine(config_context=500, context_length=30).stats().longest == 30


def test_a_prompt_that_cannot_fit_is_refused() -> None:
    engine = make_engine(context_length=8192)
    with pytest.raises(PromptTooLong, match=r"^9,001 tokens, limit 8,191: the context ends at 8,192$"):
        engine.add(Prompt((BOS,) * 9001), GREEDY)
    engine.add(Prompt((BOS,) * 8191), GREEDY)
    assert engine.stats().waiting == 1


def test_the_kv_ceiling_bounds_a_sequence() -> None:
    engine = make_engine(kv_bytes=6000, context_length=8192)
    assert engine.stats().longest == 192
    with pytest.raises(PromptTooLong, match="192 tokens, limit 191: the context ends at 192"):
        engine.add(prompt_of(1, 192), GREEDY)
    engine.add(prompt_of(1, 191), ENDLESS)
    assert len(ids_of(run(engine), 0)) == 1
    with pytest.raises(InvalidParameter, match=r"^kv_bytes is 1,999, at least 2,000 are needed$"):
        make_engine(kv_bytes=1999)


def test_bad_requests_are_refused_before_they_run() -> None:
    engine = make_engine()
    with pytest.raises(InvalidParameter, match="the prompt is empty"):
        engine.add(Prompt(()), GREEDY)
    with pytest.raises(InvalidParameter, match=r"token ids must be in 0\.\.63"):
        engine.add(Prompt((BOS, 64)), GREEDY)
    with pytest.raises(InvalidParameter, match=r"token ids must be in 0\.\.63"):
        engine.add(Prompt((BOS, -1)), GREEDY)
    with pytest.raises(InvalidParameter, match="no token has the id 1,064") as error:
        engine.add(Prompt((BOS,)), replace(GREEDY, logit_bias={1064: 1.0}))
    assert error.value.param == "logit_bias"
    with pytest.raises(InvalidParameter, match="an image takes 600 tokens, limit 512"):
        engine.add(Prompt((IMAGE,) * 600, (image_at(0, 600),)), GREEDY)
    assert not engine.has_work


def test_image_ids_may_lie_outside_the_vocabulary() -> None:
    engine = make_engine()
    engine.add(
        Prompt((BOS, 99, 99, 7), (image_at(1, 2),)), replace(GREEDY, repetition_penalty=1.2, max_tokens=1)
    )
    assert [event.error for event in run(engine)] == [None]


def test_banned_ids_never_come() -> None:
    engine = make_engine()
    base = replace(force(0, BOS, IMAGE, 20), max_tokens=5)
    engine.add(prompt_of(1, 5), base)
    assert ids_of(run(engine), 0) == [20] * 5


def test_stop_strings_end_the_answer_and_do_not_leak() -> None:
    expected = alone(prompt_of(4, 20), replace(ENDLESS, max_tokens=60))
    full = text_of(expected, 0)
    stop = full[10:14]
    engine = make_engine()
    engine.add(prompt_of(4, 20), replace(ENDLESS, max_tokens=60, stop=("~", stop), logprobs=1))
    events = run(engine)
    assert text_of(events, 0) == full[: full.index(stop)]
    last = last_of(events, 0)
    assert last.finish_reason == "stop"
    reported = [logprob.token_id for event in events for logprob in event.logprobs]
    vocabulary = MockVocabulary()
    text = b"".join(vocabulary.token_bytes(i) for i in reported).decode(errors="ignore")
    assert text_of(events, 0).startswith(text)
    assert len(reported) < len(ids_of(events, 0))


def test_text_that_was_held_back_comes_with_the_last_event() -> None:
    letter = MockVocabulary().pieces.index(b"a")
    engine = make_engine()
    sampling = replace(force(letter), max_tokens=3, stop=("aaaa",), logprobs=0)
    engine.add(prompt_of(1, 5), sampling)
    events = run(engine)
    assert [event.text for event in events] == ["", "", "aaa"]
    assert [len(event.logprobs) for event in events] == [0, 0, 3]
    assert events[-1].finish_reason == "length"


def test_n_choices_are_sequences_with_their_own_seeds() -> None:
    prompt = prompt_of(1, 30)
    choices = [Sampling(seed=11 + i, ignore_eos=True, max_tokens=12) for i in range(4)]
    engine = make_engine()
    ids = [engine.add(prompt, sampling) for sampling in choices]
    events = run(engine)
    answers = [ids_of(events, i) for i in ids]
    assert len({tuple(answer) for answer in answers}) == 4
    assert answers == [ids_of(alone(prompt, sampling), 0) for sampling in choices]


def test_without_a_seed_the_engine_draws_one() -> None:
    def answers(seed: int | None) -> list[list[int]]:
        engine = make_engine(seed=seed)
        ids = [engine.add(prompt_of(1, 5), Sampling(max_tokens=20, ignore_eos=True)) for _ in range(2)]
        events = run(engine)
        return [ids_of(events, i) for i in ids]

    assert answers(1) == answers(1)
    assert answers(1)[0] != answers(1)[1]
    assert answers(None) != answers(None)


def test_cancel_frees_pages_at_once_and_reports_once() -> None:
    engine = make_engine()
    sequence_id = engine.add(prompt_of(1, 100), ENDLESS)
    other = engine.add(prompt_of(2, 10), replace(ENDLESS, max_tokens=3))
    engine.step()
    pages = engine.stats().kv_pages["global"]
    engine.cancel(sequence_id)
    engine.cancel(sequence_id)
    assert engine.stats().kv_pages["global"] == pages - 2
    events = run(engine)
    assert last_of(events, sequence_id).finish_reason == "canceled"
    assert last_of(events, other).finish_reason == "length"
    engine.cancel(sequence_id)
    engine.cancel(12345)
    assert not engine.has_work
    assert_idle(engine)


def test_cancel_before_the_first_step() -> None:
    engine = make_engine()
    sequence_id = engine.add(prompt_of(1, 100), ENDLESS)
    engine.cancel(sequence_id)
    (event,) = engine.step()
    assert (event.finish_reason, event.timing and event.timing.completion_tokens) == ("canceled", 0)
    assert_idle(engine)


def test_a_row_of_nan_ends_its_sequence_only(caplog: pytest.LogCaptureFixture) -> None:
    model = MockModel()
    model.poison = {60}
    engine = make_engine(model)
    good = engine.add(prompt_of(1, 20), replace(ENDLESS, max_tokens=5))
    bad = engine.add(Prompt((BOS, 60)), ENDLESS)
    with caplog.at_level(logging.ERROR):
        events = run(engine)
    assert str(last_of(events, bad).error) == f"sequence {bad}: the model's logits are not finite"
    assert isinstance(last_of(events, bad).error, EngineError)
    assert caplog.messages == [f"sequence {bad}: the model's logits are not finite"]
    assert ids_of(events, good) == ids_of(alone(prompt_of(1, 20), replace(ENDLESS, max_tokens=5)), 0)
    assert_idle(engine)


def test_a_failing_model_ends_its_batch_and_the_engine_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    model = MockModel()
    model.fail_on = {61}
    engine = make_engine(model, prefill_chunk=10, max_seqs=2)
    first = engine.add(prompt_of(1, 5), ENDLESS)
    engine.step()
    second = engine.add(Prompt((BOS, *[8] * 12, 61)), ENDLESS)
    third = engine.add(prompt_of(1, 20), replace(GREEDY, ignore_eos=True, max_tokens=5))
    events = run(engine)
    for sequence_id in (first, second):
        error = last_of(events, sequence_id).error
        assert isinstance(error, EngineError)
        assert str(error) == (
            f"sequence {sequence_id}: the model failed: ValueError: the mock does not like this token"
        )
        assert isinstance(error.__cause__, ValueError)
    assert ids_of(events, third) == ids_of(alone(prompt_of(1, 20), replace(ENDLESS, max_tokens=5)), 0)
    assert_idle(engine)


def test_timing_begins_when_a_sequence_is_taken_up() -> None:
    engine = make_engine(max_seqs=1)
    engine.add(prompt_of(1, 5), replace(ENDLESS, max_tokens=3))
    second = engine.add(prompt_of(2, 6), replace(ENDLESS, max_tokens=2))
    engine.step()
    time.sleep(0.5)
    timing = last_of(run(engine), second).timing
    assert timing is not None
    assert (timing.prompt_tokens, timing.completion_tokens) == (6, 2)
    assert 0 < timing.prompt_seconds < 0.4
    assert 0 < timing.completion_seconds < 0.4


def test_stats_count() -> None:
    engine = make_engine(prefill_chunk=10)
    engine.add(prompt_of(1, 25), replace(ENDLESS, max_tokens=4))
    run(engine)
    stats = engine.stats()
    assert (stats.steps, stats.prompt_tokens, stats.completion_tokens) == (6, 25, 4)
    assert 0 < stats.kv_bytes <= stats.kv_ceiling == 10**9
