from __future__ import annotations

import math
from typing import Any

import pytest

from ostro.errors import InvalidParameter, UnsupportedField
from ostro.requests import ChatCompletionRequest, CompletionRequest, ToolChoice
from ostro.types import Dry, GenerationDefaults, Sampling

NOTHING = GenerationDefaults()
GEMMA = GenerationDefaults(temperature=1.0, top_k=64, top_p=0.95, do_sample=True, eos_token_ids=(1, 106))


def chat(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest(messages="hi", **fields)


def text(**fields: Any) -> CompletionRequest:
    return CompletionRequest(**({"prompt": "hi"} | fields))


def test_users_page_request() -> None:
    request = ChatCompletionRequest(
        model="gemma3",
        messages=[{"role": "user", "content": "What is this?"}],
        max_tokens=256,
        presence_penalty=1.0,
        top_p=0.1,
        temperature=0.1,
    )
    assert request.to_sampling(GEMMA) == Sampling(
        temperature=0.1, top_k=64, top_p=0.1, presence_penalty=1.0, max_tokens=256
    )


def test_positional_order_of_mistralrs() -> None:
    request = ChatCompletionRequest(
        [], "m", True, 2, {5: 1.0}, 3, 10, 0.1, 0.2, 1.3, ["x"], 0.5, 0.9, 8, True
    )
    assert (request.model, request.logprobs, request.n_choices, request.logit_bias) == (
        "m",
        True,
        2,
        {5: 1.0},
    )
    assert (request.top_logprobs, request.max_tokens) == (3, 10)
    assert (request.presence_penalty, request.frequency_penalty, request.repetition_penalty) == (
        0.1,
        0.2,
        1.3,
    )
    assert (request.stop_seqs, request.temperature, request.top_p) == (["x"], 0.5, 0.9)
    assert (request.top_k, request.stream) == (8, True)
    completion = CompletionRequest("p", "m", 2, True, 0.1, 0.2, 1.3, {5: 1.0}, 10, 2, ["x"], 0.5, 0.9)
    assert (completion.prompt, completion.model, completion.best_of, completion.echo_prompt) == (
        "p",
        "m",
        2,
        True,
    )
    assert (completion.max_tokens, completion.n_choices, completion.top_p) == (10, 2, 0.9)


def test_defaults_come_from_the_model_then_are_neutral() -> None:
    assert chat().to_sampling(NOTHING) == Sampling(temperature=1.0, top_k=None, top_p=1.0)
    assert chat().to_sampling(GEMMA) == Sampling(temperature=1.0, top_k=64, top_p=0.95)
    assert text(top_k=-1, top_p=1.0).to_sampling(GEMMA) == Sampling(temperature=1.0, top_k=None, top_p=1.0)
    assert chat(top_k=0).to_sampling(GEMMA).top_k is None
    greedy = GenerationDefaults(do_sample=False, temperature=0.7)
    assert chat().to_sampling(greedy).temperature == 0.0
    assert chat(temperature=0.3).to_sampling(greedy).temperature == 0.3


def test_every_field_arrives() -> None:
    sampling = chat(
        temperature=5,
        top_k=3,
        top_p=0.5,
        min_p=0.1,
        repetition_penalty=1.1,
        frequency_penalty=-2,
        presence_penalty=2,
        dry_multiplier=0.8,
        dry_base=2,
        dry_allowed_length=3,
        dry_sequence_breakers=["#"],
        logit_bias={7: -100, 8: 100},
        seed=9,
        logprobs=True,
        top_logprobs=4,
        max_tokens=1,
        stop_seqs=["a", "b"],
        ignore_eos=True,
    ).to_sampling(GEMMA, vocab_size=9)
    assert sampling == Sampling(
        temperature=5.0,
        top_k=3,
        top_p=0.5,
        min_p=0.1,
        repetition_penalty=1.1,
        frequency_penalty=-2.0,
        presence_penalty=2.0,
        dry=Dry(multiplier=0.8, base=2.0, allowed_length=3, sequence_breakers=("#",)),
        logit_bias={7: -100.0, 8: 100.0},
        seed=9,
        logprobs=4,
        max_tokens=1,
        stop=("a", "b"),
        ignore_eos=True,
    )


def test_dry_defaults_and_off() -> None:
    assert chat(dry_multiplier=0.5).to_sampling(NOTHING).dry == Dry(multiplier=0.5)
    assert chat(dry_multiplier=0, dry_base=2).to_sampling(NOTHING).dry is None


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_seeds_stay(seed: int) -> None:
    assert chat(seed=seed).to_sampling(NOTHING).seed == seed


def test_negative_seeds_are_distinct_and_not_negative() -> None:
    assert chat(seed=-1).to_sampling(NOTHING).seed == 2**64 - 1
    assert chat(seed=-(2**63)).to_sampling(NOTHING).seed == 2**63


def test_logprobs() -> None:
    assert chat().to_sampling(NOTHING).logprobs is None
    assert chat(logprobs=True).to_sampling(NOTHING).logprobs == 0
    assert text(logprobs=0).to_sampling(NOTHING).logprobs == 0
    assert text(logprobs=20).to_sampling(NOTHING).logprobs == 20


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -0.1}, "temperature must be at least 0, got -0.1"),
        ({"temperature": math.nan}, "temperature must be at least 0, got nan"),
        ({"temperature": math.inf}, "temperature must be at least 0, got inf"),
        ({"temperature": "1"}, "temperature must be a number, got '1'"),
        ({"temperature": True}, "temperature must be a number, got True"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, got 0"),
        ({"top_p": 1.01}, "top_p must be above 0 and at most 1, got 1.01"),
        ({"top_k": -2}, "top_k must be at least -1, got -2"),
        ({"top_k": 2.0}, "top_k must be an integer, got 2.0"),
        ({"min_p": -0.01}, "min_p must be at least 0 and at most 1, got -0.01"),
        ({"presence_penalty": 2.1}, "presence_penalty must be at least -2 and at most 2, got 2.1"),
        ({"frequency_penalty": -3}, "frequency_penalty must be at least -2 and at most 2, got -3"),
        ({"repetition_penalty": 0}, "repetition_penalty must be above 0, got 0"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"max_tokens": True}, "max_tokens must be an integer, got True"),
        ({"n_choices": 0}, "n_choices must be from 1 to 128, got 0"),
        ({"n_choices": 129}, "n_choices must be from 1 to 128, got 129"),
        ({"seed": 2**63}, f"seed must be a 64-bit integer, got {2**63}"),
        ({"stop_seqs": [""]}, "stop_seqs[0] must not be empty"),
        ({"stop_seqs": ["a", 1]}, "stop_seqs[1] must be a string, got 1"),
        ({"stop_seqs": ["a"] * 17}, "stop_seqs may hold at most 16 strings, got 17"),
        ({"stop_seqs": {"a"}}, "stop_seqs must be a list of strings, got {'a'}"),
        ({"logit_bias": [1]}, "logit_bias must map token ids to numbers, got [1]"),
        ({"logit_bias": {"1": 1}}, "logit_bias must have token ids as keys, got '1'"),
        ({"logit_bias": {-1: 1}}, "logit_bias ids must be at least 0, got -1"),
        ({"logit_bias": {1: 101}}, "logit_bias[1] must be at least -100 and at most 100, got 101"),
        ({"dry_multiplier": -1}, "dry_multiplier must be at least 0, got -1"),
        ({"dry_base": 0}, "dry_base must be above 0, got 0"),
        ({"dry_allowed_length": -1}, "dry_allowed_length must be at least 0, got -1"),
        ({"dry_sequence_breakers": [""]}, "dry_sequence_breakers[0] must not be empty"),
        ({"ignore_eos": 1}, "ignore_eos must be True or False, got 1"),
        ({"stream": None}, "stream must be True or False, got None"),
        ({"truncate_sequence": "no"}, "truncate_sequence must be True or False, got 'no'"),
    ],
)
@pytest.mark.parametrize("kind", [chat, text])
def test_out_of_range(kind: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        kind(**fields)
    assert caught.value.message == message
    assert caught.value.param == next(iter(fields))
    assert isinstance(caught.value, ValueError)


def test_logit_bias_beyond_the_vocabulary_is_found_on_sending() -> None:
    request = chat(logit_bias={9: 1})
    with pytest.raises(InvalidParameter, match=r"^logit_bias ids must be at least 0 and below 9, got 9$"):
        request.to_sampling(NOTHING, vocab_size=9)


def test_changed_requests_are_checked_again() -> None:
    request = chat()
    request.top_p = 2.0
    with pytest.raises(InvalidParameter, match=r"top_p"):
        request.check()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"logprobs": 1}, "logprobs must be True or False, got 1"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs must be from 0 to 20, got 21"),
        ({"top_logprobs": 1}, "top_logprobs needs logprobs=True"),
    ],
)
def test_chat_logprobs_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        chat(**fields)
    assert caught.value.message == message


