"""Images in the engine: encoded once, in slices, beside the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ostro.engine import engine as engine_module
from ostro.errors import InvalidParameter
from ostro.types import Prompt, Sampling
from tests.unit.engine.mock_model import (
    BOS,
    GREEDY,
    IMAGE,
    MockModel,
    MockVision,
    assert_idle,
    ids_of,
    image_at,
    last_of,
    make_engine,
    prompt_of,
    run,
)


@pytest.fixture(autouse=True)
def _one_slice_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "IMAGE_SECONDS", 0.0)


ENDLESS = replace(GREEDY, ignore_eos=True)


def picture_prompt(*values: int, length: int = 20) -> Prompt:
    """<bos>, then each picture behind two words."""
    ids: list[int] = [BOS]
    spans = []
    for value in values:
        ids += (8, 9)
        spans.append(image_at(len(ids), length, value))
        ids += [IMAGE] * length
    return Prompt((*ids, 10, 11), tuple(spans))


def answer(prompt: Prompt, model: MockModel | None = None, **config: int) -> list[int]:
    engine = make_engine(model, **config)
    sequence = engine.add(prompt, replace(ENDLESS, max_tokens=12))
    return ids_of(run(engine), sequence)


def test_the_answer_depends_on_the_picture() -> None:
    assert answer(picture_prompt(7)) == answer(picture_prompt(7))
    assert answer(picture_prompt(7)) != answer(picture_prompt(8))
    assert answer(picture_prompt(7, 8)) != answer(picture_prompt(8, 7))


@pytest.mark.parametrize("chunk", [1, 5, 20, 21, 100])
@pytest.mark.parametrize("steps", [0, 1, 30])
def test_any_chunking_and_any_slicing_answers_alike(chunk: int, steps: int) -> None:
    model = MockModel()
    model.vision.steps = steps
    assert answer(picture_prompt(3, 4, 3), model, prefill_chunk=chunk) == answer(picture_prompt(3, 4, 3))
    assert model.vision.begun == 2, "an image that comes twice is encoded once"


def test_others_go_on_while_an_image_is_encoded() -> None:
    model = MockModel()
    model.vision.steps = 50
    engine = make_engine(model)
    seeing = engine.add(picture_prompt(3), replace(ENDLESS, max_tokens=5))
    engine.step()
    other = engine.add(prompt_of(1, 30), replace(ENDLESS, max_tokens=40))
    events = [event for _ in range(40) for event in engine.step()]
    assert len(ids_of(events, other)) == 40
    assert ids_of(events, seeing) == []
    assert len(ids_of(run(engine), seeing)) == 5
    assert_idle(engine)


def test_the_cache_is_bounded_and_shared() -> None:
    model = MockModel()
    # A row of the mock has 4 bytes: room for two pictures of 20 rows.
    engine = make_engine(model, image_cache_bytes=160)
    for value in (1, 2, 1, 2):
        engine.add(picture_prompt(value), replace(ENDLESS, max_tokens=2))
        run(engine)
    assert (model.vision.begun, engine.stats().images, engine.stats().image_bytes) == (2, 2, 160)
    for value in (3, 2, 1):
        engine.add(picture_prompt(value), replace(ENDLESS, max_tokens=2))
        run(engine)
    assert model.vision.begun == 4, "2 was used after 1, so 1 had to go for 3"
    assert engine.stats().image_bytes == 160


def test_without_a_cache_everything_still_works() -> None:
    model = MockModel()
    assert answer(picture_prompt(3, 4, 3), model, image_cache_bytes=0) == answer(picture_prompt(3, 4, 3))


def test_a_cancelled_request_stops_its_encoding() -> None:
    model = MockModel()
    model.vision.steps = 1000
    engine = make_engine(model)
    seeing = engine.add(picture_prompt(3), ENDLESS)
    engine.step()
    engine.cancel(seeing)
    other = engine.add(picture_prompt(4), replace(ENDLESS, max_tokens=2))
    model.vision.steps = 3
    assert len(ids_of(run(engine), other)) == 2
    assert model.vision.slices < 10
    assert_idle(engine)


def test_a_failing_encoder_ends_only_those_who_asked() -> None:
    model = MockModel()
    model.vision.fail_on = {13}
    engine = make_engine(model)
    unlucky = [engine.add(picture_prompt(13), ENDLESS) for _ in range(2)]
    lucky = engine.add(picture_prompt(14), replace(ENDLESS, max_tokens=3))
    events = run(engine)
    for sequence in unlucky:
        error = last_of(events, sequence).error
        assert error is not None
        assert "an image could not be encoded: ValueError: the mock does not like this picture" in str(error)
    assert len(ids_of(events, lucky)) == 3
    assert_idle(engine)


def test_an_image_of_the_wrong_length_is_an_error() -> None:
    engine = make_engine()
    span = replace(image_at(1, 5), length=4)
    sequence = engine.add(Prompt((BOS, *[IMAGE] * 4, 9), (span,)), ENDLESS)
    error = last_of(run(engine), sequence).error
    assert "an image became 5 rows, its place has 4" in str(error)


def test_a_preempted_sequence_sees_its_images_again() -> None:
    model = MockModel()
    engine = make_engine(model, kv_bytes=14_000, prefill_chunk=100, context_length=400, image_cache_bytes=0)
    sampling = Sampling(temperature=0.0, ignore_eos=True, max_tokens=200)
    old = engine.add(prompt_of(1, 60), replace(sampling, max_tokens=330))
    young = engine.add(picture_prompt(3), sampling)
    events = run(engine)
    assert engine.stats().preemptions > 0
    assert len(ids_of(events, old)) == 330
    alone = make_engine()
    again = alone.add(picture_prompt(3), sampling)
    assert ids_of(events, young) == ids_of(run(alone), again)


def test_a_model_without_eyes_refuses() -> None:
    class Blind(MockModel):
        vision: MockVision | None = None  # type: ignore[assignment]

        def __init__(self) -> None:
            super().__init__()
            self.vision = None

    with pytest.raises(InvalidParameter, match="this model reads text only"):
        make_engine(Blind()).add(picture_prompt(3), GREEDY)


def test_a_quick_encoder_is_done_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "IMAGE_SECONDS", 60.0)
    model = MockModel()
    model.vision.steps = 40
    engine = make_engine(model)
    sequence = engine.add(picture_prompt(3, 4), replace(ENDLESS, max_tokens=2))
    assert len(ids_of(engine.step(), sequence)) == 1
    assert (model.vision.begun, model.vision.slices) == (2, 80)
