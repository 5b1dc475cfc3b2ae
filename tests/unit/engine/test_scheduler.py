from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ostro.types import Prompt, Sampling
from tests.unit.engine.mock_model import (
    BOS,
    GREEDY,
    IMAGE,
    MockModel,
    assert_idle,
    ids_of,
    image_at,
    make_engine,
    prompt_of,
    run,
)

if TYPE_CHECKING:
    from ostro.engine.engine import Engine
    from ostro.ops.batch import Batch

ENDLESS = Sampling(temperature=0.0, ignore_eos=True)


def rows(batch: Batch) -> list[int]:
    """Rows of each sequence."""
    return [int(count) for count in np.diff(batch.row_starts)]


def endless(max_tokens: int) -> Sampling:
    return Sampling(temperature=0.0, ignore_eos=True, max_tokens=max_tokens)


def start(**config: Any) -> tuple[Engine, MockModel]:
    model = MockModel()
    model.vision.steps = 0
    return make_engine(model, **config), model


def step(engine: Engine, model: MockModel) -> Batch:
    engine.step()
    return model.batches[-1]


def test_decoding_goes_on_while_prompts_are_read() -> None:
    engine, model = start(prefill_chunk=100)
    engine.add(prompt_of(1, 10), ENDLESS)
    assert rows(step(engine, model)) == [10]
    engine.add(prompt_of(2, 250), ENDLESS)
    engine.add(prompt_of(3, 30), ENDLESS)
    assert [rows(step(engine, model)) for _ in range(4)] == [[1, 100], [1, 100], [1, 50, 30], [1, 1, 1]]


def test_the_batch_describes_its_rows() -> None:
    engine, model = start(prefill_chunk=64)
    first, second = prompt_of(1, 70), prompt_of(2, 20)
    engine.add(first, ENDLESS)
    engine.add(second, ENDLESS)
    step(engine, model)
    batch = step(engine, model)
    assert batch.token_ids.tolist() == [*first.token_ids[64:], *second.token_ids]
    assert batch.positions.tolist() == [*range(64, 70), *range(20)]
    assert batch.key_ends.tolist() == [*range(65, 71), *range(1, 21)]
    assert batch.row_starts.tolist() == [0, 6, 26]
    assert batch.wanted.tolist() == [5, 25]
    for table in batch.page_tables.values():
        assert table.dtype == np.int32
        assert table.flags.c_contiguous
        assert table.shape == (2, 2)
        assert table[1, 1] == -1
    for array in (batch.token_ids, batch.positions, batch.key_ends, batch.row_starts, batch.wanted):
        assert array.dtype == np.int32


def test_an_unfinished_prompt_asks_for_no_logits() -> None:
    engine, model = start(prefill_chunk=16)
    engine.add(prompt_of(1, 40), ENDLESS)
    assert step(engine, model).wanted.tolist() == []
    assert step(engine, model).wanted.tolist() == []
    assert step(engine, model).wanted.tolist() == [7]


def test_max_seqs_bounds_what_runs() -> None:
    engine, model = start(max_seqs=2)
    for seed in range(3):
        engine.add(prompt_of(seed, 10), endless(3))
    assert rows(step(engine, model)) == [10, 10]
    assert (engine.stats().running, engine.stats().waiting) == (2, 1)
    step(engine, model)
    step(engine, model)
    assert rows(step(engine, model)) == [10]


def test_a_long_prompt_is_not_starved_by_short_ones() -> None:
    engine, model = start(prefill_chunk=50, max_seqs=4)
    engine.add(prompt_of(0, 400), GREEDY)
    for seed in range(40):
        engine.add(prompt_of(seed, 45), endless(1))
    assert [rows(step(engine, model))[0] for _ in range(8)] == [50] * 8


def test_a_long_prompt_behind_short_ones_gets_its_turn() -> None:
    engine, _ = start(prefill_chunk=50, max_seqs=2)
    long = None
    done = False
    for seed in range(60):
        engine.add(prompt_of(seed, 45), endless(2))
        if seed == 3:
            long = engine.add(prompt_of(99, 400), endless(1))
        done = done or bool(ids_of(engine.step(), long if long is not None else -1))
    assert done


