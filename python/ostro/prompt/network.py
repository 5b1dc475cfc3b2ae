"""Downloads of URLs that strangers name.

The guard sits where connections are made: a name is resolved once, every address it has is judged, and the
connection goes to an address that was judged, for each redirect anew. TLS still verifies the name. No proxies
of the environment, no cookies, no credentials. One deadline holds from the look-up to the last byte.
"""

from __future__ import annotations

import socket
import threading
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from ostro.errors import BadImage, EngineError, ImageFetchFailed, ImageRefused, ImageTooLarge
from ostro.prompt.addresses import is_public
from ostro.version import ostro_version

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from ostro.prompt.fetch import ImageLimits

_REDIRECTS = (301, 302, 303, 307, 308)
_ENCODINGS = ("gzip", "x-gzip", "deflate")
_ACCEPT = b"image/png, image/jpeg, image/webp, image/gif, image/*;q=0.5, */*;q=0.1"

_SLICE = 0.2
"""Seconds after which a wait looks whether the fetch was given up."""


class HttpReader:
    """Reads http and https URLs; for any number of threads at once."""

    def __init__(self, *, private_hosts: bool, limits: ImageLimits) -> None:
        self._private_hosts = private_hosts
        self._limits = limits
        self._tls: ssl.SSLContext | None = None

    def read(self, url: str, where: str, stop: Callable[[], bool]) -> bytes:
        """The body, unpacked. Redirects are followed up to the limit.

        stop: asked a few times a second; EngineError soon after it says yes.
        BadImage for what is no URL, ImageRefused for hosts that are not public, ImageTooLarge,
        ImageFetchFailed for the rest.
        """
        watch = _Watch(time.monotonic() + self._limits.timeout_seconds, stop)
        backend = _GuardedBackend(watch, self._private_hosts, where)
        target = _parse(url, where)
        if self._tls is None and target.scheme == "https":
            self._tls = httpx.create_ssl_context()
        try:
            with httpcore.ConnectionPool(ssl_context=self._tls, network_backend=backend) as pool:
                for _ in range(self._limits.max_redirects + 1):
                    answer = self._get(pool, target, where)
                    if isinstance(answer, bytes):
                        return answer
                    target = answer
        except _DeadlinePassed as error:
            raise ImageFetchFailed(
                f"{where}: {url:.200} did not deliver within {self._limits.timeout_seconds:g} seconds",
                param=where,
            ) from error
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise ImageFetchFailed(
                f"{where}: {url:.200} could not be fetched: {error!s:.200}", param=where
            ) from error
        raise ImageFetchFailed(
            f"{where}: {url:.200} redirects more than {self._limits.max_redirects} times", param=where
        )

    def _get(self, pool: httpcore.ConnectionPool, target: httpx.URL, where: str) -> bytes | httpx.URL:
        """The body, or where the answer says that it is."""
        with pool.stream("GET", _core_url(target), headers=_headers(target)) as response:
            fields = httpx.Headers(response.headers)
            if response.status in _REDIRECTS and "location" in fields:
                return _parse(fields["location"], where, base=target)
            if not 200 <= response.status < 300:
                raise ImageFetchFailed(
                    f"{where}: {target!s:.200} answered with status {response.status}", param=where
                )
            limit = self._limits.max_bytes
            claimed = fields.get("content-length", "")
            if claimed.isdigit() and int(claimed) > limit:
                raise self._too_large(where)
            body = bytearray()
            for block in response.iter_stream():
                body += block
                if len(body) > limit:
                    raise self._too_large(where)
        return self._unpack(bytes(body), fields.get("content-encoding", "identity").strip().lower(), where)

    def _unpack(self, body: bytes, encoding: str, where: str) -> bytes:
        """Undo an encoding of the transfer that nobody asked for."""
        if encoding in ("", "identity"):
            return body
        if encoding not in _ENCODINGS:
            raise ImageFetchFailed(
                f"{where}: the answer's encoding {encoding!r:.50} is not understood", param=where
            )
        unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib, as the bytes say
        try:
            data = unpacker.decompress(body, self._limits.max_bytes + 1)
        except zlib.error as error:
            raise ImageFetchFailed(f"{where}: the answer is damaged: {error}", param=where) from error
        if len(data) > self._limits.max_bytes:
            raise self._too_large(where)
        if not unpacker.eof:
            raise ImageFetchFailed(f"{where}: the answer is incomplete", param=where)
        return data

    def _too_large(self, where: str) -> ImageTooLarge:
        return ImageTooLarge(
            f"{where}: the URL delivers more than {self._limits.max_bytes:,} bytes: use a smaller image",
            param=where,
        )


