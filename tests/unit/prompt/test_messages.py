from __future__ import annotations

from collections import UserDict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ostro.errors import InvalidParameter, UnsupportedField
from ostro.prompt.messages import TextPart, arrange, read_messages, without_system

if TYPE_CHECKING:
    from ostro.prompt.messages import Turn


def plain(turns: list[Turn]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in (turn.message() for turn in turns)]


def arranged(*messages: tuple[str, Any]) -> list[tuple[str, str]]:
    return plain(arrange(read_messages([{"role": role, "content": content} for role, content in messages])))


def test_a_string_is_one_user_turn() -> None:
    assert plain(read_messages(" hi ")) == [("user", " hi ")]


def test_ordinary_conversations_stay_as_they_are() -> None:
    talk = [("system", " s "), ("user", " u "), ("assistant", " a "), ("user", "")]
    assert arranged(*talk) == talk


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        ([("developer", "d"), ("user", "u")], [("system", "d"), ("user", "u")]),
        ([("system", "a "), ("developer", " b"), ("user", "u")], [("system", "a\n\nb"), ("user", "u")]),
        ([("user", "a\n"), ("user", ""), ("user", " b")], [("user", "a\n\nb")]),
        ([("user", "u"), ("assistant", "a"), ("assistant", "b")], [("user", "u"), ("assistant", "a\n\nb")]),
        ([("system", "s")], [("user", "s")]),
        ([("system", "s"), ("system", "t")], [("user", "s\n\nt")]),
        (
            [("user", "u"), ("assistant", "a"), ("system", "s"), ("user", "v")],
            [("user", "u"), ("assistant", "a"), ("user", "s\n\nv")],
        ),
        (
            [("user", "u"), ("assistant", "a"), ("system", "s")],
            [("user", "u"), ("assistant", "a"), ("user", "s")],
        ),
        ([("user", "u"), ("system", "s"), ("assistant", "a")], [("user", "u\n\ns"), ("assistant", "a")]),
        ([("user", "u"), ("tool", "22 °C"), ("user", "v")], [("user", "u\n\n22 °C\n\nv")]),
        ([("user", "u"), ("function", "f")], [("user", "u\n\nf")]),
    ],
)
def test_turns_are_merged_and_folded(messages: list[tuple[str, str]], turns: list[tuple[str, str]]) -> None:
    assert arranged(*messages) == turns


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["system", "developer", "user", "assistant", "tool"]), st.integers(0, 99)),
        min_size=1,
    )
)
def test_turns_alternate_and_nothing_is_lost(messages: list[tuple[str, int]]) -> None:
    turns = arranged(*((role, f"<{number}>") for role, number in messages))
    roles = [role for role, _ in turns]
    assert "system" not in roles[1:]
    assert all(a != b for a, b in pairwise(roles))
    assert roles != ["system"]
    assert "\n\n".join(text for _, text in turns) == "\n\n".join(f"<{number}>" for _, number in messages)


def test_the_system_turn_can_be_said_by_the_user() -> None:
    turns = arrange(read_messages([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]))
    assert plain(without_system(turns)) == [("user", "s\n\nu")]


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_text_parts() -> None:
    assert arranged(("user", [text_part(" only ")])) == [("user", " only ")]
    assert arranged(("user", [text_part(" a "), text_part("b ")])) == [("user", "ab")]
    assert arranged(("system", [text_part("S1"), text_part("S2")]), ("user", "u"))[0] == (
        "system",
        "S1\n\nS2",
    )


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"id": "x", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_calls_of_tools() -> None:
    calls = [call("f", '{"x": "ä"}'), call("g", {"y": [1]}), call("h", "not json"), call("i", "")]
    message = {"role": "assistant", "content": "Let me see.", "tool_calls": calls}
    written = (
        '{"name": "f", "parameters": {"x": "ä"}}\n{"name": "g", "parameters": {"y": [1]}}\n'
        '{"name": "h", "parameters": "not json"}\n{"name": "i", "parameters": {}}'
    )
    assert plain(read_messages([message])) == [("assistant", "Let me see.\n" + written)]
    for content in ({"content": None}, {}):
        assert plain(read_messages([{"role": "assistant", "tool_calls": calls, **content}])) == [
            ("assistant", written)
        ]


def test_fields_that_do_not_matter() -> None:
    message = UserDict({"role": "user", "content": "hi", "name": "Ann", "tool_calls": None})
    assert plain(read_messages((message,))) == [("user", "hi")]


_USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("messages", "param", "message"),
    [
        ([], "messages", "messages is empty"),
        (None, "messages", "messages must be a list of messages or a string, not null"),
        (b"hi", "messages", "not bytes"),
        ({"role": "user"}, "messages", "not dict"),
        (["hi"], "messages[0]", r"messages\[0\] must be an object, not str"),
        ([_USER, {}], "messages[1].role", r"messages\[1\].role is missing"),
        ([{"role": "robot"}], "messages[0].role", "is 'robot'; it must be one of system, developer, user"),
        ([{"role": 1}], "messages[0].role", "is 1;"),
        ([{"role": ["user"]}], "messages[0].role", "must be one of"),
        ([{"role": "user"}], "messages[0].content", "is missing; only an assistant"),
        ([{"role": "user", "content": None}], "messages[0].content", "is null; only an assistant"),
        ([{"role": "assistant", "content": None}], "messages[0].content", "is null"),
        ([{"role": "assistant", "content": None, "tool_calls": []}], "messages[0].content", "is null"),
        ([{"role": "user", "content": 5}], "messages[0].content", "a string or a list of parts, not int"),
        ([{"role": "user", "content": b"x"}], "messages[0].content", "not bytes"),
        ([{"role": "user", "content": []}], "messages[0].content", "is an empty list"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]", "must be an object, not str"),
        ([{"role": "user", "content": [{}]}], "messages[0].content[0].type", "is None; it must be 'text'"),
        ([{"role": "user", "content": [{"type": []}]}], "messages[0].content[0].type", r"is \[\]"),
        (
            [{"role": "user", "content": [text_part("a"), {"type": "text"}]}],
            "messages[0].content[1].text",
            "null",
        ),
        ([{**_USER, "tool_calls": [call("f", {})]}], "messages[0].tool_calls", "only the assistant calls"),
        ([{"role": "assistant", "tool_calls": "f()"}], "messages[0].tool_calls", "must be a list, not str"),
        ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0].function", "with a name"),
        (
            [{"role": "assistant", "tool_calls": [call("f", {"x": object()})]}],
            "messages[0].tool_calls[0].function.arguments",
            "cannot be written as JSON",
        ),
    ],
)
def test_mistakes_are_named(messages: Any, param: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message) as caught:
        read_messages(messages)
    assert caught.value.param == param


@pytest.mark.parametrize("kind", ["input_audio", "audio_url", "video_url", "file"])
def test_kinds_of_content_that_are_not_offered(kind: str) -> None:
    parts = [text_part("What is this?"), {"type": kind, kind: {"url": "data:,"}}]
    with pytest.raises(
        UnsupportedField, match=rf"messages\[0\].content\[1\]: no {kind} parts here"
    ) as caught:
        read_messages([{"role": "user", "content": parts}])
    assert caught.value.param == "messages[0].content[1]"
    assert caught.value.status == 422


def shown(*messages: tuple[str, Any]) -> list[tuple[str, Any]]:
    """Arranged turns; contents as strings, or as lists in which images are their sources."""
    turns = arrange(read_messages([{"role": role, "content": content} for role, content in messages]))
    return [
        (turn.role, [part.text if isinstance(part, TextPart) else part.source for part in turn.parts])
        if turn.images
        else (turn.role, turn.message()["content"])
        for turn in turns
    ]


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


