"""The interactive chat's own rules, with a conversation that answers from a list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image

from ostro.cli.chat import HELP, Chat
from ostro.cli.settings import Settings
from ostro.errors import PromptTooLong

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Parrot:
    """Repeats what it hears, and remembers it."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.messages: list[dict[str, object]] = []
        self.images: list[Image.Image] = []
        self.heard: list[str] = []

    def show(self, images: list[Image.Image]) -> None:
        self.images += images

    def clear(self) -> None:
        self.messages.clear()
        self.images.clear()

    def ask(self, text: str) -> str:
        if text == "too much":
            raise PromptTooLong("9,001 tokens, limit 8,192")
        self.heard.append(text)
        self.messages.append({"role": "user", "content": text})
        print(text, end="")
        return text


def typing(*lines: str | type[BaseException]) -> Callable[[str], str]:
    remaining = list(lines)

    def read(prompt: str) -> str:
        del prompt
        line = remaining.pop(0) if remaining else EOFError
        if isinstance(line, str):
            return line
        raise line

    return read


def chat(parrot: Parrot, *lines: str | type[BaseException]) -> Chat:
    return Chat(parrot, "gemma", typing(*lines))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _own_history(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


def test_a_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    parrot = Parrot()
    chat(parrot, "hello", "", "   ", "there", "/exit", "never").loop()
    assert parrot.heard == ["hello", "there"]
    assert capsys.readouterr().out == "gemma: ready. /help lists the commands.\nhello\nthere\n"


def test_end_of_input_leaves() -> None:
    parrot = Parrot()
    chat(parrot, "hello").loop()
    assert parrot.heard == ["hello"]


def test_a_backslash_continues_the_line_and_ctrl_c_drops_it() -> None:
    parrot = Parrot()
    chat(parrot, "one \\", "two", "gone \\", KeyboardInterrupt, "three").loop()
    assert parrot.heard == ["one \ntwo", "three"]


def test_commands_change_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    parrot = Parrot()
    parrot.messages.append({"role": "user", "content": "before"})
    talk = chat(parrot)
    for line in ("/system Be brief.", "/temperature 0", "/topk 3", "/topp 0.5", "/clear", "/help"):
        assert talk.handle(line)
    assert parrot.settings == Settings(system="Be brief.", temperature=0.0, top_k=3, top_p=0.5)
    assert parrot.messages == []
    assert capsys.readouterr().out == f"Forgotten.\n{HELP}\n"
    for line in ("/system", "/temperature", "/topk", "/topp"):
        assert talk.handle(line)
    assert parrot.settings == Settings()


@pytest.mark.parametrize("written", ["{}", "'{}'", '"{}"', "file://{}"])
def test_images_go_with_the_next_message(
    written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (30, 20), "red").save(tmp_path / "a.png")
    parrot = Parrot()
    talk = chat(parrot)
    assert talk.handle("/image " + written.format(tmp_path / "a.png"))
    assert capsys.readouterr().out == "An image of 30 x 20 pixels goes with the next message.\n"
    assert [image.size for image in parrot.images] == [(30, 20)]
    assert parrot.heard == []
    assert talk.handle("/clear")
    assert parrot.images == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/image", "error: /image needs a file or a URL\n"),
        (
            "/image no/such.png",
            "error: no/such.png: cannot read 'no/such.png': No such file or directory\n",
        ),
        ("/temperature warm", "error: warm is not a number\n"),
        ("/temperature 3", "error: the temperature is between 0 and 2\n"),
        ("/temperature nan", "error: the temperature is between 0 and 2\n"),
        ("/topk 0", "error: topk is at least 1\n"),
        ("/topk 1.5", "error: 1.5 is not a number\n"),
        ("/topp 0", "error: topp is above 0 and at most 1\n"),
        ("/dance", "There is no command /dance; /help lists them.\n"),
        ("too much", "error: 9,001 tokens, limit 8,192. /clear starts anew.\n"),
    ],
)
def test_faults_are_told_and_the_chat_goes_on(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parrot = Parrot()
    assert chat(parrot).handle(line)
    assert capsys.readouterr().out == said
    assert parrot.settings == Settings()
    assert parrot.heard == []


@pytest.mark.parametrize("line", ["/exit", "/quit", "  /exit  "])
def test_leaving(line: str) -> None:
    assert not chat(Parrot()).handle(line)


def test_history_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readline = pytest.importorskip("readline")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    readline.clear_history()
    chat(Parrot(), "/exit").loop()
    readline.add_history("remember me")
    chat(Parrot(), "/exit").loop()
    readline.clear_history()
    chat(Parrot(), "/exit").loop()
    kept = [readline.get_history_item(i + 1) for i in range(readline.get_current_history_length())]
    readline.clear_history()
    assert "remember me" in kept
