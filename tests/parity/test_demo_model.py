"""The model that ostro carries along: what it says about pictures that it was not trained on."""

from __future__ import annotations

import base64
import io
import json
import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from demo_model.questions import held_out_questions
from demo_model.scenes import noise_image

from ostro import ChatCompletionRequest, Runner
from tests.server.conftest import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx
    from PIL import Image

    Ask = Callable[[list[Image.Image], str], str]

FOLDER = Path(__file__).parents[2] / "python" / "ostro" / "demo_model"
COUNT = 1000
ENOUGH = 0.9
CHANCE = 0.3
"""Two kinds of question are answered by one of two words, one by one of five: about a fifth right unseen."""
AT_ONCE = 8


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner(max_seqs=AT_ONCE) as runner:
        yield runner


@cache
def questions() -> list[tuple[list[Image.Image], str, str, str]]:
    return held_out_questions(COUNT, seed=1)


def ask_runner(runner: Runner) -> Ask:
    def ask(images: list[Image.Image], question: str) -> str:
        parts: list[Any] = [{"type": "image", "image": image} for image in images]
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
        request = ChatCompletionRequest(messages=messages, temperature=0, max_tokens=120)
        response: Any = runner.send_chat_completion_request(request)
        return str(response.choices[0].message.content)

    return ask


def ask_http(client: httpx.Client) -> Ask:
    def url(image: Image.Image) -> str:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

    def ask(images: list[Image.Image], question: str) -> str:
        parts: list[Any] = [{"type": "image_url", "image_url": {"url": url(image)}} for image in images]
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
        body = {"model": "default", "messages": messages, "temperature": 0, "max_tokens": 120}
        response = client.post("/v1/chat/completions", json=body)
        response.raise_for_status()
        return str(response.json()["choices"][0]["message"]["content"])

    return ask


def answers(ask: Ask, asked: list[tuple[list[Image.Image], str, str, str]]) -> list[str]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda item: ask(item[0], item[1]), asked))


def share_right(said: list[str], asked: list[tuple[list[Image.Image], str, str, str]]) -> float:
    right: dict[str, list[bool]] = defaultdict(list)
    for text, (_, _, answer, kind) in zip(said, asked, strict=True):
        right[kind].append(text == answer)
    for kind, hits in sorted(right.items()):
        print(f"{kind:12} {sum(hits) / len(hits):.3f} of {len(hits)}")
    return sum(map(sum, right.values())) / len(asked)


def test_the_held_out_questions_over_both_doors(runner: Runner) -> None:
    said = answers(ask_runner(runner), questions())
    assert share_right(said, questions()) >= ENOUGH
    with serving(runner.host) as served, served.http() as client:
        assert answers(ask_http(client), questions()) == said


def test_quantized_with_its_image_half_it_answers_as_well() -> None:
    asked = questions()[:400]
    shares = {}
    for kind in (None, "Q8_0", "Q4K"):
        with Runner(max_seqs=AT_ONCE, in_situ_quant=kind) as runner:
            shares[kind] = share_right(answers(ask_runner(runner), asked), asked)
    assert shares["Q8_0"] >= shares[None] - 0.005
    assert shares["Q4K"] >= shares[None] - 0.03


def test_without_the_picture_it_is_chance() -> None:
    asked = questions()[:300]
    rng = random.Random(2)
    noise = [([noise_image(rng) for _ in images], *rest) for images, *rest in asked]
    with Runner(max_seqs=AT_ONCE) as runner:
        said = answers(ask_runner(runner), noise)  # type: ignore[arg-type]
    assert share_right(said, asked) <= CHANCE


def test_the_questions_are_not_those_of_training() -> None:
    from demo_model.scenes import draw_scene

    rng = random.Random(0)
    assert not any(draw_scene(rng, held_out=False).held_out for _ in range(500))
    assert all(draw_scene(rng, held_out=True).held_out for _ in range(50))
    assert len({(question, answer) for _, question, answer, _ in questions()}) > COUNT / 3


def test_the_package_is_small() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["architectures"] == ["Gemma3ForConditionalGeneration"]
