"""Clients that leave free their sequences at once, and nobody notices."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.server.conftest import Served, serving
from tests.server.fake_host import fake_host

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing may be logged as an error."""
    with caplog.at_level(logging.WARNING):
        yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.fixture
def own() -> Iterator[Served]:
    with serving(fake_host()) as served:
        yield served


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("order", ["!endless", "!mute"])
def test_leaving_a_stream(own: Served, order: str) -> None:
    with own.http() as client:
        body = {"messages": order, "stream": True, "n": 3}
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            received = response.iter_raw()  # kept: dropping it would close the response
            next(received)
            assert own.loop.live == 3
    own.wait_until(lambda: own.loop.live == 0)
    assert own.loop.canceled == 3


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("order", ["!endless", "!mute"])
def test_leaving_while_waiting_for_a_whole_answer(own: Served, order: str) -> None:
    with own.http() as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json={"messages": order}, timeout=0.2)
    own.wait_until(lambda: own.loop.live == 0)
    assert own.loop.canceled == 1


@pytest.mark.usefixtures("quiet")
def test_leaving_while_the_body_is_sent(own: Served) -> None:
    with socket.create_connection(("127.0.0.1", own.port)) as raw:
        raw.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b'content-length: 100\r\n\r\n{"prompt": '
        )
    assert httpx.post(f"{own.url}/v1/completions", json={"prompt": "hi"}).status_code == 200
    assert own.loop.submitted == 1


@pytest.mark.usefixtures("quiet")
def test_closing_the_openai_stream(own: Served) -> None:
    with own.openai() as client:
        stream: Any = client.completions.create(model="default", prompt="!endless", stream=True)
        for _ in range(3):
            next(stream)
        stream.close()
        own.wait_until(lambda: own.loop.live == 0)


@pytest.mark.usefixtures("quiet")
def test_cancelling_an_asynchronous_client(own: Served) -> None:
    async def main() -> None:
        async with own.openai_async() as client:
            asking = asyncio.create_task(client.completions.create(model="default", prompt="!endless"))
            while own.loop.live == 0:
                await asyncio.sleep(0.005)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(main())
    own.wait_until(lambda: own.loop.live == 0)


def test_closing_the_host_ends_streams() -> None:
    with serving(fake_host()) as served, served.http() as client:
        body = {"prompt": "!endless", "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            served.host.close()
            rest = list(lines)
    assert '"finish_reason":"canceled"' in rest[-4]
    assert rest[-2:] == ["data: [DONE]", ""]


@pytest.mark.usefixtures("quiet")
def test_shutting_down_the_server_ends_streams_properly(own: Served) -> None:
    with own.http() as client:
        body = {"messages": "!endless", "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            own.server.should_exit = True
            rest = list(lines)
    assert '"finish_reason":"canceled"' in rest[-4]
    assert rest[-2:] == ["data: [DONE]", ""]
    own.wait_until(lambda: own.loop.live == 0)
