from __future__ import annotations

import base64
import io
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from ostro.errors import BadImage, EngineError, ImageFetchFailed, ImageRefused, ImageTooLarge
from ostro.prompt.addresses import is_public
from ostro.prompt.fetch import IN_PROCESS, ImageAccess, ImageFetcher, ImageLimits

from .image_server import ImageServer

if TYPE_CHECKING:
    from collections.abc import Iterator

_RED = (250, 10, 20)
_WHERE = "messages[0].content[1].image_url.url"


def _png(colour: tuple[int, int, int] = _RED, size: tuple[int, int] = (5, 3)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def _fetch(source: Any, access: ImageAccess = IN_PROCESS, **limits: Any) -> Image.Image:
    (image,) = ImageFetcher(access, ImageLimits(**limits)).fetch_all([source], [_WHERE])
    return image


def _is_red(image: Image.Image) -> bool:
    return image.mode == "RGB" and image.size == (5, 3) and image.getpixel((4, 2)) == _RED


@pytest.fixture
def server() -> Iterator[ImageServer]:
    server = ImageServer()
    yield server
    server.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a picture (1).png"
    path.write_bytes(_png())
    return path


def test_objects() -> None:
    png = _png()
    assert _is_red(_fetch(png))
    assert _is_red(_fetch(bytearray(png)))
    assert _is_red(_fetch(memoryview(png)))
    assert _is_red(_fetch(Image.new("RGB", (5, 3), _RED)))
    assert _is_red(_fetch(np.full((3, 5, 3), _RED, np.uint8)))


def test_paths(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(file.parent))
    monkeypatch.chdir(file.parent)
    for source in (
        file,
        str(file),
        file.name,
        f"./{file.name}",
        f"~/{file.name}",
        f"file://{quote(str(file))}",
        f"file://localhost{quote(str(file))}",
        f"FILE:{quote(str(file))}",
    ):
        assert _is_red(_fetch(source)), source


@pytest.mark.parametrize(
    "spell",
    [
        lambda code: code,
        lambda code: code.rstrip("="),
        lambda code: code.replace("+", "-").replace("/", "_"),
        lambda code: "\n".join(code[at : at + 76] for at in range(0, len(code), 76)) + "\r\n",
        lambda code: f"data:image/png;base64,{code}",
        lambda code: f"DATA:;BASE64,{code}",
        lambda code: f"data:text/html;charset=utf-8;base64,{quote(code)}",
        lambda code: f"data:;base64,{code.rstrip('=')}\n",
        lambda code: "data:," + quote(base64.b64decode(code)),
        lambda code: "data:application/octet-stream," + quote(base64.b64decode(code)),
    ],
)
def test_base64_and_data_urls(spell: Any) -> None:
    assert _is_red(_fetch(spell(base64.b64encode(_png()).decode()), ImageAccess()))


def test_base64_of_jpeg_begins_like_a_path() -> None:
    stored = io.BytesIO()
    Image.new("RGB", (5, 3), _RED).save(stored, "JPEG")
    code = base64.b64encode(stored.getvalue()).decode()
    assert code.startswith("/9j/")
    assert _fetch(code, ImageAccess()).size == (5, 3)
    assert _fetch(code).size == (5, 3)


def test_a_file_that_is_there_comes_before_base64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = base64.b64encode(_png((0, 0, 0), (1, 1)))[:60].decode().replace("/", "_")
    Path(name).write_bytes(_png())
    assert _is_red(_fetch(name))


def test_url(server: ImageServer) -> None:
    url = server.add("/cat.png?size=5&x=%20#", _png())
    server.answers["/cat.png?size=5&x=%20"] = server.answers.pop("/cat.png?size=5&x=%20#")
    assert _is_red(_fetch(url))
    head = server.requests[0].decode().lower()
    assert f"host: 127.0.0.1:{server.port}\r\n" in head
    assert "user-agent: ostro/" in head
    assert "cookie" not in head
    assert "authorization" not in head


def test_content_is_told_from_its_bytes_not_from_what_the_server_says(server: ImageServer) -> None:
    assert _is_red(_fetch(server.add("/a.html", _png(), Content_Type="text/html")))


def test_redirects_are_followed_without_cookies(server: ImageServer) -> None:
    server.add("/b/c.png", _png())
    server.add("/a", b"", status="301 Moved", Location="b/d", Set_Cookie="a=b")
    server.add("/b/d", b"", status="307 Moved", Location=server.url("/b/e", "localhost"))
    server.add("/b/e", b"", status="302 Found", Location="/b/c.png")
    assert _is_red(_fetch(server.url("/a")))
    assert len(server.requests) == 4
    assert not any(b"cookie" in request.lower() for request in server.requests)


def test_proxies_of_the_environment_are_not_used(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert _is_red(_fetch(server.add("/a", _png())))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_packed_answer_is_unpacked(server: ImageServer, encoding: str) -> None:
    import gzip
    import zlib

    packed = gzip.compress(_png()) if encoding == "gzip" else zlib.compress(_png())
    assert _is_red(_fetch(server.add("/a", packed, Content_Encoding=encoding)))


def test_all_in_order_and_at_the_same_time(server: ImageServer) -> None:
    arrived = threading.Barrier(4)

    def answer(connection: socket.socket, closing: threading.Event) -> None:
        arrived.wait(5)  # none is answered before all have asked
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + _png())

    url = server.talk("/a", answer)
    sources: list[Any] = [url, _png((1, 2, 3)), url, url, Image.new("RGB", (7, 7)), url]
    images = ImageFetcher(IN_PROCESS).fetch_all(sources, [f"images[{i}]" for i in range(6)])
    assert [image.size for image in images] == [(5, 3), (5, 3), (5, 3), (5, 3), (7, 7), (5, 3)]
    assert images[1].getpixel((0, 0)) == (1, 2, 3)


def test_the_first_error_ends_the_call_and_names_its_place(server: ImageServer) -> None:
    given_up = threading.Semaphore(0)

    def never(connection: socket.socket, closing: threading.Event) -> None:
        if connection.recv(1) == b"":  # the client hangs up
            given_up.release()

    def refuse(connection: socket.socket, closing: threading.Event) -> None:
        while len(server.requests) < 3 and not closing.wait(0.01):
            pass
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    urls = [server.talk("/never", never), server.url("/never"), server.talk("/none", refuse)]
    start = time.monotonic()
    with pytest.raises(ImageFetchFailed, match="404") as caught:
        ImageFetcher(IN_PROCESS).fetch_all(urls, ["a", "b", "c.url"])
    assert time.monotonic() - start < 2
    assert caught.value.param == "c.url"
    assert str(caught.value).startswith("c.url: ")
    assert given_up.acquire(timeout=3)
    assert given_up.acquire(timeout=3)


def test_one_fetcher_serves_many_threads(server: ImageServer) -> None:
    url = server.add("/a", _png())
    fetcher = ImageFetcher(IN_PROCESS)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: fetcher.fetch_all([url, _png()], ["a", "b"]), range(24)))
    assert all(_is_red(image) for images in found for image in images)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ostro-look-up")]


