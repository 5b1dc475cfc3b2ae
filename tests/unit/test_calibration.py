"""An importance matrix from the traffic of a real, small model that sees."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ostro import ChatCompletionRequest, CompletionRequest, Runner
from ostro.asked_importance import importance_of
from ostro.async_runner import AsyncRunner
from ostro.config import IsqConfig
from ostro.errors import BadTensor, EngineError, InvalidParameter, UnsupportedField
from ostro.loading.demo import demo_folder
from ostro.loading.open import open_checkpoint
from ostro.ops.cpu import CpuOps
from ostro.quant.imatrix import read_imatrix, write_imatrix
from ostro.quant.importance import Importance
from tests.server.fake_host import fake_host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ostro.loading.checkpoint import Progress


@pytest.fixture(scope="module")
def loaded() -> Iterator[Runner]:
    with Runner(threads=2) as made:
        yield made


@pytest.fixture
def runner(loaded: Runner) -> Iterator[Runner]:
    yield loaded
    loaded.host.calibration.end()


def picture(seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def say(runner: Runner, text: str, image: str | None = None) -> Any:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if image is not None:
        parts.insert(0, {"type": "image_url", "image_url": {"url": image}})
    request = ChatCompletionRequest(
        messages=[{"role": "user", "content": parts}], max_tokens=6, temperature=0.0
    )
    return runner.send_chat_completion_request(request)


def test_traffic_is_recorded_and_saved(runner: Runner, tmp_path: Path) -> None:
    before = say(runner, "What is there?").choices[0].message.content
    assert not runner.calibration_status().collecting
    begun = runner.begin_calibration()
    assert begun.collecting
    assert begun.layers == begun.layers_tracking > 0
    assert begun.max_rows == 0

    answer = say(runner, "What is there?")
    assert answer.choices[0].message.content == before
    status = runner.calibration_status()
    usage = answer.usage
    # The last sampled token is not read again, the head sees one row per sampled token, no image came by.
    assert status.max_rows == usage.prompt_tokens + usage.completion_tokens - 1
    assert status.min_rows == 0
    importance = runner.host.calibration.importance()
    assert importance.rows["embed_tokens.weight"] == usage.completion_tokens
    assert not any(name.startswith("vision") for name in importance)

    say(runner, "What is there?", picture(1))
    assert runner.calibration_status().min_rows > 0

    saved = tmp_path / "traffic.cimatrix"
    applied = runner.apply_calibration(str(saved))
    assert applied.collecting
    assert applied.total_rows > status.total_rows
    assert not runner.calibration_status().collecting
    assert "layers.0.mlp.down_proj.weight" in read_imatrix(saved)
    assert say(runner, "What is there?").choices[0].message.content == before


def test_importance_covers_every_matrix(runner: Runner, tmp_path: Path) -> None:
    runner.begin_calibration()
    say(runner, "Describe it.", picture(2))
    path = tmp_path / "traffic.gguf"
    layers = runner.apply_calibration(path).layers
    importance = read_imatrix(path)
    assert len(importance) == layers
    assert {"projector.mm_input_projection_weight", "vision.encoder.layers.0.mlp.fc2.weight"} <= set(
        importance
    )


def test_requests_that_are_under_way_go_on(runner: Runner) -> None:
    def complete() -> str:
        request = CompletionRequest("One two three", max_tokens=60, temperature=0.0, ignore_eos=True)
        answer: Any = runner.send_completion_request(request)
        return str(answer.choices[0].text)

    alone = complete()
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(complete())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        runner.begin_calibration()
        runner.host.calibration.end()
    for thread in threads:
        thread.join()
    assert texts == [alone] * 3


def test_weights_are_quantized_anew_by_what_was_collected(runner: Runner) -> None:
    got: list[Importance] = []

    def fail(name: str | None, importance: Any, progress: Progress | None) -> Any:
        raise EngineError("no memory")

    def quantize(name: str | None, importance: Any, progress: Progress | None) -> Any:
        assert name is None  # the format in use
        got.append(importance)

    runner.begin_calibration()
    say(runner, "What is there?")
    requantize, runner.host._requantize, runner.host._in_situ = runner.host._requantize, fail, True
    try:
        with pytest.raises(EngineError, match="no memory"):
            runner.apply_calibration()
        assert runner.calibration_status().collecting  # nothing is lost
        runner.host._requantize = quantize
        runner.apply_calibration()
    finally:
        runner.host._requantize, runner.host._in_situ = requantize, False
    assert "layers.0.self_attn.q_proj.weight" in got[0]
    assert not runner.calibration_status().collecting


def test_what_cannot_be_done_is_said(runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedField, match="nothing to quantize anew"):
        runner.apply_calibration()
    with pytest.raises(InvalidParameter, match="begin a calibration first"):
        runner.apply_calibration(tmp_path / "a.gguf")
    with pytest.raises(InvalidParameter, match=r"ends in \.gguf"):
        runner.apply_calibration(tmp_path / "a.txt")
    runner.begin_calibration()
    with pytest.raises(InvalidParameter, match="under way"):
        runner.begin_calibration()
    with pytest.raises(InvalidParameter, match="nothing was collected yet"):
        runner.apply_calibration(tmp_path / "a.gguf")
    assert list(tmp_path.iterdir()) == []
    with Runner.from_host(fake_host()) as other, pytest.raises(UnsupportedField, match="cannot collect"):
        other.begin_calibration()


def test_the_asynchronous_twin(runner: Runner, tmp_path: Path) -> None:
    twin = AsyncRunner.from_host(runner.host)

    async def collect() -> None:
        assert (await twin.begin_calibration()).collecting
        await twin.send_chat_completion_request(ChatCompletionRequest("Hello", max_tokens=2))
        assert (await twin.calibration_status()).total_rows > 0
        await twin.apply_calibration(tmp_path / "a.imatrix")

    asyncio.run(collect())
    assert read_imatrix(tmp_path / "a.imatrix")


def test_a_closed_engine_says_so() -> None:
    runner = Runner(threads=1)
    runner.close()
    with pytest.raises(EngineError, match="closed"):
        runner.begin_calibration()
    assert not runner.calibration_status().collecting


def test_a_text_or_a_file_says_how_to_quantize(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(demo_folder())
    ops = CpuOps(threads=2)
    text = tmp_path / "text.txt"
    text.write_text("There are two red circles and a green square. " * 40)
    told: list[tuple[str, int, int]] = []
    isq = IsqConfig(name="Q8_0", calibration=text)
    importance = importance_of(checkpoint, isq, ops, lambda *news: told.append(news))
    assert importance is not None
    assert importance.datasets == ("text.txt",)
    assert told[-1] == ("Calibrating", 1840, 1840)

    file = tmp_path / "imatrix.gguf"
    write_imatrix(importance, file)
    read = importance_of(checkpoint, IsqConfig(name="Q8_0", imatrix=file), ops)
    assert read is not None
    assert list(read) == list(importance)
    assert importance_of(checkpoint, IsqConfig(name="Q8_0"), ops) is None

    with pytest.raises(InvalidParameter, match="exclude each other"):
        importance_of(checkpoint, replace(isq, imatrix=file), ops)
    write_imatrix(Importance({"layers.0.mlp.up_proj.weight": np.ones(7, np.float32)}), file)
    with pytest.raises(BadTensor, match=r"imatrix\.gguf: .*that of another model"):
        importance_of(checkpoint, IsqConfig(name="Q8_0", imatrix=file), ops)


def test_the_importance_of_a_text_is_kept_with_the_quantized_weights(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A small dog runs. " * 30)
    isq = IsqConfig(name="Q8_0", calibration=text, cache=tmp_path / "cache")
    checkpoint = open_checkpoint(demo_folder())
    told: list[tuple[str, int, int]] = []

    def digest() -> str:
        importance = importance_of(checkpoint, isq, CpuOps(threads=2), lambda *news: told.append(news))
        assert importance is not None
        return importance.digest()

    first = digest()
    assert told
    told.clear()
    assert digest() == first
    assert not told
    text.write_text("A large cat sleeps. " * 30)
    assert digest() != first
    assert len(list((tmp_path / "cache").glob("*.imatrix.gguf"))) == 2


def test_the_format_in_use_is_kept(tmp_path: Path) -> None:
    with Runner(in_situ_quant="Q8_0", threads=2) as runner:
        before = say(runner, "What is there?", picture(3)).choices[0].message.content
        runner.begin_calibration()
        say(runner, "What is there?", picture(3))
        assert runner.apply_calibration().collecting
        assert not runner.calibration_status().collecting
        # Weights of 8 bits are not weighed: nothing has changed but that they were made anew.
        assert say(runner, "What is there?", picture(3)).choices[0].message.content == before
        assert runner.begin_calibration().max_rows == 0
        say(runner, "What is there?", picture(3))
        assert runner.calibration_status().min_rows > 0


def test_collecting_goes_on_when_weights_are_exchanged() -> None:
    with Runner(in_situ_quant="Q8_0", threads=2) as runner:
        runner.begin_calibration()
        say(runner, "What is there?")
        before = runner.calibration_status().max_rows
        runner.send_re_isq("Q8_0")
        say(runner, "What is there?")
        assert runner.calibration_status().max_rows > before
