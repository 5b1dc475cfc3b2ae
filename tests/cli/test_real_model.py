"""The commands at work on the real 270m, as processes of their own."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ostro.cli.model import demo_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 120


@pytest.fixture(scope="module")
def weights() -> Path:
    return demo_file()


def ostro(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run(
        [sys.executable, "-m", "ostro", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        **given,
    )


CAPITAL = "The capital of France is"
ANSWER = " the capital of the country of France.\n"
"""What the f32 path says to it: the first eight tokens of the reference's greedy answer."""


def test_raw_prompt_goes_to_stdout_and_nothing_else_does(weights: Path) -> None:
    done = ostro(
        *(
            "run",
            weights,
            "--raw",
            "-p",
            CAPITAL,
            "--max-tokens",
            "8",
            "--temperature",
            "0",
            "--compute",
            "f32",
        )
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ANSWER
    assert done.stderr == ""


@pytest.mark.parametrize("prompt", [[], ["-p", "-"]])
def test_prompt_from_a_pipe_with_stats(weights: Path, prompt: list[str]) -> None:
    arguments = ("--raw", *prompt, "--max-tokens", "8", "--temperature", "0", "--compute", "f32", "--stats")
    done = ostro("run", "-m", weights, *arguments, stdin=CAPITAL)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ANSWER
    assert done.stderr.startswith("\n[6 tokens read, ")
    assert "; 8 written, " in done.stderr


def test_a_seed_repeats_an_answer(weights: Path) -> None:
    arguments = (
        "run",
        weights,
        "-p",
        "Tell me a story.",
        "--max-tokens",
        "8",
        "--temperature",
        "1.5",
        "--seed",
        "3",
    )
    first, second = ostro(*arguments), ostro(*arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout


def test_a_prompt_longer_than_the_context_is_an_error_of_one_line(weights: Path) -> None:
    done = ostro("run", weights, "--raw", "-p", "word " * 200, "--context", "64")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "64" in done.stderr


def test_bench_json(weights: Path) -> None:
    done = ostro(
        *("bench", weights, "--prompt-len", "64", "--gen-len", "8", "--iterations", "2", "--warmup", "0"),
        *("--threads", "1", "--json"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["threads"] == 1
    assert report["iterations"] == 2
    for rates in (report["prefill"], report["decode"]):
        assert 0 < rates["min"] <= rates["median"] <= rates["max"]
    assert 0 < report["load_seconds"] < report["ready_seconds"]
    assert report["peak_rss"] > weights.stat().st_size / 4
    assert report["isa"]
    assert report["cpu"]


def test_bench_can_leave_out_a_part(weights: Path) -> None:
    done = ostro(
        "bench",
        weights,
        "--prompt-len",
        "0",
        "--gen-len",
        "2",
        "--iterations",
        "1",
        "--warmup",
        "0",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["prefill"] is None


def test_doctor() -> None:
    done = ostro("doctor")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        *("ostro", "python", "processor", "memory", "kernels", "demo", "270m")
    ]


def test_options_without_meaning_are_named_once(weights: Path) -> None:
    done = ostro("--no-paged-attn", "--prefix-cache-n", "4", "-i", "plain", "-m", weights, stdin="/exit\n")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "WARNING: without meaning here, ignored: --prefix-cache-n, --no-paged-attn\n"


class Terminal:
    """A person at a terminal that runs `ostro`."""

    def __init__(self, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ostro", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def until(self, text: str) -> str:
        """Wait for `text` among what was not read yet; returns what came before it."""
        deadline = time.monotonic() + SECONDS
        while text not in self.seen:
            if not select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"waited for {text!r}, saw {self.seen!r}")
            self.seen += os.read(self.master, 4096).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, line: str) -> None:
        os.write(self.master, f"{line}\n".encode())


@pytest.fixture
def terminal(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    session = Terminal("run", str(weights), "--max-tokens", "4000", "--seed", "1")
    yield session
    if session.process.poll() is None:
        session.process.kill()
    session.process.wait()
    os.close(session.master)


def test_ctrl_c_stops_the_answer_and_the_chat_goes_on(terminal: Terminal) -> None:
    terminal.until("/help lists the commands.")
    terminal.until("> ")
    terminal.type("Write down all numbers from one to ten thousand, please.")
    terminal.until("\n")
    deadline = time.monotonic() + SECONDS
    while not terminal.seen.strip() and time.monotonic() < deadline:
        terminal.seen += os.read(terminal.master, 4096).decode(errors="replace")
    terminal.process.send_signal(signal.SIGINT)
    terminal.until("> ")
    terminal.type("/temperature warm")
    terminal.until("warm is not a number")
    terminal.type("/exit")
    assert terminal.process.wait(timeout=30) == 0