PICTURE = Image.new("RGB", (2, 2))
PIXELS = np.zeros((2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ("part", "source", "field"),
    [
        ({"type": "image_url", "image_url": {"url": "http://a/b"}}, "http://a/b", "image_url.url"),
        ({"type": "image_url", "image_url": {"url": "b.png", "detail": "low"}}, "b.png", "image_url.url"),
        ({"type": "image_url", "image_url": {"url": PICTURE}}, PICTURE, "image_url.url"),
        ({"type": "image_url", "image_url": "data:,"}, "data:,", "image_url"),
        ({"type": "input_image", "image_url": "http://a/b", "detail": "auto"}, "http://a/b", "image_url"),
        ({"type": "image", "image": "b.png"}, "b.png", "image"),
        ({"type": "image", "image": b"GIF"}, b"GIF", "image"),
        ({"type": "image", "image": bytearray(b"GIF")}, b"GIF", "image"),
        ({"type": "image", "image": memoryview(b"GIF")}, b"GIF", "image"),
        ({"type": "image", "image": PICTURE}, PICTURE, "image"),
        ({"type": "image", "image": PIXELS, "url": None}, PIXELS, "image"),
        ({"type": "image", "image": {"url": "http://a/b"}}, "http://a/b", "image.url"),
        ({"type": "image", "source": Path("b.png")}, Path("b.png"), "source"),
        ({"type": "image", "url": "http://a/b"}, "http://a/b", "url"),
        ({"type": "image", "path": "data:,"}, Path("data:,"), "path"),
        ({"type": "image", "base64": "/9j/4A=="}, "data:;base64,/9j/4A==", "base64"),
        ({"type": "image", "base64": "data:image/png;base64,iV"}, "data:image/png;base64,iV", "base64"),
    ],
)
def test_images_are_written_in_many_ways(part: dict[str, Any], source: object, field: str) -> None:
    turn, *others = read_messages([{"role": "user", "content": [text_part("What is this?"), part]}])
    assert not others
    (found,) = turn.images
    assert type(found.source) is type(source)
    assert found.source is source or found.source == source
    assert found.where == f"messages[0].content[1].{field}"
    assert turn.message() == {"role": "user", "content": [text_part("What is this?"), {"type": "image"}]}


def test_texts_and_images_keep_their_order() -> None:
    parts = [text_part(" a "), text_part("b"), image("1"), text_part(" "), image("2"), text_part("c\n")]
    assert shown(("user", parts)) == [("user", ["ab", "1", "2", "c"])]
    assert shown(("user", [image("1")])) == [("user", ["1"])]


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        (
            [("user", "a"), ("user", [image("1")]), ("user", "b"), ("user", "c")],
            [("user", ["a", "1", "b\n\nc"])],
        ),
        (
            [("user", [text_part("a"), image("1")]), ("user", [image("2"), text_part("b")])],
            [("user", ["a", "1", "2", "b"])],
        ),
        (
            [("user", "u"), ("assistant", "a"), ("tool", [text_part("r"), image("1")]), ("user", "v")],
            [("user", "u"), ("assistant", "a"), ("user", ["r", "1", "v"])],
        ),
        ([("tool", [image("1")])], [("user", ["1"])]),
        # A system turn shows no images: the user says all of it.
        (
            [("system", "s"), ("system", [text_part("t"), image("1"), text_part("x")]), ("user", "u")],
            [("user", ["s\n\nt", "1", "x\n\nu"])],
        ),
        ([("system", [image("1")])], [("user", ["1"])]),
        (
            [("system", "s"), ("user", "u"), ("developer", [image("1")]), ("assistant", "a")],
            [("system", "s"), ("user", ["u", "1"]), ("assistant", "a")],
        ),
    ],
)
def test_turns_with_images_are_merged_and_folded(messages: list[Any], turns: list[Any]) -> None:
    assert shown(*messages) == turns


@pytest.mark.parametrize(
    ("role", "part", "param", "message"),
    [
        ("user", {"type": "image_url"}, ".image_url", r"content\[0\].image_url is missing"),
        ("user", {"type": "image_url", "image_url": {}}, ".image_url.url", "image_url.url is missing"),
        ("user", {"type": "input_image", "image_url": None}, ".image_url", "image_url is missing"),
        (
            "user",
            {"type": "image_url", "image_url": 5},
            ".image_url",
            "must be a URL, a path, base64.*not int",
        ),
        ("user", {"type": "image_url", "image_url": {"url": ["x"]}}, ".image_url.url", "not list"),
        ("user", {"type": "image_url", "image_url": {"url": {"url": "x"}}}, ".image_url.url", "not dict"),
        ("user", {"type": "image"}, "", "has no image; give one of image, url, path, base64, source"),
        ("user", {"type": "image", "url": "a", "path": "b"}, "", "has url and path; give one of them"),
        ("user", {"type": "image", "image": 1.5}, ".image", "not float"),
        ("user", {"type": "image", "base64": b"iV"}, ".base64", "must be a string, not bytes"),
        ("user", {"type": "image", "path": b"a"}, ".path", "must be a path, not bytes"),
        (
            "assistant",
            image("1"),
            ".image_url.url",
            "the assistant shows no images; put this one into a user",
        ),
    ],
)
def test_mistakes_with_images_are_named(role: str, part: Any, param: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message) as caught:
        read_messages([{"role": role, "content": [part]}])
    assert caught.value.param == f"messages[0].content[0]{param}"
