"""Images over HTTP, with the demo model that ostro carries along."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from typing import TYPE_CHECKING, Any

import openai
import pytest
from PIL import Image, ImageDraw

from ostro.config import RuntimeConfig
from ostro.host import ModelHost
from ostro.prompt.fetch import ImageAccess
from tests.server.conftest import Served, serving
from tests.unit.prompt.image_server import ImageServer

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from pathlib import Path

COLOURS = {"red": (214, 40, 40), "blue": (40, 90, 225)}


def picture(colour: str, size: int = 224, *, kind: str = "PNG") -> bytes:
    """A large circle in the middle of a white picture."""
    image = Image.new("RGB", (size, size), (250, 250, 250))
    ImageDraw.Draw(image).ellipse([size * 0.35, size * 0.35, size * 0.65, size * 0.65], fill=COLOURS[colour])
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def described(colour: str) -> str:
    return f"A large {colour} circle in the centre on a white background."


def image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def web() -> Iterator[ImageServer]:
    server = ImageServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for colour in COLOURS:
        (folder / f"{colour}.png").write_bytes(picture(colour))
    return folder


@pytest.fixture(scope="module")
def seeing(root: Path) -> Iterator[Served]:
    """A server that may reach loopback, and read one folder."""
    access = ImageAccess(private_hosts=True, roots=(root,))
    with serving(ModelHost.load(None, RuntimeConfig(max_seqs=8), images=access)) as running:
        yield running


@pytest.fixture(scope="module")
def strict() -> Iterator[Served]:
    """A server with the rules for strangers."""
    with serving(ModelHost.load(None, RuntimeConfig(), images=ImageAccess())) as running:
        yield running


def ask(served: Served, *parts: dict[str, Any], **fields: Any) -> Any:
    messages: Any = [{"role": "user", "content": list(parts)}]
    arguments = {"model": "gemma3", "max_tokens": 64, "temperature": 0, **fields}
    with served.openai() as client:
        return client.chat.completions.create(messages=messages, **arguments)


def said(completion: Any) -> str:
    return str(completion.choices[0].message.content)


@pytest.mark.parametrize("form", ["url", "path", "file", "data", "base64", "jpeg"])
def test_every_way_to_send_an_image(seeing: Served, web: ImageServer, root: Path, form: str) -> None:
    source = {
        "url": web.add("/red.png", picture("red")),
        "path": str(root / "red.png"),
        "file": (root / "red.png").as_uri(),
        "data": data_url(picture("red")),
        "base64": base64.b64encode(picture("red")).decode(),
        "jpeg": data_url(picture("red", 500, kind="JPEG")),
    }[form]
    completion = ask(seeing, image_part(source), text_part("What is this?"))
    assert said(completion) == described("red")
    assert completion.choices[0].finish_reason == "stop"


def test_usage_counts_the_image(seeing: Served) -> None:
    alone = ask(seeing, text_part("What is this?"))
    with_image = ask(seeing, image_part(data_url(picture("red"))), text_part("What is this?"))
    # 49 soft tokens, two markers, a run of line breaks behind; the one in front is part of the turn's first.
    assert with_image.usage.prompt_tokens - alone.usage.prompt_tokens == 49 + 3
    with seeing.http() as client:
        messages = [
            {"role": "user", "content": [image_part(data_url(picture("red"))), text_part("What is this?")]}
        ]
        tokens = client.post("/tokenize", json={"messages": messages}).json()["tokens"]
    assert len(tokens) == with_image.usage.prompt_tokens
    assert tokens.count(max(tokens)) == 49


def test_images_keep_their_order(seeing: Served) -> None:
    red, blue = (image_part(data_url(picture(colour))) for colour in ("red", "blue"))
    for images, first, second in (((red, blue), "red", "blue"), ((blue, red), "blue", "red")):
        answer = said(ask(seeing, *images, text_part("What is in the first image?")))
        assert answer == described(first)
        answer = said(ask(seeing, *images, text_part("What is in the second image?")))
        assert answer == described(second)


def test_streamed_and_in_a_later_turn(seeing: Served) -> None:
    look: Any = [image_part(data_url(picture("blue"))), text_part("What is this?")]
    with seeing.openai() as client:
        chunks = client.chat.completions.create(
            model="gemma3", messages=[{"role": "user", "content": look}], temperature=0, stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == described("blue")
    messages: Any = [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hello! Show me a picture and ask me about it."},
        {"role": "user", "content": look},
    ]
    with seeing.openai() as client:
        completion = client.chat.completions.create(
            model="default", messages=messages, temperature=0, max_tokens=64
        )
    assert "blue" in said(completion)


def test_the_same_image_is_encoded_once(seeing: Served) -> None:
    part = image_part(data_url(picture("red", 301)))
    ask(seeing, part, text_part("What is this?"))
    before = seeing.loop.stats().images
    ask(seeing, part, text_part("Describe the image."))
    assert seeing.loop.stats().images == before


def test_a_slow_web_server_holds_up_nobody_else(seeing: Served, web: ImageServer) -> None:
    """24 requests wait for a picture that does not come; texts are answered meanwhile."""

    def never(connection: Any, closing: threading.Event) -> None:
        closing.wait(8)

    url = web.talk("/never.png", never)

    async def crowd() -> tuple[list[float], list[Exception]]:
        async with seeing.openai_async() as client:
            return await together(client)

    async def together(client: openai.AsyncOpenAI) -> tuple[list[float], list[Exception]]:
        async def look() -> Exception:
            messages: Any = [{"role": "user", "content": [image_part(url), text_part("What is this?")]}]
            try:
                await client.chat.completions.create(model="gemma3", messages=messages, timeout=4)
            except Exception as error:  # a timeout of this client, or the server's own
                return error
            raise AssertionError("there is nothing to see")

        async def talk() -> float:
            started = time.perf_counter()
            await client.chat.completions.create(
                model="gemma3", messages=[{"role": "user", "content": "Hello!"}], max_tokens=8
            )
            return time.perf_counter() - started

        waiting = [asyncio.create_task(look()) for _ in range(24)]
        await asyncio.sleep(0.5)
        durations = [await talk() for _ in range(5)]
        return durations, await asyncio.gather(*waiting)

    durations, errors = asyncio.run(crowd())
    assert len(errors) == 24
    assert max(durations) < 2.0, "a text waited for other people's pictures"
    seeing.wait_until(lambda: seeing.loop.stats().running == 0)


def refused(served: Served, source: str) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as error:
        ask(served, text_part("Look:"), image_part(source))
    assert error.value.body is not None
    return error.value


def test_strangers_reach_nothing_private(strict: Served, web: ImageServer, root: Path) -> None:
    web.add("/red.png", picture("red"))
    for source in (
        web.url("/red.png"),
        web.url("/red.png", "localhost"),
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/x.png",
        "http://10.0.0.1/x.png",
        str(root / "red.png"),
        (root / "red.png").as_uri(),
        "/etc/passwd",
    ):
        error = refused(strict, source)
        assert (error.status_code, error.code) == (403, "image_refused"), source
        assert error.param == "messages[0].content[1].image_url.url"
    assert said(ask(strict, image_part(data_url(picture("red"))), text_part("What is this?"))) == described(
        "red"
    )


def test_roots_are_walls(seeing: Served, root: Path) -> None:
    (root / "link.png").symlink_to("/etc/passwd")
    for source in (str(root / "link.png"), str(root / ".." / "x.png"), "/etc/passwd", "/dev/zero"):
        assert refused(seeing, source).status_code == 403, source


@pytest.mark.parametrize(
    ("source", "status", "code"),
    [
        (data_url(picture("red")[:200]), 400, "invalid_image"),
        (data_url(b"<html></html>"), 400, "invalid_image"),
        (data_url(b""), 400, "invalid_image"),
        ("data:image/png;base64,@@@", 400, "invalid_image"),
        ("ftp://example.com/x.png", 400, "invalid_image"),
        ("", 400, "invalid_image"),
        ("a path, maybe", 403, "image_refused"),
    ],
)
def test_bad_images_are_the_clients_fault(seeing: Served, source: str, status: int, code: str) -> None:
    error = refused(seeing, source)
    assert (error.status_code, error.code, error.type) == (status, code, "invalid_request_error")
    assert error.param == "messages[0].content[1].image_url.url"


def test_web_servers_misbehave(seeing: Served, web: ImageServer) -> None:
    missing = web.add("/missing.png", b"gone", status="404 Not Found")
    error = refused(seeing, missing)
    assert (error.status_code, error.code) == (400, "image_fetch_failed")
    assert "404" in error.message
    loop = web.add("/loop", b"", status="302 Found", Location="/loop")
    assert refused(seeing, loop).code == "image_fetch_failed"

    def endless(connection: Any, closing: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        block = bytes(1 << 20)
        for _ in range(200):  # 200 MB without a declared length
            connection.sendall(block)

    error = refused(seeing, web.talk("/endless", endless))
    assert (error.status_code, error.code) == (413, "image_too_large")
    assert said(ask(seeing, image_part(data_url(picture("red"))), text_part("What is this?"))) == described(
        "red"
    )


def test_too_many_images(seeing: Served) -> None:
    part = image_part(data_url(picture("red", 8)))
    with pytest.raises(openai.APIStatusError) as error:
        ask(seeing, *[part] * 65)
    assert error.value.status_code == 413
    assert "at most 64" in error.value.message


def test_pan_and_scan(seeing: Served) -> None:
    wide = Image.new("RGB", (600, 300), (250, 250, 250))
    ImageDraw.Draw(wide).ellipse([60, 60, 240, 240], fill=COLOURS["red"])
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    part = image_part(data_url(buffer.getvalue()))
    whole = ask(seeing, part, text_part("What is this?")).usage.prompt_tokens
    cropped = ask(
        seeing, part, text_part("What is this?"), extra_body={"pan_and_scan": True}
    ).usage.prompt_tokens
    assert cropped > whole + 2 * 49


@pytest.fixture(scope="module")
def local() -> Iterator[Served]:
    """A server for this machine, which may name any file."""
    with serving(ModelHost.load(None, RuntimeConfig(), images=ImageAccess(any_path=True))) as running:
        yield running


def test_pages_of_strangers_are_kept_out(local: Served, strict: Served) -> None:
    """A browser on this machine is local; the pages in it are not, nor names that resolve to 127.0.0.1."""
    body = {"messages": "Hello!", "max_tokens": 1}
    foreign = [
        {"origin": "https://elsewhere.example"},
        {"origin": "null"},
        {"host": "elsewhere.example"},
        {"host": f"elsewhere.example:{local.port}"},
        {"host": "127.0.0.1.elsewhere.example"},
    ]
    with local.http() as client:
        for headers in foreign:
            answer = client.post("/v1/chat/completions", json=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin"), headers
            assert "access-control-allow-origin" not in answer.headers
        preflight = {**foreign[0], "access-control-request-method": "POST"}
        assert client.options("/v1/chat/completions", headers=preflight).status_code == 403
        for origin in ("http://localhost:3000", "http://127.0.0.1", "http://[::1]:8080"):
            answer = client.post("/v1/chat/completions", json=body, headers={"origin": origin})
            assert answer.status_code == 200, origin
        answer = client.post("/v1/chat/completions", json=body, headers={"host": "localhost"})
        assert answer.status_code == 200
    # Who reads nothing of this machine may answer every page, as before.
    with strict.http() as client:
        assert client.post("/v1/chat/completions", json=body, headers=foreign[0]).status_code == 200
