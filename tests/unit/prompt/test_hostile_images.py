"""Images that nobody sends by accident: each is answered with a clear 4xx, soon, and in little memory."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ostro.errors import BadImage, ImageFetchFailed, ImageRefused, ImageTooLarge
from ostro.prompt.fetch import IN_PROCESS, ImageAccess, ImageFetcher, ImageLimits

from .image_server import ImageServer

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from pathlib import Path

_WHERE = "messages[2].content[0].image_url.url"
_SECONDS = 0.5


@pytest.fixture
def server() -> Iterator[ImageServer]:
    server = ImageServer()
    yield server
    server.close()


def _refuse(
    source: Any, kind: type[BadImage] = BadImage, access: ImageAccess = IN_PROCESS, **limits: Any
) -> str:
    """The message with which a source is refused, at once."""
    fetcher = ImageFetcher(access, ImageLimits(timeout_seconds=_SECONDS, **limits))
    start = time.monotonic()
    with pytest.raises(BadImage) as caught:
        fetcher.fetch_all([source], [_WHERE])
    assert time.monotonic() - start < _SECONDS + 2.5
    assert type(caught.value) is kind
    assert caught.value.param == _WHERE
    assert 400 <= caught.value.status < 500
    message = str(caught.value)
    assert message.startswith(f"{_WHERE}: ")
    assert len(message) < 500
    return message


def _fetch_publicly(url: str) -> None:
    ImageFetcher(ImageAccess(), ImageLimits(timeout_seconds=_SECONDS)).fetch_all([url], [_WHERE])


def _save(format: str, size: tuple[int, int] = (300, 200), **options: Any) -> bytes:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format, **options)
    return file.getvalue()


def _png(width: int, height: int, pixels: bytes = b"", depth: int = 8, kind: int = 2) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(pixels, 9))
        + chunk(b"IEND", b"")
    )


def _tiff(width: int, height: int, *more: tuple[int, int, int]) -> bytes:
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
    ]
    tags += [(278, 4, height), (279, 4, width * height % (1 << 32)), *more]
    tags.sort()
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0\0\0\0"


def _jpeg(width: int, height: int) -> bytes:
    """A sound JPEG image whose header lies about its size."""
    data = bytearray(_save("JPEG", (16, 16)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


# --- files that are not what they say ---------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
def test_truncated(format: str, kept: float) -> None:
    data = _save(format)
    _refuse(data[: max(4, int(len(data) * kept))])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
@pytest.mark.filterwarnings("ignore")  # Pillow warns of some damage before it fails of it
def test_damaged_bytes_raise_nothing_else(format: str) -> None:
    rng = np.random.default_rng(7)
    sound = np.frombuffer(_save(format, (40, 30)), np.uint8)
    fetcher = ImageFetcher(IN_PROCESS, ImageLimits(max_pixels=1_000_000))
    outcomes = set()
    for _ in range(60):
        data = sound.copy()
        at = rng.integers(4, min(len(data), 400), 6)
        data[at] = rng.integers(0, 256, 6)
        try:
            fetcher.fetch_all([data.tobytes()], [_WHERE])
            outcomes.add("read")
        except BadImage:
            outcomes.add("refused")
    assert "refused" in outcomes


@pytest.mark.parametrize(
    "bomb",
    [
        _png(60_000, 60_000),
        _png(2**31 - 1, 2**31 - 1),
        _png(50_001, 1000, depth=1, kind=0),
        _jpeg(65_000, 65_000),
        b"GIF89a"
        + struct.pack("<HH", 65_535, 65_535)
        + b"\x80\0\0"
        + b"\0" * 6
        + b",\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 90_000, 90_000, 1, 24, 0, 0, 0, 0, 0, 0),
        _tiff(200_000, 200_000),
        b"P6 99999 99999 255\n",
        b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0",
    ],
    ids=["png", "png-2^62", "png-1-bit", "jpeg", "gif", "bmp", "tiff", "ppm", "webp"],
)
def test_huge_dimensions(bomb: bytes) -> None:
    assert len(bomb) < 100_000
    _refuse(bomb, ImageTooLarge)


def test_a_bomb_takes_little_memory() -> None:
    bomb = _png(7000, 7000, bytes(7000 * 7001 * 3))
    code = base64.b64encode(bomb).decode()
    assert len(code) < 300_000
    program = """
