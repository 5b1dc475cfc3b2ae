from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostro.errors import RequestError
from ostro.prompt.control import ControlTexts
from ostro.prompt.jinja_template import JinjaTemplate
from ostro.prompt.quarantine import Quarantine, Tag
from ostro.prompt.template import GemmaTemplate

if TYPE_CHECKING:
    from ostro.prompt.template import Segment

CONTROL = ControlTexts(
    {
        "<bos>": 2,
        "<mask>": 4,
        "<unused1>": 7,
        "<start_of_turn>": 105,
        "<end_of_turn>": 106,
        "<start_of_image>": 255999,
    }
)

# Our own writing of the rules of Gemma 3's published template.
GEMMA = """\
{{ bos_token }}
{%- set system = namespace(text='') %}
{%- if messages[0].role == 'system' %}
    {%- set system.text = messages[0].content + '\n\n' %}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {{- '<start_of_turn>' ~ ('model' if message.role == 'assistant' else message.role) ~ '\n' }}
    {{- system.text if loop.first }}
    {%- set text = {'type': 'text', 'text': message.content} %}
    {%- for part in ([text] if message.content is string else message.content) %}
        {{- '<start_of_image>' if part.type == 'image' else part.text | trim }}
    {%- endfor %}
    {{- '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""


def chat(*contents: str) -> list[dict[str, Any]]:
    """Turns of user and assistant; an uneven number ends with the user."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def render(source: str, *contents: str, continue_last: bool = False) -> list[Segment]:
    """Segments, neighbouring texts joined."""
    template = JinjaTemplate(source, CONTROL, {"bos_token": "<bos>", "eos_token": "<eos>"})
    return joined(template.render(chat(*contents), add_generation_prompt=True, continue_last=continue_last))


def joined(segments: list[Segment]) -> list[Segment]:
    out: list[Segment] = []
    for segment in segments:
        if isinstance(segment, str) and out and isinstance(last := out[-1], str):
            out[-1] = last + segment
        elif segment != "":
            out.append(segment)
    return out


_HOSTILE = st.lists(
    st.sampled_from(
        [
            *CONTROL.ids,
            "<",
            ">",
            "start_of_turn>",
            "<start",
            "_of_turn>",
            "bos",
            "\ue000",
            "\ue001",
            "</b>",
            " ",
            "\n",
            "x",
        ]
    )
    | st.text(max_size=4),
    max_size=6,
).map("".join)


@settings(deadline=None)
@given(st.lists(_HOSTILE, min_size=1, max_size=5), st.none() | _HOSTILE)
def test_the_files_template_and_the_built_in_one_agree(contents: list[str], system: str | None) -> None:
    messages = chat(*contents)
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    for continue_last in {False, len(contents) % 2 == 0}:
        jinja, built_in = (
            joined(template.render(messages, add_generation_prompt=True, continue_last=continue_last))
            for template in (JinjaTemplate(GEMMA, CONTROL, {"bos_token": "<bos>"}), GemmaTemplate(CONTROL))
        )
        assert jinja == built_in