@pytest.mark.parametrize("messages", [None, 5, {"role": "user"}, b"hi"])
def test_messages_of_a_wrong_type(messages: Any) -> None:
    with pytest.raises(InvalidParameter) as caught:
        ChatCompletionRequest(messages=messages)
    kind = type(messages).__name__
    assert caught.value.message == f"messages must be a list of messages or a string, got {kind}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grammar", "a+"),
        ("grammar_type", "regex"),
        ("tool_schemas", ["{}"]),
        ("tool_choice", "required"),
        ("web_search_options", {}),
        ("enable_code_execution", True),
        ("enable_shell", True),
        ("shell_skills", ["x"]),
        ("max_tool_rounds", 0),
        ("tool_dispatch_url", "http://x"),
        ("agent_permission", "ask"),
        ("agent_approval_callback", print),
        ("code_execution_permission", "ask"),
        ("session_id", "1"),
        ("files", ["x"]),
        ("input_files", ["x"]),
        ("adapter", "x"),
    ],
)
def test_what_is_not_offered(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedField) as caught:
        chat(**{name: value})
    assert caught.value.message == f"{name} is not offered by this version of ostro; leave it out"
    assert caught.value.param == name


@pytest.mark.parametrize(("name", "value"), [("enable_thinking", True), ("reasoning_effort", "low")])
def test_thinking_is_not_offered(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedField) as caught:
        chat(**{name: value})
    assert caught.value.message == f"{name} is not offered: Gemma 3 has no thinking mode"


