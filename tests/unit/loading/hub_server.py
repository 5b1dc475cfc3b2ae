"""A small model hub on a local socket, with the answers that the real one gives, bad ones included."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    files: dict[str, bytes]
    # None: everybody may read. Otherwise who sends this token.
    token: str | None = None
    # What somebody without the token is told: (status, X-Error-Code).
    refusal: tuple[int, str | None] = (401, "GatedRepo")
    # Refuse to list the files too, not only to deliver them.
    hidden: bool = False
    # Names of files whose first delivery breaks off after three quarters.
    fragile: set[str] = field(default_factory=set)
    # What to answer to every request: a status, or "hang".
    broken: int | str | None = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that hang up are part of the tests."""


@dataclass
class Hub:
    repositories: dict[str, Repository]
    log: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Requests as (method, path, Range header)."""

    def __post_init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def delivered(self) -> list[str]:
        """Files whose contents were asked for, in order."""
        return [
            path.split("/resolve/")[1].split("/", 1)[1]
            for method, path, _ in self.log
            if method == "GET" and "/resolve/" in path
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            hub.log.append((self.command, self.path, self.headers.get("Range")))
            parts = self.path.split("?")[0].strip("/").split("/")
            listing = parts[:2] == ["api", "models"]
            repo_id = "/".join(parts[2:4] if listing else parts[:2])
            repository = hub.repositories.get(repo_id)
            if repository is None:
                return self.fail(401, "RepoNotFound")
            if repository.broken == "hang":
                time.sleep(4)
            if isinstance(repository.broken, int):
                return self.fail(repository.broken, None)
            allowed = (
                repository.token is None or self.headers.get("Authorization") == f"Bearer {repository.token}"
            )
            if not allowed and (repository.hidden or not listing):
                return self.fail(*repository.refusal)
            revision = (parts[5] if len(parts) > 5 else "main") if listing else parts[3]
            if revision not in ("main", COMMIT):
                return self.fail(404, "RevisionNotFound")
            if listing:
                siblings = [{"rfilename": name} for name in repository.files]
                return self.deliver(
                    json.dumps({"id": repo_id, "sha": COMMIT, "siblings": siblings}).encode(), body
                )
            name = "/".join(parts[4:])
            if name not in repository.files:
                return self.fail(404, "EntryNotFound")
            content = repository.files[name]
            if body and name in repository.fragile:
                repository.fragile.discard(name)
                return self.deliver(content, body, cut=len(content) * 3 // 4)
            return self.deliver(content, body)

        def fail(self, status: int, code: str | None) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def deliver(self, content: bytes, body: bool, cut: int | None = None) -> None:
            start = 0
            wanted = self.headers.get("Range")
            if wanted:
                start = int(wanted.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if body:
                self.wfile.write(content[start:cut])
                if cut is not None:
                    self.wfile.flush()
                    self.close_connection = True

    return Handler
