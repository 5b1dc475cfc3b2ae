"""Quantizing anew while a server runs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ostro.config import RuntimeConfig
from ostro.errors import UnsupportedField
from ostro.host import ModelHost
from ostro.models.work import Work
from ostro.runner import Runner
from tests.server.conftest import serving
from tests.server.fake_host import fake_host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.server.conftest import Served

NOTHING = Work(layer_bytes=1, prompt_macs=1, head_bytes=1, head_macs=1, attention=(), dense=False)


@pytest.fixture
def demo() -> Iterator[Served]:
    with serving(ModelHost.load(None, RuntimeConfig())) as served:
        yield served


def ask(served: Served, **fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "Count to five."}
    body = {"messages": [message], "temperature": 0, "max_tokens": 24, **fields}
    response = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


def test_the_weights_change_between_steps_of_others(demo: Served) -> None:
    before = demo.host.work
    assert before is not None
    answers: list[dict[str, Any]] = []
    stop = threading.Event()

    def talk() -> None:
        while not stop.is_set():
            answers.append(ask(demo, ignore_eos=True))

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        response = httpx.post(f"{demo.url}/re_isq", json={"ggml_type": "q8_0"}, timeout=60)
    finally:
        stop.set()
        talker.join()
    assert response.status_code == 200
    assert response.json() == {"object": "re_isq", "model": "ostro-demo-vision", "ggml_type": "Q8_0"}
    after = demo.host.work
    assert after is not None
    assert after.layer_bytes == before.layer_bytes * 34 // 64
    assert answers
    assert {answer["usage"]["completion_tokens"] for answer in answers} == {24}


def test_one_prompt_before_and_after(demo: Served) -> None:
    expected = ask(demo)["choices"][0]["message"]["content"]
    for kind in ("Q8_0", 8):
        assert httpx.post(f"{demo.url}/re_isq", json={"ggml_type": kind}).status_code == 200
        assert ask(demo)["choices"][0]["message"]["content"] == expected


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        ({}, 400, "ggml_type", "ggml_type is missing"),
        ({"ggml_type": "Q9"}, 400, "in_situ_quant", "in_situ_quant: unknown type 'Q9'"),
        ({"ggml_type": "Q8_0", "model": "other"}, 404, "model", "the model 'other' is not loaded here"),
        ({"ggml_type": "Q8_0"}, 422, "ggml_type", "this model has no weights to quantize"),
    ],
)
def test_what_is_refused(body: dict[str, Any], status: int, param: str, message: str) -> None:
    with serving(fake_host()) as served:
        response = httpx.post(f"{served.url}/re_isq", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert error["message"].startswith(message)


@pytest.mark.parametrize("header", [{"Origin": "https://example.org"}, {"Host": "example.org"}])
def test_pages_of_strangers_change_nothing(header: dict[str, str]) -> None:
    with serving(fake_host()) as served:
        response = httpx.post(f"{served.url}/re_isq", json={"ggml_type": "Q8_0"}, headers=header)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "own_machine_only")


def test_other_machines_change_nothing() -> None:
    from ostro.server.local_only import OwnMachineOnly, check_own_machine

    check_own_machine({"type": "http", "headers": [], "client": ("127.0.0.1", 1)})
    check_own_machine({"type": "http", "headers": [], "client": ("::1", 1)})
    for address in ("192.0.2.7", "fe80::1%eth0", "nonsense"):
        with pytest.raises(OwnMachineOnly):
            check_own_machine({"type": "http", "headers": [], "client": (address, 1)})


def test_a_failure_leaves_the_model_as_it_was() -> None:
    asked: list[str | None] = []

    def requantize(name: str | None, importance: object, progress: object) -> Work:
        del importance, progress
        asked.append(name)
        if name == "Q4_0":
            raise UnsupportedField("not today")
        return NOTHING

    host = fake_host()
    host._requantize = requantize
    with Runner.from_host(host) as runner:
        runner.send_re_isq("8")
        assert host.work is NOTHING
        host.work = None
        with pytest.raises(UnsupportedField):
            runner.send_re_isq("Q4_0")
        assert host.work is None
    assert asked == ["Q8_0", "Q4_0"]