def _parse(text: str, where: str, base: httpx.URL | None = None) -> httpx.URL:
    """A URL that may be fetched; base: of the answer that redirects to it."""
    try:
        url = httpx.URL(text) if base is None else base.join(text)
        host = url.raw_host
    except (httpx.InvalidURL, ValueError) as error:
        raise BadImage(f"{where}: {text!r:.200} is no URL: {error!s:.200}", param=where) from error
    if url.scheme not in ("http", "https"):
        raise ImageRefused(
            f"{where}: the URL redirects to {url.scheme!r:.50}; only http and https are followed", param=where
        )
    if not host:
        raise BadImage(f"{where}: {text!r:.200} names no host", param=where)
    if url.userinfo:
        raise BadImage(f"{where}: the URL has a user name or password; such are not sent", param=where)
    return url


def _core_url(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _headers(url: httpx.URL) -> list[tuple[bytes, bytes]]:
    return [
        (b"Host", url.netloc),
        (b"User-Agent", f"ostro/{ostro_version()}".encode()),
        (b"Accept", _ACCEPT),
        (b"Accept-Encoding", b"identity"),
    ]


class _DeadlinePassed(httpcore.TimeoutException):
    """The time of the whole fetch is over, not that of one operation."""


@dataclass(frozen=True, slots=True)
class _Watch:
    """When a fetch must end: deadline as of time.monotonic()."""

    deadline: float
    stop: Callable[[], bool]

    def left(self) -> float:
        """Seconds until the deadline, more than 0."""
        if self.stop():
            raise EngineError("the fetch of an image was given up")
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise _DeadlinePassed("the deadline has passed")
        return left

    def slice(self) -> float:
        """Seconds to wait before looking again."""
        return min(self.left(), _SLICE)


class _GuardedBackend(httpcore.NetworkBackend):
    """Connects to judged addresses only. Timeouts are the watch's, not those that callers pass."""

    def __init__(self, watch: _Watch, private_hosts: bool, where: str) -> None:
        self._watch = watch
        self._private_hosts = private_hosts
        self._where = where
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        addresses = self._resolve(host, port)
        if not self._private_hosts and not all(map(is_public, addresses)):
            raise ImageRefused(
                f"{self._where}: {host!r:.200} is not, or not only, on the public internet; this server does"
                " not fetch from private, loopback or link-local addresses",
                param=self._where,
            )
        for waiting, address in zip(range(len(addresses) - 1, 0, -1), addresses, strict=False):
            # A silent address leaves some of the time to those that wait.
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return self._connect(address, port, self._watch.left() / (waiting + 1))
        return self._connect(addresses[-1], port, self._watch.left())

    def _connect(self, address: str, port: int, timeout: float) -> httpcore.NetworkStream:
        return _GuardedStream(self._inner.connect_tcp(address, port, timeout), self._watch)

    def _resolve(self, host: str, port: int) -> list[str]:
        """All addresses of a host. In a thread: the system's look-up knows no deadline."""
        answer: SimpleQueue[list[str] | Exception] = SimpleQueue()

        def look_up() -> None:
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                answer.put(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
            except (OSError, ValueError, OverflowError) as error:
                answer.put(error)

        threading.Thread(target=look_up, name="ostro-look-up", daemon=True).start()
        while True:
            try:
                found = answer.get(timeout=self._watch.slice())
            except Empty:
                continue
            if isinstance(found, Exception) or not found:
                raise httpcore.ConnectError(f"the host {host!r:.200} was not found")
            return found


class _GuardedStream(httpcore.NetworkStream):
    """A connection whose every operation ends with the watch."""

    def __init__(self, inner: httpcore.NetworkStream, watch: _Watch) -> None:
        self._inner = inner
        self._watch = watch

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        while True:
            with suppress(httpcore.ReadTimeout):  # a slice is over; the watch knows whether the time is
                return self._inner.read(max_bytes, self._watch.slice())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._inner.write(buffer, self._watch.left())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        inner = self._inner.start_tls(ssl_context, server_hostname, self._watch.left())
        return _GuardedStream(inner, self._watch)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