IMAGE_PROMPTS = {
    "behind text": (30, 20, 10),
    "first": (0, 40, 10),
    "last": (10, 40, 0),
}


def image_prompt(before: int, length: int, after: int) -> Prompt:
    ids = (BOS, *range(6, 6 + before), *[IMAGE] * length, *range(6, 6 + after))
    return Prompt(ids, (image_at(1 + before, length),))


def test_an_image_is_never_cut() -> None:
    engine, model = start(prefill_chunk=40)
    engine.add(image_prompt(30, 20, 30), ENDLESS)
    assert [rows(step(engine, model)) for _ in range(3)] == [[31], [40], [10]]


def test_an_image_longer_than_a_chunk_goes_whole() -> None:
    engine, model = start(prefill_chunk=16)
    engine.add(image_prompt(20, 100, 20), ENDLESS)
    assert [rows(step(engine, model)) for _ in range(5)] == [[16], [5], [100], [16], [4]]


def test_an_image_longer_than_a_chunk_waits_for_an_unused_budget() -> None:
    engine, model = start(prefill_chunk=16)
    engine.add(prompt_of(1, 20), ENDLESS)
    engine.add(image_prompt(0, 100, 1), ENDLESS)
    assert [rows(step(engine, model)) for _ in range(4)] == [[16], [4, 1], [1, 100], [1, 1]]


def test_rows_of_an_image_see_its_end() -> None:
    engine, model = start(prefill_chunk=100)
    engine.add(prompt_of(5, 7), ENDLESS)
    engine.add(image_prompt(3, 5, 2), ENDLESS)
    batch = step(engine, model)
    assert batch.key_ends[7:].tolist() == [1, 2, 3, 4, 9, 9, 9, 9, 9, 10, 11]


@pytest.mark.parametrize("kind", IMAGE_PROMPTS)
@pytest.mark.parametrize("chunk", [1, 7, 39, 40, 41, 64])
def test_any_chunking_of_an_image_prompt_answers_alike(kind: str, chunk: int) -> None:
    prompt = image_prompt(*IMAGE_PROMPTS[kind])
    engine, _ = start(prefill_chunk=chunk)
    whole, _ = start(prefill_chunk=1000)
    assert ids_of(run(engine), engine.add(prompt, endless(8))) == []
    first = engine.add(prompt, endless(8))
    second = whole.add(prompt, endless(8))
    assert ids_of(run(engine), first) == ids_of(run(whole), second)


def test_the_youngest_gives_way_and_comes_back() -> None:
    # Room for 7 global and 7 local pages: two sequences of 100, but not of 300 positions.
    engine, _ = start(kv_bytes=14_000, prefill_chunk=100, context_length=400)
    old = engine.add(prompt_of(1, 60), endless(330))
    young = engine.add(prompt_of(2, 60), endless(200))
    events = run(engine)
    assert engine.stats().preemptions > 0
    assert engine.stats().preemptions < 10, "sequences push each other out again and again"
    assert len(ids_of(events, old)) == 330
    assert len(ids_of(events, young)) == 200
    # The old one has a row in every step until its end.
    last = next(i for i, e in enumerate(events) if e.sequence_id == old and e.finish_reason)
    assert [e.sequence_id for e in events[:last]].count(old) == 329
    assert_idle(engine)


def test_local_pages_do_not_grow_with_the_sequence() -> None:
    engine, _ = start(prefill_chunk=64)
    engine.add(prompt_of(1, 900), endless(60))
    most = 0
    while engine.has_work:
        engine.step()
        most = max(most, engine.stats().kv_pages["local"])
    assert most <= 3


def test_a_sequence_that_gets_no_memory_ends_and_the_next_one_runs() -> None:
    engine, model = start(prefill_chunk=100)
    model.stores["global"].limit = 2
    big = engine.add(prompt_of(1, 300), endless(5))
    small = engine.add(prompt_of(2, 40), endless(5))
    events = run(engine)
    (failed,) = [e for e in events if e.error is not None]
    assert failed.sequence_id == big
    assert failed.finish_reason == "error"
    assert str(failed.error) == f"sequence {big}: no memory is left for the KV cache"
    assert len(ids_of(events, small)) == 5
    assert_idle(engine)
