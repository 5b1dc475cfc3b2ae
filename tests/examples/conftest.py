"""Where snippets run: a folder in which the documents' models are small ones, and a server of one.

`model.gguf`, `folder/model.gguf` and hub ids of 1b are the real 270m. Hub ids of 4b and more, which can see,
are the vision model of the package, and so is `gemma-3-4b-it-uqff`. Every https URL of an image is the demo's
picture, on a web server of the test.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest

from ostro.cli.model import demo_file
from ostro.loading.demo import demo_folder
from ostro.loading.uqff_writer import write_uqff
from tests.examples.snippets import ROOT
from tests.unit.loading.quantized import quantized_model
from tests.unit.prompt.image_server import ImageServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PORT = "1234"
PICTURE = "python/ostro/demo_model/picture.png"
IMAGE_URL = re.compile(r"https://[\w./-]+\.(?:png|jpg)")
SECONDS = 120
SEES = re.compile(r"-(?:4|12|27)b")
HUB_IDS = sorted(
    {
        match
        for folder in ("README.md", "docs/*.md", "examples/*/*.py")
        for page in ROOT.glob(folder)
        for match in re.findall(r"google/gemma-3-[\w-]+", page.read_text(encoding="utf-8"))
    }
)


@dataclass(frozen=True)
class Workplace:
    """A folder with models, and `ostro` and `python` on the path; nothing in it reaches the network.

    image_url: what stands for every https URL of an image.
    """

    folder: Path
    environment: dict[str, str]
    image_url: str

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command line to its end."""
        return self._run(["bash", "-o", "pipefail", "-c", IMAGE_URL.sub(self.image_url, command)])

    def python(self, source: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        return self._run([sys.executable, "-W", "error", "-c", IMAGE_URL.sub(self.image_url, source)])

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    @contextmanager
    def serving(self, command: str) -> Iterator[int]:
        """Start the server that `command` describes, on a free port; at the end tell it to stop."""
        port = free_port()
        if "--port" not in command:
            command += f" --port {PORT}"
        server = subprocess.Popen(
            ["bash", "-c", "exec " + with_port(command, port)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            wait_until_healthy(server, port)
            yield port
            server.send_signal(signal.SIGINT)
            said, _ = server.communicate(timeout=30)
            assert server.returncode in {0, 130, -signal.SIGINT}, said
            assert "Traceback" not in said
            assert "ERROR" not in said
        finally:
            if server.poll() is None:
                server.kill()
                server.communicate()


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def with_port(text: str, port: int) -> str:
    """`text` with the documents' port replaced."""
    return re.sub(rf"\b{PORT}\b", str(port), text)


def wait_until_healthy(server: subprocess.Popen[str], port: int) -> None:
    """Until /health says 200."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            assert server.stdout is not None
            pytest.fail(f"the server ended with {server.returncode}: {server.stdout.read()}")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    pytest.fail("the server did not become healthy")


@pytest.fixture(scope="session")
def image_url() -> Iterator[str]:
    """The demo's picture on a web server."""
    server = ImageServer()
    yield server.add("/picture.png", (demo_folder() / "picture.png").read_bytes())
    server.close()


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory, image_url: str) -> Workplace:
    """See `Workplace`. Hub ids are folders here: a local path comes first, everywhere."""
    folder = tmp_path_factory.mktemp("workplace")
    weights = demo_file()
    (folder / "model.gguf").symlink_to(weights)
    for model in ["folder", *HUB_IDS]:
        (folder / model).mkdir(parents=True)
        if SEES.search(model):
            for path in demo_folder().iterdir():
                (folder / model / path.name).symlink_to(path)
        else:
            (folder / model / "model.gguf").symlink_to(weights)
    write_uqff(quantized_model(demo_folder()), None, folder / "gemma-3-4b-it-uqff")
    for picture in (folder / PICTURE, folder / "picture.png"):
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.symlink_to(demo_folder() / "picture.png")
    programs = folder / "bin"
    programs.mkdir()
    (programs / "ostro").write_text(f'#!/bin/sh\nexec "{sys.executable}" -W error -m ostro "$@"\n')
    (programs / "ostro").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "XDG_STATE_HOME": str(folder / "state"),
        "PYTHONUNBUFFERED": "1",
    }
    return Workplace(folder, environment, image_url)


@pytest.fixture(scope="session")
def server_port(workplace: Workplace) -> Iterator[int]:
    """A server of the vision model, for snippets that speak HTTP."""
    command = f"ostro serve google/gemma-3-12b-it --port {PORT} --allow-private-image-hosts"
    with workplace.serving(command) as port:
        yield port
