"""What the driver and the workers say to each other: one JSON object per line, a reply to each request.

Runs in the environment of every engine, therefore only the standard library.

    {"task": "load", "model": path, "threads": 2}                    {"value": seconds}
    {"task": "prefill", "tokens": 512, "seed": 7}                    {"value": tokens per second}
    {"task": "decode", "depth": 1024, "tokens": 64, "seed": 7}       {"value": tokens per second}
    {"task": "streams", "streams": 8, "tokens": 64, "seed": 7}       {"value": tokens per second of all}
    {"task": "memory", "depth": 4096, "tokens": 16, "seed": 7}       {"value": bytes}
    {"task": "about"}                                                {"value": {"version": ...}}

A failed request is answered with {"error": text}; the worker lives on. The worker ends when its input does.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BOS = 2
VOCABULARY = 262_144
ORDINARY = 1000
"""Gemma's control tokens, byte pieces and whitespace runs have ids below this."""
SHORT = 8
"""Tokens of a prompt that is only there to begin with."""


class WorkerError(Exception):
    """A request that failed: the worker's own words, or that it died or took too long."""


class Engine(Protocol):
    """What a worker measures. Every prompt is new, so that nothing remembered of an earlier one can help."""

    def about(self) -> dict[str, str]:
        """`version`, and what else describes the build."""

    def load(self, model: Path, threads: int) -> float:
        """Seconds from nothing to the first token after a short prompt; libraries are already imported."""

    def prefill(self, ids: Sequence[int]) -> float:
        """Tokens per second of reading `ids`, up to the first token after them."""

    def decode(self, ids: Sequence[int], tokens: int) -> float:
        """Tokens per second of writing `tokens` tokens, from the first one after `ids` on."""

    def streams(self, prompts: Sequence[Sequence[int]], tokens: int) -> float:
        """Tokens per second of all sequences together while each of them writes."""


def prompt_ids(seed: int, count: int) -> list[int]:
    """`count` ids that begin with `<bos>`; the same for every engine."""
    return [BOS, *random.Random(seed).choices(range(ORDINARY, VOCABULARY), k=count - 1)]


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes, mapped files included."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise WorkerError("the system does not tell what is resident")


def answer(engine: Engine, request: Mapping[str, Any]) -> Any:
    """The value that `request` asks for."""
    task = request["task"]
    if task == "about":
        return engine.about()
    if task == "load":
        return engine.load(Path(request["model"]), request["threads"])
    seed, tokens = request["seed"], request["tokens"]
    if task == "prefill":
        return engine.prefill(prompt_ids(seed, tokens))
    if task == "decode":
        return engine.decode(prompt_ids(seed, request["depth"] or SHORT), tokens)
    if task == "streams":
        prompts = [prompt_ids(seed + stream, SHORT) for stream in range(request["streams"])]
        return engine.streams(prompts, tokens)
    if task == "memory":
        engine.decode(prompt_ids(seed, request["depth"] - tokens), tokens)
        return peak_memory()
    raise WorkerError(f"unknown task {task!r}")


def serve(engine: Engine) -> None:
    """Answer requests until there are no more."""
    # Libraries write to standard output; the replies get a copy of it that only we know.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            reply = {"value": answer(engine, json.loads(line))}
        except Exception as error:  # whatever an engine raises is its result
            first = str(error).strip().partition("\n")[0]
            reply = {"error": f"{type(error).__name__}: {first}"[:300]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


class Worker:
    """One engine in a process of its own.

    command: argv of a program that calls `serve`. log: file that its standard error is added to.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, environment: Mapping[str, str], cwd: Path
    ) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment},
                cwd=cwd,
                text=True,
            )
        self._log = log
        self.used = False
        """Whether it has done more than loading a model."""

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any], *, limit: float) -> Any:
        """The value of one request; WorkerError if there is none within `limit` seconds (then it is dead)."""
        self.used |= request["task"] not in {"about", "load"}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(limit, stop)
        timer.daemon = True
        timer.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            code = self._process.wait()
            raise WorkerError(
                f"no result within {limit:.0f} s"
                if late.is_set()
                else f"the process ended with status {code}; see {self._log}"
            )
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply["value"]

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # What a dead process was still to read is lost.
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