def test_no_images() -> None:
    assert ImageFetcher(ImageAccess()).fetch_all([], []) == []


def test_close_gives_up_what_is_under_way(server: ImageServer) -> None:
    url = server.talk("/never", lambda connection, closing: closing.wait(5))
    fetcher = ImageFetcher(IN_PROCESS)
    with ThreadPoolExecutor(1) as pool:
        fetch = pool.submit(fetcher.fetch_all, [url], ["a"])
        while not server.requests:
            time.sleep(0.01)
        fetcher.close()
        with pytest.raises(EngineError):
            fetch.result(2)
    with pytest.raises(EngineError, match="closed"):
        fetcher.fetch_all([_png()], ["a"])


def test_limits_of_a_request() -> None:
    fetcher = ImageFetcher(IN_PROCESS, ImageLimits(max_images=2, max_request_pixels=29))
    with pytest.raises(ImageTooLarge, match="3 images; at most 2") as caught:
        fetcher.fetch_all([_png()] * 3, ["a", "b", "c"])
    assert caught.value.param == "c"
    with pytest.raises(ImageTooLarge, match="together"):
        fetcher.fetch_all([_png()] * 2, ["a", "b"])
    assert len(fetcher.fetch_all([_png()], ["a"])) == 1  # the budget is each request's own
    assert len(fetcher.fetch_all([_png()], ["a"])) == 1


def test_the_limit_of_bytes_is_exact(tmp_path: Path, server: ImageServer) -> None:
    png = _png()
    path = tmp_path / "a.png"
    path.write_bytes(png)
    code = base64.b64encode(png).decode()
    for source in (png, path, code, f"data:,{quote(png)}", server.add("/a", png)):
        assert _is_red(_fetch(source, max_bytes=len(png)))
        with pytest.raises(ImageTooLarge):
            _fetch(source, max_bytes=len(png) - 1)


def test_urls_can_be_forbidden(server: ImageServer) -> None:
    url = server.add("/a", _png())
    with pytest.raises(ImageRefused, match="fetches no URLs"):
        _fetch(url, ImageAccess(urls=False, private_hosts=True))
    assert server.requests == []
    assert _is_red(_fetch("data:," + quote(_png()), ImageAccess(urls=False)))


def test_forbidden_paths_are_answered_alike_whether_or_not_they_exist(file: Path, tmp_path: Path) -> None:
    roots = tmp_path / "roots"
    roots.mkdir()
    messages = set()
    for access in (ImageAccess(), ImageAccess(roots=(roots,))):
        for name in (
            str(file),
            f"{file}x",
            f"file://{quote(str(file))}",
            file,
            "/etc",
            "/etc/nothing/here",
            "~/a",
        ):
            with pytest.raises(ImageRefused) as caught:
                _fetch(name, access)
            messages.add(str(caught.value))
    assert len(messages) == 1
    assert ImageRefused.status == 403


