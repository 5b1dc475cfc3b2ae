from __future__ import annotations

import asyncio
import gc
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ostro
from ostro import ChatCompletionRequest, CompletionRequest, Runner
from ostro.async_runner import AsyncRunner
from ostro.errors import (
    BadConfig,
    EngineError,
    InvalidParameter,
    PromptTooLong,
    UnknownModel,
    UnsupportedField,
)
from ostro.host import ModelHost
from ostro.template_source import read_chat_template
from ostro.truncation import keep_tail
from ostro.types import ImageSpan, Prompt
from tests.server.fake_host import BOS, FakeLoop, fake_host, fake_text

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def runner(loop: FakeLoop) -> Iterator[Runner]:
    with Runner.from_host(fake_host(loop)) as made:
        yield made


def chat(order: str, **fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest(messages=[{"role": "user", "content": order}], **fields)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.002)


def test_users_page(runner: Runner) -> None:
    response: Any = runner.send_chat_completion_request(
        chat(
            "What is this?", model="gemma3", max_tokens=256, presence_penalty=1.0, top_p=0.1, temperature=0.1
        )
    )
    assert response.choices[0].message.content == fake_text("What is this?")
    assert response.choices[0].finish_reason == "stop"
    assert response.model == "fake-org/fake-gemma"
    usage = response.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.avg_compl_tok_per_sec == usage.completion_tokens / 2.0
    assert usage.avg_prompt_tok_per_sec == usage.prompt_tokens / 0.5
    assert usage.avg_tok_per_sec == usage.total_tokens / 2.5


def test_the_requests_model_is_not_looked_at(runner: Runner) -> None:
    runner.send_chat_completion_request(chat("hi", model="anything"))
    with pytest.raises(UnknownModel, match=r"'anything' is not loaded here"):
        runner.send_chat_completion_request(chat("hi"), model_id="anything")


def test_streamed_chunks(runner: Runner) -> None:
    stream: Any = runner.send_chat_completion_request(chat("hello", stream=True))
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == fake_text("hello")
    assert {chunk.choices[0].delta.role for chunk in chunks} == {"assistant"}
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].usage.completion_tokens == len(chunks) - 1
    assert list(stream) == []


def test_streamed_completion(runner: Runner) -> None:
    stream: Any = runner.send_completion_request(CompletionRequest("once", stream=True, echo_prompt=True))
    texts = [chunk.choices[0].text for chunk in stream]
    assert texts[0] == "once"
    assert "".join(texts[1:]) == fake_text("once", chat=False)


def test_dropping_or_closing_a_stream_cancels(runner: Runner, loop: FakeLoop) -> None:
    stream: Any = runner.send_chat_completion_request(chat("!endless", stream=True, n_choices=2))
    next(stream)
    assert loop.live == 2
    del stream
    gc.collect()
    wait_until(lambda: loop.live == 0)
    stream = runner.send_chat_completion_request(chat("!endless", stream=True))
    next(stream)
    stream.close()
    stream.close()
    wait_until(lambda: loop.live == 0)
    assert list(stream) == []
    assert loop.canceled == 3