import json, resource, sys
from ostro.errors import ImageTooLarge
from ostro.prompt import decode, network
from ostro.prompt.fetch import ImageAccess, ImageFetcher, ImageLimits
fetcher = ImageFetcher(ImageAccess(), ImageLimits(max_pixels=40_000_000))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, refused = peak(), 0
for bomb in json.load(sys.stdin):
    try:
        fetcher.fetch_all([bomb] * 20, ["x"] * 20)
    except ImageTooLarge:
        refused += 1
print(peak() - before, refused)
"""
    huge = base64.b64encode(_png(60_000, 60_000)).decode()
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([code, huge]),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    grown, refused = map(int, done.stdout.split())
    assert refused == 2
    assert grown < 40_000  # kB; the picture itself would be 196 MB


def test_many_scans() -> None:
    data = _save("JPEG", (64, 64), progressive=True)
    start = data.index(b"\xff\xda")
    end = data.index(b"\xff", start + 2 + 12)
    while data[end + 1] == 0:
        end = data.index(b"\xff", end + 2)
    assert ImageFetcher(IN_PROCESS).fetch_all([data], ["x"])[0].size == (64, 64)
    assert "scans" in _refuse(data[:start] + data[start:end] * 5000 + data[end:])


def test_tiles_larger_than_the_image() -> None:
    tiles = _tiff(16, 16, (322, 4, 1 << 15), (323, 4, 1 << 15), (324, 4, 8), (325, 4, 8))
    _refuse(tiles)


@pytest.mark.parametrize(
    "sound",
    [
        _png(0, 10),
        _png(10, 0),
        b"GIF89a\0\0\0\0\x80\0\0" + b"\0" * 6 + b",\0\0\0\0\0\0\0\0\0\x02\0;",
        b"P6 0 0 255\n",
        _tiff(0, 0),
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0),
        b"",
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_zero_sizes(sound: bytes) -> None:
    _refuse(sound)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"just some words, and no picture at all", "no image of a known format"),
        (b"<!DOCTYPE html><html><body>not found</body></html>", "web page"),
        (b"\xef\xbb\xbf\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?><svg/>", "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\x7fELF\x02\x01\x01", "a program"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"PK\x03\x04\x14\0", "ZIP"),
        (b'{"error": "no"}', "JSON"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "known format"),
        (b"\0" * 1000, "known format"),
        (b"P3 1 1 255 0 0 0\n", "known format"),
        (b"BLP2" + b"\0" * 200, "known format"),
        (b"SIMPLE  =                    T", "known format"),
    ],
)
def test_wrong_types(data: bytes, said: str) -> None:
    assert said in _refuse(data)


def test_decoders_in_python_are_not_reached() -> None:
    # Run-length encoded BMP, and PPM with an odd maximum.
    rle = (
        struct.pack("<IIIIiiHHIIiiII", 60, 0, 58, 40, 4000, 4000, 1, 8, 1, 0, 0, 0, 1, 0) + b"\0\0\0\0\xff\0"
    )
    assert "send it as PNG" in _refuse(b"BM" + rle)
    assert "send it as PNG" in _refuse(b"P6 2 2 99\n" + b"\0" * 12)


# --- arrays and other objects -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.full((4, 4, 3), np.nan), "NaN"),
        (np.full((4, 4), np.inf, np.float32), "0 to 1"),
        (np.full((4, 4), 255.0), "use uint8"),
        (np.full((4, 4), -0.1), "0 to 1"),
        (np.zeros((3, 40, 50), np.uint8), "channels come last"),
        (np.zeros((40, 50, 2), np.uint8), "[40, 50, 2]"),
        (np.zeros((1, 4, 4, 3), np.uint8), "[1, 4, 4, 3]"),
        (np.zeros(9, np.uint8), "[9]"),
        (np.zeros((), np.uint8), "[]"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.zeros((4, 4), np.int64), "int64"),
        (np.zeros((4, 4), np.uint16), "uint16"),
        (np.zeros((4, 4), np.complex64), "complex64"),
        (np.array([["a", "b"]]), "<U1"),
        (np.array([[object()]]), "object"),
    ],
)
def test_arrays(array: np.ndarray, said: str) -> None:
    assert said in _refuse(array)


def test_a_huge_array_is_not_even_copied() -> None:
    view = np.broadcast_to(np.float64(0.5), (1 << 20, 1 << 20, 3))
    _refuse(view, ImageTooLarge)


@pytest.mark.parametrize("thing", [None, 7, 1.5, ["a.png"], {"url": "a.png"}, object()])
def test_objects_that_are_no_images(thing: Any) -> None:
    assert "numpy array" in _refuse(thing)


def test_a_picture_that_cannot_be_loaded() -> None:
    data = _save("PNG")
    _refuse(Image.open(io.BytesIO(data[: len(data) // 2])))
    _refuse(Image.new("L", (9000, 9000)), ImageTooLarge)


# --- strings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "data:",
        "data:image/png",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png;base64,$$$$",
        "data:image/png;base64,iVBORw0KG",
        "data:text/plain,hello",
        "data:text/html;base64," + base64.b64encode(b"<html>").decode(),
        "data:image/svg+xml,%3Csvg%20xmlns='http://www.w3.org/2000/svg'/%3E",
        "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAD" + "!" * 100,
        "iVBORw0KGgoAAAANSUhEUgAAAAUAAAADCAIA",
        base64.b64encode(b"words, but no picture in them" * 9).decode(),
        base64.b64encode(b"words, but no picture in them" * 9999).decode(),
        "ftp://example.org/a.png",
        "s3://bucket/a.png",
        "javascript:alert(1)",
        "gopher://127.0.0.1/",
        "blob:https://example.org/1",
        "http://",
        "http:///a.png",
        "http://[::1",
        "http://exa mple.org/",
        "http://example.org:99999/",
        "http://user:secret@127.0.0.1/a.png",
        "http://user@127.0.0.1/a.png",
        "https://" + "a" * 300 + ".example/",
        "http://127.0.0.1/" + "a" * 100_000,
        "file:",
        "file://",
        "file:///nothing/here.png",
        "file:///etc/pass%00wd",
        "nothing/here.png",
        "a\0b.png",
        "/etc\0/passwd",
        "/" + "a" * 300,
        "/" + "a/" * 2000,
        "/" + "a/" * 20_000,
        "~nobody-of-that-name/a.png",
        "line\nbreak",
        "\ud800.png",
    ],
)
@pytest.mark.parametrize("in_process", [True, False])
def test_strings(text: str, in_process: bool) -> None:
    access = IN_PROCESS if in_process else ImageAccess()
    with pytest.raises(BadImage) as caught:
        ImageFetcher(access, ImageLimits(timeout_seconds=_SECONDS)).fetch_all([text], [_WHERE])
    assert caught.value.param == _WHERE
    assert len(str(caught.value)) < 500
    assert str(caught.value).encode("utf-8", "backslashreplace")


@pytest.mark.parametrize("url", ["file://example.org/etc/passwd", "file://10.0.0.1/share/a.png"])
def test_files_of_other_hosts(url: str) -> None:
    _refuse(url, ImageRefused)


def test_unknown_schemes_are_named() -> None:
    assert "s3:" in _refuse("s3://bucket/a.png")


@pytest.mark.parametrize(
    ("head", "letters"),
    [
        ("data:image/png;base64,iVBORw0KGgoAAAAN", "A"),
        ("data:image/png;base64,iVBORw0KGgoAAAAN", "%41"),
        ("iVBORw0KGgoAAAANSUhEUgAAAAUAAAADCAIA", "A"),
        ("iVBORw0KGgoAAAANSUhEUgAAAAUAAAADCAIA", "A \n"),
        ("data:,", "%41"),
    ],
)
def test_endless_strings(head: str, letters: str) -> None:
    _refuse(head + letters * 1_000_000, ImageTooLarge, max_bytes=10_000)


# --- files ------------------------------------------------------------------------------------------------


def test_what_is_not_a_regular_file(tmp_path: Path) -> None:
    fifo, link, loop = tmp_path / "fifo", tmp_path / "link", tmp_path / "loop"
    os.mkfifo(fifo)
    link.symlink_to("/dev/zero")
    loop.symlink_to(loop)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    listening.close()
    (tmp_path / "folder").mkdir()
    names = ("fifo", "link", "loop", "socket", "folder", "none")
    for access in (IN_PROCESS, ImageAccess(roots=(tmp_path,))):
        for name in names:
            outside = name == "link" and not access.any_path
            _refuse(tmp_path / name, ImageRefused if outside else BadImage, access)
    for device in ("/dev/zero", "/dev/stdin", "/dev/tty", "/proc/self/mem"):
        _refuse(device)
    _refuse("/dev/zero", ImageRefused, ImageAccess(roots=(tmp_path,)))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    _refuse(sparse, ImageTooLarge)


# --- addresses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0",
        "0.0.0.0",
        "localhost",
        "LOCALHOST",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:0:0:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "169.254.169.254",
        "[fe80::1]",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "100.100.100.200",
        "[fd00:ec2::254]",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
def test_hosts_that_are_not_public(host: str, server: ImageServer) -> None:
    _refuse(f"http://{host}:{server.port}/a.png", ImageRefused, ImageAccess())
    assert server.requests == []


@pytest.mark.parametrize(
    "host", ["0177.0.0.1", "①②⑦.0.0.1", "127.0.0.1%00.example", "127.0.0.1\\@example.org"]
)
def test_hosts_that_are_no_hosts(host: str, server: ImageServer) -> None:
    with pytest.raises(BadImage):
        _fetch_publicly(f"http://{host}:{server.port}/a.png")
    assert server.requests == []


def test_a_redirect_into_the_private_network(monkeypatch: pytest.MonkeyPatch, server: ImageServer) -> None:
    monkeypatch.setattr("ostro.prompt.network.is_public", lambda address: address == "127.0.0.1")
    for target in (
        "http://169.254.169.254/latest/meta-data",
        "//10.0.0.1/",
        "http://[::1]/",
        "http://127.0.0.2:1/",
    ):
        server.add("/a", b"", status="302 Found", Location=target)
        _refuse(server.url("/a"), ImageRefused, ImageAccess())


# --- servers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:image/png;base64,AAAA", "gopher://x/"]
)
def test_a_redirect_to_another_scheme(target: str, server: ImageServer) -> None:
    _refuse(server.add("/a", b"", status="302 Found", Location=target), ImageRefused)


def test_redirects_without_end(server: ImageServer) -> None:
    for i in range(30):
        server.add(f"/{i}", b"", status="302 Found", Location=f"/{i + 1}")
    server.add("/30", _save("PNG"))
    assert "more than 5 times" in _refuse(server.url("/0"), ImageFetchFailed)
    assert len(server.requests) == 6
    loop = server.add("/loop", b"", status="301 Moved", Location="/loop")
    assert "more than 5 times" in _refuse(loop, ImageFetchFailed)


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("http://user:pw@127.0.0.1/", BadImage),
        ("http://[::1", BadImage),
        ("http://a b/", ImageFetchFailed),
        ("http://", ImageFetchFailed),  # relative to itself: a loop
        ("", ImageFetchFailed),
    ],
)
def test_a_redirect_to_nowhere(target: str, kind: type[BadImage], server: ImageServer) -> None:
    _refuse(server.add("/a", b"", status="302 Found", Location=target), kind)


@pytest.mark.parametrize(
    "status", ["404 Not Found", "500 Oops", "403 No", "304 Not Modified", "302 Found", "418 Tea"]
)
def test_other_statuses_are_named(status: str, server: ImageServer) -> None:
    assert status[:3] in _refuse(server.add("/a", b"", status=status), ImageFetchFailed)


@pytest.mark.parametrize("status", ["200 OK", "204 No Content"])
def test_an_empty_answer(status: str, server: ImageServer) -> None:
    assert "no bytes" in _refuse(server.add("/a", b"", status=status))


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n\x89PNG\r\n\x1a\n"])
def test_a_server_that_drips(head: bytes, server: ImageServer) -> None:
    def drip(connection: socket.socket, closing: threading.Event) -> None:
        connection.sendall(head)
        while not closing.wait(0.02):
            connection.sendall(b"x")

    message = _refuse(server.talk("/a", drip), ImageFetchFailed)
    assert "within 0.5 seconds" in message


def test_a_server_that_never_answers(server: ImageServer) -> None:
    url = server.talk("/a", lambda connection, closing: closing.wait(5))
    assert "within 0.5 seconds" in _refuse(url, ImageFetchFailed)


def test_a_server_that_never_greets(server: ImageServer) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # accepts, by its backlog, and says nothing
    with silent:
        _refuse(f"http://127.0.0.1:{silent.getsockname()[1]}/a", ImageFetchFailed)
        _refuse(f"https://127.0.0.1:{silent.getsockname()[1]}/a", ImageFetchFailed)


def test_a_server_that_speaks_no_tls(server: ImageServer) -> None:
    server.add("/a", _save("PNG"))
    _refuse(server.url("/a").replace("http:", "https:"), ImageFetchFailed)


def test_endless_informational_answers(server: ImageServer) -> None:
    def inform(connection: socket.socket, closing: threading.Event) -> None:
        while not closing.is_set():
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)

    _refuse(server.talk("/a", inform), ImageFetchFailed)


def test_a_body_of_200_mb_by_its_length(server: ImageServer) -> None:
    sent = []

    def answer(connection: socket.socket, closing: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
        sent.append(len(connection.recv(1)))  # waits until the client hangs up

    _refuse(server.talk("/a", answer), ImageTooLarge)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_200_mb_without_a_length(chunked: bool, server: ImageServer) -> None:
    sent = 0

    def answer(connection: socket.socket, closing: threading.Event) -> None:
        nonlocal sent
        field = b"Transfer-Encoding: chunked" if chunked else b"Connection: close"
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + field + b"\r\n\r\n")
        block = b"10000\r\n" + bytes(65536) + b"\r\n" if chunked else bytes(65536)
        while sent < 200_000_000:
            connection.sendall(block)
            sent += 65536

    _refuse(server.talk("/a", answer), ImageTooLarge, max_bytes=1 << 20)
    assert sent < 50_000_000  # what the system's buffers take


def test_a_body_that_unpacks_to_200_mb(server: ImageServer) -> None:
    packed = gzip.compress(bytes(200_000_000), 1)
    _refuse(server.add("/a", packed, Content_Encoding="gzip"), ImageTooLarge, max_bytes=2 << 20)


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "gzip, gzip", "x" * 500])
def test_encodings_that_are_not_what_they_say(encoding: str, server: ImageServer) -> None:
    _refuse(server.add("/a", b"no gzip at all", Content_Encoding=encoding), ImageFetchFailed)
    cut = gzip.compress(_save("PNG"))[:-100]
    _refuse(server.add("/b", cut, Content_Encoding="gzip"), ImageFetchFailed)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\0\0\0",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n\x89PNG",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 5000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    ],
)
def test_answers_that_are_not_http(answer: bytes, server: ImageServer) -> None:
    server.answers["/a"] = answer
    _refuse(server.url("/a"), ImageFetchFailed)


def test_a_closed_port_and_a_name_that_does_not_exist() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    _refuse(f"http://127.0.0.1:{port}/a", ImageFetchFailed)
    _refuse("http://no-such-host.invalid/a.png", ImageFetchFailed)
    _refuse("http://no-such-host.invalid/a.png", ImageFetchFailed, ImageAccess())