def test_fields_that_ask_for_nothing_are_accepted() -> None:
    chat(
        enable_thinking=False,
        reasoning_effort="off",
        tool_schemas=[],
        tool_choice=ToolChoice.NoTools,
        grammar=None,
        web_search_options=None,
        files=[],
    )
    chat(tool_choice=ToolChoice.Auto)
    text(suffix="", tool_schemas=[])


def test_suffix_is_not_offered() -> None:
    with pytest.raises(UnsupportedField, match=r"^suffix is not offered: Gemma 3 was not trained to fill in"):
        text(suffix="x")


def test_unknown_fields_are_no_fields() -> None:
    with pytest.raises(TypeError, match=r"temprature"):
        chat(temprature=1)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", ["a"]),
        ("", [""]),
        ([1, 2], [[1, 2]]),
        (["a", "b"], ["a", "b"]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        (["a", [1]], ["a", [1]]),
    ],
)
def test_prompts(prompt: Any, expected: Any) -> None:
    assert text(prompt=prompt).prompts() == expected


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([], "prompt"),
        (None, "prompt"),
        (5, "prompt"),
        ([[]], "prompt[0]"),
        (["a", None], "prompt[1]"),
        ([True], "prompt[0]"),
    ],
)
def test_bad_prompts(prompt: Any, param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        text(prompt=prompt)
    assert caught.value.param == param


def test_best_of() -> None:
    assert text(n_choices=3).drawn() == 3
    assert text(n_choices=3, best_of=5).drawn() == 5
    assert text(best_of=None).drawn() == 1
    with pytest.raises(InvalidParameter, match=r"^best_of must be at least n_choices \(3\), got 2$"):
        text(n_choices=3, best_of=2)
    with pytest.raises(InvalidParameter, match=r"^best_of cannot be streamed"):
        text(best_of=2, stream=True)
    text(n_choices=2, best_of=2, stream=True)


def test_log_probabilities_of_an_echo() -> None:
    with pytest.raises(UnsupportedField, match=r"^log-probabilities of an echoed prompt are not offered$"):
        text(echo_prompt=True, logprobs=1)