def test_interrupting_a_blocked_call_cancels(
    runner: Runner, loop: FakeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream: Any = runner.send_chat_completion_request(chat("!mute", stream=True))

    class Interrupted:
        def get(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(stream, "_events", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    wait_until(lambda: loop.live == 0)


def test_errors_come_out_and_nothing_stays(runner: Runner, loop: FakeLoop) -> None:
    with pytest.raises(EngineError, match=r"told to fail"):
        runner.send_chat_completion_request(chat("!fail", n_choices=2))
    stream: Any = runner.send_chat_completion_request(chat("!fail", stream=True))
    with pytest.raises(EngineError, match=r"told to fail"):
        list(stream)
    assert list(stream) == []
    with pytest.raises(PromptTooLong):
        runner.send_completion_request(CompletionRequest("x" * 3000))
    with pytest.raises(InvalidParameter, match=r"^logit_bias ids must be at least 0 and below"):
        runner.send_chat_completion_request(chat("hi", logit_bias={999: 1}))
    request = chat("hi")
    request.temperature = -1
    with pytest.raises(ValueError, match=r"temperature"):
        runner.send_chat_completion_request(request)
    wait_until(lambda: loop.live == 0)


def test_many_threads_share_a_runner(runner: Runner) -> None:
    def ask(number: int) -> str:
        response: Any = runner.send_chat_completion_request(chat(f"question {number}"))
        return str(response.choices[0].message.content)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(48))) == [fake_text(f"question {number}") for number in range(48)]


def test_threads_are_generated_for_side_by_side(runner: Runner, loop: FakeLoop) -> None:
    threads = [
        threading.Thread(
            target=runner.send_completion_request, args=(CompletionRequest("!endless", max_tokens=300),)
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: loop.live == 4)
    for thread in threads:
        thread.join()


def test_truncation_keeps_the_tail(runner: Runner) -> None:
    response: Any = runner.send_completion_request(
        CompletionRequest("x" * 3000 + "tail", truncate_sequence=True, max_tokens=100)
    )
    assert response.usage.prompt_tokens == 1900
    assert response.choices[0].text == fake_text("x" * 1895 + "tail", chat=False, max_tokens=100)


def test_keep_tail() -> None:
    prompt = Prompt((BOS, *range(100, 200)))
    assert keep_tail(prompt, 1000, None) is prompt
    cut = keep_tail(prompt, 60, 10)
    assert cut.token_ids == (BOS, *range(151, 200))
    assert len(keep_tail(prompt, 60, None).token_ids) == 30
    assert len(keep_tail(prompt, 60, 10_000).token_ids) == 30
    pixels = np.zeros((1, 1, 3), np.uint8)
    images = tuple(ImageSpan(start, 10, bytes([start]), pixels) for start in (2, 50, 70))
    cut = keep_tail(Prompt(prompt.token_ids, images), 60, 10)
    assert cut.token_ids == (BOS, *prompt.token_ids[60:])
    assert cut.images == (ImageSpan(11, 10, bytes([70]), pixels),)
    assert prompt.token_ids[70:80] == cut.token_ids[11:21]


def test_tokenizing(runner: Runner) -> None:
    ids = runner.tokenize_text("é<end_of_turn>", True)
    assert ids == [BOS, 256 + 195, 256 + 169, 106]
    assert runner.tokenize_text("<bos>", False) == [BOS]
    assert runner.detokenize_text(ids, True) == "é"
    assert runner.detokenize_text(ids, skip_special_tokens=False) == "<bos>é<end_of_turn>"
    with pytest.raises(InvalidParameter, match=r"^tokens\[1\] must be an id below 524, got 524$"):
        runner.detokenize_text([0, 524])
    with pytest.raises(InvalidParameter, match=r"^text must be a string, got list$"):
        runner.tokenize_text(["x"])  # type: ignore[arg-type]
    with pytest.raises(UnsupportedField, match=r"no thinking mode"):
        runner.tokenize_text("x", True, True)


def test_what_is_loaded(runner: Runner) -> None:
    assert runner.max_sequence_length() == 2000
    assert runner.list_models() == ["fake-org/fake-gemma"]
    assert runner.get_default_model_id() == "fake-org/fake-gemma"
    assert runner.is_model_loaded("fake-org/fake-gemma")
    assert not runner.is_model_loaded("other")
    runner.close()
    runner.close()
    assert not runner.is_model_loaded("fake-org/fake-gemma")
    with pytest.raises(EngineError):
        runner.send_chat_completion_request(chat("hi"))


def test_dropping_a_runner_frees_the_engine_but_not_under_a_stream() -> None:
    loop = FakeLoop()
    runner = Runner.from_host(fake_host(loop))
    stream: Any = runner.send_chat_completion_request(chat("hello", stream=True))
    del runner
    gc.collect()
    assert "".join(chunk.choices[0].delta.content for chunk in stream) == fake_text("hello")
    assert not loop.closed
    del stream
    gc.collect()
    assert loop.closed


def test_closing_ends_running_requests(runner: Runner) -> None:
    stream: Any = runner.send_chat_completion_request(chat("!endless", stream=True))
    next(stream)
    runner.close()
    assert list(stream)[-1].choices[0].finish_reason == "canceled"


# --- asyncio -----------------------------------------------------------------------------------------------


def with_async_runner(test: Callable[[AsyncRunner, FakeLoop], Any]) -> None:
    async def main() -> None:
        loop = FakeLoop()
        async with AsyncRunner.from_host(fake_host(loop)) as runner:
            await test(runner, loop)
            end = time.monotonic() + 5
            while loop.live:
                assert time.monotonic() < end, "a sequence was left running"
                await asyncio.sleep(0.002)

    asyncio.run(main())


def test_async_answers_side_by_side() -> None:
    async def test(runner: AsyncRunner, loop: FakeLoop) -> None:
        async def ask(number: int) -> str:
            request = chat(f"question {number}", stream=number % 2 == 0)
            answer: Any = await runner.send_chat_completion_request(request)
            if isinstance(answer, AsyncIterator):
                return "".join([chunk.choices[0].delta.content async for chunk in answer])
            return str(answer.choices[0].message.content)

        answers = await asyncio.gather(*(ask(number) for number in range(20)))
        assert answers == [fake_text(f"question {number}") for number in range(20)]
        completion: Any = await runner.send_completion_request(CompletionRequest("once"))
        assert completion.choices[0].text == fake_text("once", chat=False)
        assert await runner.tokenize_text("h") == [BOS, 256 + ord("h")]
        assert await runner.detokenize_text([BOS, 256 + ord("h")]) == "h"

    with_async_runner(test)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("order", ["!endless", "!mute"])
def test_cancelling_a_task_cancels_its_request(stream: bool, order: str) -> None:
    async def test(runner: AsyncRunner, loop: FakeLoop) -> None:
        async def ask() -> None:
            answer: Any = await runner.send_chat_completion_request(chat(order, stream=stream))
            async for _ in answer:
                pass

        task = asyncio.create_task(ask())
        while loop.live == 0:
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_async_runner(test)


def test_cancelling_while_the_prompt_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    building = threading.Event()
    start = ModelHost.start_chat

    def slow(self: ModelHost, *arguments: Any) -> Any:
        building.set()
        time.sleep(0.1)
        return start(self, *arguments)

    monkeypatch.setattr(ModelHost, "start_chat", slow)

    async def test(runner: AsyncRunner, loop: FakeLoop) -> None:
        task = asyncio.ensure_future(runner.send_chat_completion_request(chat("!endless")))
        await asyncio.to_thread(building.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while loop.submitted == 0:
            await asyncio.sleep(0.002)

    with_async_runner(test)


def test_dropping_an_async_stream_cancels() -> None:
    async def test(runner: AsyncRunner, loop: FakeLoop) -> None:
        stream: Any = await runner.send_chat_completion_request(chat("!endless", stream=True))
        await anext(stream)
        del stream
        gc.collect()

    with_async_runner(test)


def test_async_errors() -> None:
    async def test(runner: AsyncRunner, loop: FakeLoop) -> None:
        with pytest.raises(EngineError, match=r"told to fail"):
            await runner.send_chat_completion_request(chat("!fail"))
        with pytest.raises(PromptTooLong):
            await runner.send_completion_request(CompletionRequest("x" * 3000))

    with_async_runner(test)


# --- making a Runner ---------------------------------------------------------------------------------------


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the last Runner passed to ModelHost.load."""
    seen: dict[str, Any] = {}

    def load(cls: type[ModelHost], /, which: Any, runtime: Any, **arguments: Any) -> ModelHost:
        seen.update(arguments, which=which, runtime=runtime)
        return fake_host()

    monkeypatch.setattr(ModelHost, "load", classmethod(load))
    return seen


def test_arguments_arrive(loaded: dict[str, Any], tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages }}", encoding="utf-8")
    which = ostro.Which.Plain("some/model")
    Runner(
        which,
        8,
        token_source="none",
        jinja_explicit=template,
        in_situ_quant="q4k",
        seed=3,
        prompt_batchsize=64,
        pa_ctxt_len=4096,
        threads=2,
        compute="f32",
        kv_dtype="int8",
        max_waiting=5,
        kv_bytes=1 << 30,
        repack=False,
    ).close()
    runtime = loaded["runtime"]
    assert loaded["which"] is which
    assert loaded["token_source"] == "none"
    assert loaded["chat_template"] == "{{ messages }}"
    assert loaded["in_situ_quant"] == "Q4K"
    assert (runtime.max_seqs, runtime.seed, runtime.prefill_chunk, runtime.context_length) == (8, 3, 64, 4096)
    assert (runtime.threads, runtime.compute, runtime.max_waiting, runtime.kv_bytes) == (2, "f32", 5, 1 << 30)
    assert runtime.kv_dtype == "int8"
    assert runtime.repack is False


def test_defaults(loaded: dict[str, Any]) -> None:
    Runner("model.gguf").close()
    runtime = loaded["runtime"]
    assert (runtime.max_seqs, runtime.threads, runtime.compute, runtime.seed) == (16, 0, "auto", None)
    assert runtime.kv_dtype is None
    assert runtime.repack is True
    assert loaded["chat_template"] is None
    assert loaded["in_situ_quant"] is None


def test_arguments_without_effect_are_named_once(
    loaded: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Runner(
            "m", no_kv_cache=True, prefix_cache_n=0, pa_blk_size=32, no_paged_attn=True, enable_search=False
        ).close()
    [record] = caplog.records
    assert record.getMessage() == (
        "without meaning here, ignored: no_kv_cache, prefix_cache_n, pa_blk_size, no_paged_attn"
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"enable_search": True},
            UnsupportedField,
            "enable_search is not offered by this version of ostro; leave it out",
        ),
        (
            {"which_draft": object()},
            UnsupportedField,
            "which_draft is not offered by this version of ostro; leave it out",
        ),
        ({"max_seqs": 0}, InvalidParameter, "max_seqs must be at least 1, got 0"),
        ({"threads": -1}, InvalidParameter, "threads must be at least 0, got -1"),
        (
            {"compute": "f16"},
            InvalidParameter,
            "compute must be 'auto', 'int8', 'int14', 'mixed' or 'f32', got 'f16'",
        ),
        ({"kv_dtype": "q8"}, InvalidParameter, "kv_dtype must be 'f16', 'int8' or 'f32', got 'q8'"),
        ({"repack": "no"}, InvalidParameter, "repack must be True or False, got 'no'"),
        ({"seed": -1}, InvalidParameter, f"seed must be from 0 to {2**64 - 1}, got -1"),
        ({"context_length": 1}, InvalidParameter, "context_length must be at least 2, got 1"),
        ({"max_sequences": 1}, TypeError, "Runner got an unexpected argument 'max_sequences'"),
    ],
)
def test_bad_arguments(
    loaded: dict[str, Any], arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        Runner("m", **arguments)
    assert str(caught.value) == message


def test_no_model_is_the_one_in_the_package(caplog: pytest.LogCaptureFixture) -> None:
    with Runner() as runner:
        assert runner.host.config.vision is not None
        assert runner.is_model_loaded("gemma3")
    assert "no model is named: this is ostro-demo-vision" in caplog.text


def test_async_runner_loads_in_a_thread(loaded: dict[str, Any]) -> None:
    async def main() -> None:
        runner = await ostro.AsyncRunner.load("m", max_seqs=3)
        await runner.aclose()

    asyncio.run(main())
    assert loaded["runtime"].max_seqs == 3


def test_chat_template_sources(tmp_path: Path) -> None:
    assert read_chat_template("{% for m in messages %}") == "{% for m in messages %}"
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({"chat_template": "{{ x }}"}), encoding="utf-8")
    assert read_chat_template(str(file)) == "{{ x }}"
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(BadConfig, match='no text under "chat_template"'):
        read_chat_template(file)
    file.write_text("{", encoding="utf-8")
    with pytest.raises(BadConfig, match=r"not valid JSON"):
        read_chat_template(file)
    with pytest.raises(BadConfig, match=r"No such file"):
        read_chat_template(tmp_path / "missing.jinja")


# --- the package -------------------------------------------------------------------------------------------


def test_public_names() -> None:
    assert ostro.__all__ == sorted(ostro.__all__)
    for name in set(ostro.__all__) - {"Model", "load_model"}:  # those need the kernels
        assert getattr(ostro, name) is not None
    with pytest.raises(AttributeError, match=r"module 'ostro' has no attribute 'nothing'"):
        _ = ostro.nothing


def test_importing_is_light() -> None:
    heavy = [
        "fastapi",
        "uvicorn",
        "pydantic",
        "httpx",
        "huggingface_hub",
        "jinja2",
        "tokenizers",
        "numpy",
        "asyncio",
    ]
    code = f"import sys, ostro; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