def test_roots(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    (root / "deep/er").mkdir(parents=True)
    inside = root / "deep/er/b.png"
    inside.write_bytes(_png())
    (root / "link.png").symlink_to(inside)
    (root / "out.png").symlink_to(file)
    (root / "out").symlink_to(tmp_path)
    (tmp_path / "rooted").symlink_to(root)
    (tmp_path / "root-of-others").mkdir()
    (tmp_path / "root-of-others/b.png").write_bytes(_png())
    monkeypatch.chdir(root)
    access = ImageAccess(roots=(tmp_path / "elsewhere", tmp_path / "rooted"))
    for allowed in (
        inside,
        str(inside),
        "link.png",
        "deep/er/b.png",
        "deep/../deep/er/b.png",
        f"file://{inside}",
    ):
        assert _is_red(_fetch(allowed, access)), allowed
    for escape in (
        "out.png",
        f"out/{quote(file.name)}",
        "../root-of-others/b.png",
        str(file),
        "out/root-of-others/b.png",
    ):
        with pytest.raises(ImageRefused):
            _fetch(escape, access)
    with pytest.raises(BadImage, match="No such file"):
        _fetch("deep/none.png", access)
    with pytest.raises(BadImage, match="regular"):
        _fetch(str(root), access)


def test_a_folder_that_turns_into_a_link_leads_nowhere(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, secret = tmp_path / "root", tmp_path / "secret"
    for folder in (root / "deep", secret):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(_png())
    resolve = os.path.realpath

    def resolve_and_swap(path: Any, **options: Any) -> Any:
        found = resolve(path, **options)
        if str(path).endswith("a.png") and not (root / "deep").is_symlink():
            (root / "deep").rename(root / "was")
            (root / "deep").symlink_to(secret)
        return found

    monkeypatch.setattr(os.path, "realpath", resolve_and_swap)
    with pytest.raises(BadImage) as caught:
        _fetch(root / "deep/a.png", ImageAccess(roots=(root,)))
    assert (root / "deep").is_symlink()
    assert not isinstance(caught.value, ImageTooLarge)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "168.63.129.16",
        "192.88.99.1",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "fec0::1",
        "2001:db8::1",
        "2001::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "64:ff9b::7f00:1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::1",
        "::127.0.0.1",
        "100::1",
        "3fff::1",
        "5f00::1",
        "example.org",
        "1.2.3",
        "127.1",
        "0x7f000001",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "172.32.0.1",
        "100.128.0.1",
        "2606:4700::1111",
        "2a00:1450::1",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
    ],
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


def _resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Let every name have these addresses; the names that were asked for."""
    asked: list[str] = []

    real = socket.getaddrinfo

    def look_up(host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        if host in addresses:  # the connection to one of them
            return real(host, port, *args, **options)
        asked.append(host)
        return [(2, 1, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr("ostro.prompt.network.socket.getaddrinfo", look_up)
    return asked


def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _resolve_to(monkeypatch, "8.8.8.8", "192.168.0.1")
    with pytest.raises(ImageRefused, match=r"rebind\.example.* public"):
        _fetch("http://rebind.example/a.png", ImageAccess())
    assert asked == ["rebind.example"]


def test_connects_to_the_address_that_was_judged(
    monkeypatch: pytest.MonkeyPatch, server: ImageServer
) -> None:
    server.add("/a", _png())
    asked = _resolve_to(monkeypatch, "127.0.0.1")
    monkeypatch.setattr("ostro.prompt.network.is_public", lambda address: address == "127.0.0.1")
    assert _is_red(_fetch(server.url("/a", "cats.example"), ImageAccess()))
    assert asked == ["cats.example"]  # once: nothing is left to a second answer
    assert f"Host: cats.example:{server.port}".encode() in server.requests[0]


def test_every_redirect_is_judged(monkeypatch: pytest.MonkeyPatch, server: ImageServer) -> None:
    server.add("/a", b"", status="302 Found", Location=f"http://127.0.0.2:{server.port}/b")
    server.add("/b", _png())
    monkeypatch.setattr("ostro.prompt.network.is_public", lambda address: address == "127.0.0.1")
    with pytest.raises(ImageRefused, match=r"127\.0\.0\.2"):
        _fetch(server.url("/a"), ImageAccess())
    assert len(server.requests) == 1


def test_after_an_address_that_refuses_the_next_is_tried(
    monkeypatch: pytest.MonkeyPatch, server: ImageServer
) -> None:
    server.add("/a", _png())
    _resolve_to(monkeypatch, "127.0.0.3", "127.0.0.1")  # nothing listens on the first
    assert _is_red(_fetch(server.url("/a", "cats.example")))


def test_a_look_up_that_hangs_ends_with_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    hang = threading.Event()
    monkeypatch.setattr("ostro.prompt.network.socket.getaddrinfo", lambda *_, **__: hang.wait(5) and [])
    start = time.monotonic()
    with pytest.raises(ImageFetchFailed, match=r"within 0\.3 seconds"):
        _fetch("http://slow.example/", timeout_seconds=0.3)
    assert time.monotonic() - start < 2
    hang.set()
