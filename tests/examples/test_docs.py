"""Every snippet of the documents runs and prints what they say; CONTRIBUTING.md explains the comments."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.examples.conftest import with_port
from tests.examples.snippets import PAGES, ROOT, RUNNABLE, Snippet, shape, snippets

if TYPE_CHECKING:
    from tests.examples.conftest import Workplace

ALL = snippets()
RUN = [snippet for snippet in ALL if snippet.marker in {"run", "run: server"}]
SERVE = [snippet for snippet in ALL if snippet.marker == "run: serve"]


def test_every_snippet_says_whether_it_is_run() -> None:
    known = {"run", "run: server", "run: serve"}
    silent = [
        str(snippet)
        for snippet in ALL
        if (snippet.language in RUNNABLE or snippet.marker is not None)
        and snippet.marker not in known
        and not (snippet.marker or "").startswith("not run: ")
    ]
    assert silent == []
    assert len(RUN) > 10
    assert any("$ ostro demo" in snippet.text for snippet in RUN)
    assert len(SERVE) > 3


def run(snippet: Snippet, workplace: Workplace, port: int) -> None:
    if snippet.language == "python":
        done = workplace.python(with_port(snippet.text, port))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
        assert expected_output(snippet) in {None, done.stdout}
        return
    for command, expected in snippet.commands():
        done = workplace.shell(with_port(command, port))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
        printed = [shape(line) for line in done.stdout.splitlines() if line.strip()]
        assert [shape(line) for line in expected] in ([], printed)


def expected_output(snippet: Snippet) -> str | None:
    """The text block that follows a Python block, if one does."""
    after = ALL.index(snippet) + 1
    if after < len(ALL) and ALL[after].language == "text" and ALL[after].page == snippet.page:
        between = (ROOT / snippet.page).read_text(encoding="utf-8").splitlines()
        last = snippet.line + snippet.text.count("\n") + 1
        if not any(between[last : ALL[after].line - 1]):
            return ALL[after].text
    return None


@pytest.mark.parametrize("snippet", [s for s in RUN if s.marker == "run"], ids=str)
def test_snippet(snippet: Snippet, workplace: Workplace) -> None:
    run(snippet, workplace, port=1)


@pytest.mark.parametrize("snippet", [s for s in RUN if s.marker == "run: server"], ids=str)
def test_snippet_beside_a_server(snippet: Snippet, workplace: Workplace, server_port: int) -> None:
    run(snippet, workplace, server_port)


@pytest.mark.parametrize("snippet", SERVE, ids=str)
def test_server_of_a_snippet_starts_and_stops(snippet: Snippet, workplace: Workplace) -> None:
    [(command, _)] = snippet.commands()
    with workplace.serving(command):
        pass


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []
