"""Text completions through the real openai client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.server.fake_host import BOS, FIRST_BYTE, FIRST_WORD, WORDS, FakeTokenizer, fake_logprob, fake_text

if TYPE_CHECKING:
    from tests.server.conftest import Served


def said(text: str, **options: Any) -> str:
    return fake_text(text, chat=False, **options)


def test_text_list_and_ids(served: Served) -> None:
    create = served.openai().completions.create
    ids = FakeTokenizer().encode("once", control=False)
    one = create(model="default", prompt="once")
    assert one.id.startswith("cmpl-")
    assert one.object == "text_completion"
    assert one.choices[0].text == said("once")
    assert create(model="default", prompt=ids).choices[0].text == said("once")
    assert create(model="default", prompt=[BOS, *ids]).choices[0].text == said("once")
    for prompts in (["once", "twice"], [ids, FakeTokenizer().encode("twice", control=False)]):
        several = create(model="default", prompt=prompts)
        assert [choice.text for choice in several.choices] == [said("once"), said("twice")]
        assert [choice.index for choice in several.choices] == [0, 1]
        assert several.usage is not None
        assert several.usage.prompt_tokens == len("once") + len("twice") + 2


def test_n_choices_of_each_of_several_prompts(served: Served) -> None:
    completion = served.openai().completions.create(model="default", prompt=["a", "b"], n=2, seed=7)
    expected = [said("a", seed=7), said("a", seed=8), said("b", seed=7), said("b", seed=8)]
    assert [choice.text for choice in completion.choices] == expected
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]


def test_echo_whole_and_streamed(served: Served) -> None:
    create = served.openai().completions.create
    assert create(model="default", prompt="once", echo=True).choices[0].text == "once" + said("once")
    chunks = list(create(model="default", prompt="once", echo=True, stream=True))
    assert chunks[0].choices[0].text == "once"
    assert "".join(chunk.choices[0].text for chunk in chunks) == "once" + said("once")
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_best_of_keeps_the_most_probable(served: Served) -> None:
    def mean(text: str) -> float:
        ids = []
        while text:
            word = next(i for i, word in enumerate(WORDS) if text.startswith(word))
            ids.append(FIRST_WORD + word)
            text = text[len(WORDS[word]) :]
        return sum(fake_logprob(token_id, 0).logprob for token_id in ids) / len(ids)

    drawn = [said("many", seed=3 + index) for index in range(6)]
    expected = sorted(drawn, key=mean, reverse=True)[:2]
    completion = served.openai().completions.create(model="default", prompt="many", n=2, best_of=6, seed=3)
    assert [choice.text for choice in completion.choices] == expected
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert completion.choices[0].logprobs is None
    assert completion.usage is not None
    assert completion.usage.completion_tokens > 12


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_in_the_older_shape(served: Served, stream: bool) -> None:
    create: Any = served.openai().completions.create
    answer = create(model="default", prompt="x", logprobs=2, stream=stream)
    tokens: list[str] = []
    offsets: list[int] = []
    for part in answer if stream else [answer]:
        logprobs = part.choices[0].logprobs
        if logprobs is None:
            continue
        tokens += logprobs.tokens
        offsets += logprobs.text_offset
        assert len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(logprobs.tokens)
        for token, logprob, top in zip(
            logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
        ):
            assert top[token] == logprob
            assert len(top) == 2
    assert "".join(tokens) == said("x")
    assert offsets == [len("".join(tokens[:index])) for index in range(len(tokens))]


def test_stream_with_usage(served: Served) -> None:
    chunks = list(
        served.openai().completions.create(
            model="default", prompt="once", stream=True, max_tokens=2, stream_options={"include_usage": True}
        )
    )
    *texts, last, usage = chunks
    assert "".join(chunk.choices[0].text for chunk in texts) == said("once", max_tokens=2)
    assert (last.choices[0].text, last.choices[0].finish_reason) == ("", "length")
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 2


def test_tokenize_and_detokenize(served: Served) -> None:
    with served.http() as client:
        tokens = client.post("/tokenize", json={"text": "hi<end_of_turn>"}).json()
        assert tokens == {
            "tokens": [BOS, FIRST_BYTE + ord("h"), FIRST_BYTE + ord("i"), 106],
            "count": 4,
            "max_model_len": 2000,
        }
        bare = client.post("/tokenize", json={"text": "h", "add_special_tokens": False}).json()
        assert bare["tokens"] == [FIRST_BYTE + ord("h")]
        chat = client.post("/tokenize", json={"messages": [{"role": "user", "content": "h"}]}).json()
        assert chat["count"] == len("user: h\n") + 1
        text = client.post("/detokenize", json={"tokens": tokens["tokens"]}).json()
        assert text == {"text": "hi"}
        spelled = client.post(
            "/detokenize", json={"tokens": tokens["tokens"], "skip_special_tokens": False}
        ).json()
        assert spelled == {"text": "<bos>hi<end_of_turn>"}
