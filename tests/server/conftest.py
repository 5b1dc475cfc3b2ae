"""A server in a thread, over a host that needs no model."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn
from openai import AsyncOpenAI, OpenAI

from ostro.server.app import GracefulServer, create_app
from tests.server.fake_host import FakeLoop, fake_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ostro.host import ModelHost


@dataclass
class Served:
    """A running server and what is behind it."""

    host: ModelHost
    port: int
    server: GracefulServer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def loop(self) -> Any:
        return self.host.loop

    def openai(self) -> OpenAI:
        return OpenAI(api_key="none", base_url=f"{self.url}/v1", max_retries=0, timeout=30)

    def openai_async(self) -> AsyncOpenAI:
        return AsyncOpenAI(api_key="none", base_url=f"{self.url}/v1", max_retries=0, timeout=240)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        """Fail unless the condition comes true in time."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "did not happen in time"
            time.sleep(0.005)


@contextlib.contextmanager
def serving(host: ModelHost, **options: Any) -> Iterator[Served]:
    """Serve a host on a free port until the block ends; the host is closed then."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    config = uvicorn.Config(create_app(host, **options), lifespan="off", log_level="warning")
    server = GracefulServer(config, host, seconds=0.1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server")
    thread.start()
    try:
        while not server.started:
            time.sleep(0.002)
        yield Served(host, listener.getsockname()[1], server)
    finally:
        server.should_exit = True
        thread.join(10)
        host.close()
        listener.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(fake_host(FakeLoop())) as running:
        yield running
