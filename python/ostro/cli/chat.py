"""The interactive chat: lines in, answers out, and commands that begin with a slash."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ostro.errors import PromptTooLong, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ostro.cli.talk import Talk

T = TypeVar("T", int, float)

HELP = """\
/help            this
/exit            leave (also /quit, Ctrl-D)
/clear           forget the conversation
/image WHAT      show an image with the next message: a file or a URL
/system TEXT     what the model should keep to; alone: nothing
/temperature X   0 always takes the likeliest token; alone: the model's own
/topk N          choose among N tokens; alone: the model's own
/topp P          choose within this probability; alone: the model's own
A line that ends in \\ goes on in the next one. Ctrl-C stops an answer."""

HISTORY_LINES = 1000


class Chat:
    """Reads lines until /exit or the end of input.

    read: asks for a line with a prompt as `input` does (EOFError at the end).
    """

    def __init__(self, talk: Talk, name: str, read: Callable[[str], str] = input) -> None:
        self._talk = talk
        self._name = name
        self._read = read
        self._commands: dict[str, Callable[[str], None]] = {
            "help": self._help,
            "clear": self._clear,
            "image": self._image,
            "system": self._system,
            "temperature": self._temperature,
            "topk": self._top_k,
            "topp": self._top_p,
        }

    def loop(self) -> None:
        """Talk until the user leaves."""
        save_history = _history()
        print(f"{self._name}: ready. /help lists the commands.")
        try:
            while (line := self._line()) is not None:
                if not self.handle(line):
                    break
        finally:
            save_history()

    def handle(self, line: str) -> bool:
        """One line of the user; False if it ends the chat. Faults of the user are told, never raised."""
        text = line.strip()
        if not text:
            return True
        try:
            if not text.startswith("/"):
                self._answer(line)
                return True
            name, _, argument = text[1:].partition(" ")
            if name in {"exit", "quit"}:
                return False
            if name in self._commands:
                self._commands[name](argument.strip())
            else:
                print(f"There is no command /{name}; /help lists them.")
        except PromptTooLong as error:
            print(f"error: {error.message}. /clear starts anew.")
        except RequestError as error:
            print(f"error: {error.message}")
        return True

    def _line(self) -> str | None:
        """The next line, with those that it goes on in; None at the end. Ctrl-C drops what was typed."""
        lines: list[str] = []
        while True:
            try:
                line = self._read("  " if lines else "> ")
            except EOFError:
                print()
                return None
            except KeyboardInterrupt:
                print()
                lines.clear()
                continue
            if not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line[:-1])

    def _answer(self, line: str) -> None:
        if not self._talk.ask(line).endswith("\n"):
            print()

    def _help(self, _: str) -> None:
        print(HELP)

    def _clear(self, _: str) -> None:
        self._talk.clear()
        print("Forgotten.")

    def _image(self, source: str) -> None:
        if not source:
            raise RequestError("/image needs a file or a URL")
        if source[0] in "'\"" and source[0] == source[-1]:  # as terminals paste the path of a dropped file
            source = source[1:-1]
        from ostro.cli.talk import read_images

        [image] = read_images([source])
        self._talk.show([image])
        print(f"An image of {image.width} x {image.height} pixels goes with the next message.")

    def _system(self, text: str) -> None:
        self._talk.settings.system = text or None

    def _temperature(self, text: str) -> None:
        value = _number(text, float)
        if value is not None and not 0 <= value <= 2:
            raise RequestError("the temperature is between 0 and 2")
        self._talk.settings.temperature = value

    def _top_k(self, text: str) -> None:
        value = _number(text, int)
        if value is not None and value < 1:
            raise RequestError("topk is at least 1")
        self._talk.settings.top_k = value

    def _top_p(self, text: str) -> None:
        value = _number(text, float)
        if value is not None and not 0 < value <= 1:
            raise RequestError("topp is above 0 and at most 1")
        self._talk.settings.top_p = value


def _number(text: str, kind: Callable[[str], T]) -> T | None:
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        raise RequestError(f"{text} is not a number") from None


def _history() -> Callable[[], None]:
    """Line editing with the lines of earlier chats, where the system has it; returns what saves them."""
    try:
        import readline
    except ImportError:
        return lambda: None
    state = os.environ.get("XDG_STATE_HOME")
    try:
        path = (Path(state) if state else Path.home() / ".local" / "state") / "ostro" / "history"
    except RuntimeError:  # no home directory
        return lambda: None
    with suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(HISTORY_LINES)

    def save() -> None:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)

    return save