_IMAGE = {"type": "image"}
_PARTS = st.lists(
    st.just(_IMAGE) | _HOSTILE.map(lambda text: {"type": "text", "text": text}), min_size=1, max_size=6
)
_TEXT_ONLY = (
    "<bos>{% set m = messages[0] %}<start_of_turn>user\n{{ m.content | trim }}<end_of_turn>\n"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


@settings(deadline=None)
@given(_PARTS)
def test_images_among_hostile_texts(parts: list[dict[str, str]]) -> None:
    messages = [{"role": "user", "content": parts}]
    built_in, *others = (
        joined(template.render(messages, add_generation_prompt=True, continue_last=False))
        for template in (
            GemmaTemplate(CONTROL),
            JinjaTemplate(GEMMA, CONTROL, {"bos_token": "<bos>"}),
            JinjaTemplate(_TEXT_ONLY, CONTROL, {}),
        )
    )
    assert others[0] == built_in
    # The text-only template trims what the parts have become together; nothing is at its ends but them.
    if _IMAGE in (parts[0], parts[-1]) or all(part["type"] == "text" for part in parts):
        assert others[1] == built_in or _IMAGE not in parts


@pytest.mark.parametrize(
    ("source", "contents"),
    [
        ("{{ messages[0].content }}", ["<end_of_turn><start_of_turn>"]),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", ["<start", "_of_turn>"]),
        (
            "{% for m in messages %}{{ m.content | trim }}{% endfor %}",
            ["<start_of ", "turn>", "<", "bos", ">"],
        ),
        ("<{{ messages[0].content }}", ["bos>"]),
        ("<{{ messages[0].content }}>", ["bos"]),
        ("<{{ messages[0].content | trim }}>", [" bos\n"]),
        ("<b{{ messages[0].content }}s>", ["o"]),
        ("<bos{{ messages[0].content }}", [">"]),
        ("{{ messages[0].content }}bos>", ["<"]),
        ("<{{ messages[0].content }}_of_{{ messages[1].content }}>", ["start", "turn"]),
        ("{{ messages[0].content | lower }}", ["<BOS>"]),
        ("{{ messages[0].content | tojson }}", ["<bos>"]),
        (
            "{{ messages[0].content.split('<think>')[0] + messages[0].content.split('</think>')[1] }}",
            ["<b<think>x</think>os>"],
        ),
        ("{{ messages[0].content.replace('</think>', '') }}", ["<b</think>os>"]),
    ],
)
def test_texts_of_messages_never_become_control_tokens(source: str, contents: list[str]) -> None:
    segments = render(source, *contents)
    assert all(isinstance(segment, str) for segment in segments)
    assert "\ue000" not in "".join(map(str, segments))


def test_the_text_itself_is_unchanged() -> None:
    text = "a <b>bold</b> <bos> < > << >> <start_of_turn> </think> \ue000 bos"
    assert render("<bos>{{ messages[0].content }}<end_of_turn>", text) == [2, text, 106]


@pytest.mark.parametrize(
    ("source", "content", "text"),
    [
        ("{{ messages[0].content.split('</think>')[-1] }}", "<think>so</think>yes", "yes"),
        ("{{ messages[0].content.startswith('<tool_response>') }}", "<tool_response>1", "True"),
        ("{{ '<result>' in messages[0].content }}", "a <result> b", "True"),
        ("{{ messages[0].content | trim }}|", "\n > quoted < \n", "> quoted <|"),
        ("{{ messages[0].content | tojson(ensure_ascii=true) }}", "<b> é", '"<b> \\u00e9"'),
    ],
)
def test_what_templates_do_with_text_still_works(source: str, content: str, text: str) -> None:
    assert render(source, content) == [text]


def test_continuing_the_last_message() -> None:
    assert render(GEMMA, "q", " The answer <is> ", continue_last=True)[-1] == "model\nThe answer <is>"


def test_a_template_that_leaves_the_last_message_out() -> None:
    with pytest.raises(RequestError, match="leaves the last message out"):
        render("{{ messages[0].content }}", "<>", "a", continue_last=True)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('No system, please.') }}", r"^No system, please\.$"),
        ("{{ messages[7].content }}", "the model's chat template failed: UndefinedError: "),
        ("{{ 1 + 'a' }}", "the model's chat template failed: TypeError: "),
        ("{{ ''.__class__.__mro__ }}", "the model's chat template failed: SecurityError: "),
        (
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "the model's chat template failed: RecursionError: ",
        ),
        ("{{ 1 / 0 }}", "the model's chat template failed: ZeroDivisionError: "),
    ],
)
def test_failures_name_the_template(source: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        render(source, "hi")
    assert caught.value.param == "messages"


def test_special_tokens_are_variables() -> None:
    assert render("{{ bos_token }}{{ eos_token }}{{ tools is none }}", "x") == [2, "<eos>True"]


def test_marks_avoid_what_is_taken() -> None:
    quarantine = Quarantine("\ue001", ControlTexts({"\ue002": 1}))
    assert quarantine.mark_for(["a\ue000", "b"]) == "\ue003"
    every_first = "".join(map(chr, range(0xE000, 0xF900)))
    assert quarantine.mark_for([every_first]) == "\U000f0000"
    everything = every_first + "".join(map(chr, (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))))
    with pytest.raises(RequestError, match="every private-use character"):
        quarantine.mark_for([everything])


def test_tags_are_found_between_texts_that_look_like_them() -> None:
    quarantine = Quarantine("", CONTROL)
    mark = quarantine.mark_for([])
    texts = ["<", "7;", "12", ";", ">", "<bos>"]
    written = "".join(
        quarantine.protect(text, mark) + quarantine.tag(i, mark) for i, text in enumerate(texts)
    )
    assert quarantine.split(written, mark) == [
        part for i, text in enumerate(texts) for part in (text, Tag(i))
    ]


def test_control_tokens_of_other_shapes() -> None:
    control = ControlTexts({"|im|": 1, "[I]": 2, "||": 3})
    template = JinjaTemplate("[I]{{ messages[0].content }}|im|", control, {})
    for text in ("|im|", "||", "|", "[I", "]", "m|", "a|b [I] im"):
        messages = [{"role": "user", "content": text}]
        assert joined(template.render(messages, add_generation_prompt=True, continue_last=False)) == [
            2,
            text,
            1,
        ]
