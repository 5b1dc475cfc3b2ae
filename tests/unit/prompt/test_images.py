from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ostro.errors import (
    BadImage,
    ImageRefused,
    ImageTooLarge,
    InvalidParameter,
    RequestError,
    UnsupportedField,
)
from ostro.loading.config import PanAndScan, VisionConfig
from ostro.prompt.build import PromptBuilder
from ostro.prompt.fetch import IN_PROCESS, ImageFetcher
from tests.unit.prompt.small import IMAGE_SOFT_TOKEN
from tests.unit.prompt.test_jinja_template import GEMMA

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ostro.prompt.tokenizer import Tokenizer
    from ostro.types import Prompt

VISION = VisionConfig(
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    image_size=28,
    patch_size=14,
    layer_norm_eps=1e-6,
    tokens_per_image=4,
)
BEGIN, END, PAD = 255999, 256000, 0
SOFT = (PAD,) * VISION.tokens_per_image
IMAGE = (BEGIN, *SOFT, END)
MARK = "\n\n<start_of_image><end_of_image>\n\n"  # the text of an image, without soft tokens
GENERATE = (106, 107, 105, 4368, 107)  # end of the turn, and the model's opened


class Fetcher:
    """Sources "12", "12.x": a square of this shade; "12:640x480": of this size. Remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[Any], list[str]]] = []

    def check_count(self, wheres: Sequence[str]) -> None:
        if len(wheres) > 64:
            raise ImageTooLarge(f"{wheres[64]}: at most 64 images are read", param=wheres[64])

    def fetch_all(self, sources: Sequence[Any], wheres: Sequence[str]) -> list[Image.Image]:
        self.asked.append((list(sources), list(wheres)))
        return [self._picture(*pair) for pair in zip(sources, wheres, strict=True)]

    def _picture(self, source: Any, where: str) -> Image.Image:
        if isinstance(source, Image.Image):
            return source
        if source == "broken":
            raise BadImage(f"{where}: cannot be read", param=where)
        shade, _, size = source.partition(":")
        width, height = map(int, size.split("x")) if size else (28, 28)
        return Image.new("RGB", (width, height), (int(shade.partition(".")[0]),) * 3)


_STAND_IN = Fetcher()


def seeing(
    tokenizer: Tokenizer,
    template: str | None = None,
    fetcher: Fetcher | ImageFetcher | None = _STAND_IN,
    **changes: Any,
) -> PromptBuilder:
    arguments: dict[str, Any] = {"bos_id": 2, "pad_id": PAD, "vocab_size": 262144, "vision": VISION}
    found = cast("ImageFetcher | None", fetcher)
    return PromptBuilder(tokenizer, chat_template=template, fetcher=found, **(arguments | changes))


@pytest.fixture(scope="session", params=[None, GEMMA], ids=["built-in", "jinja"])
def either(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> PromptBuilder:
    return seeing(tokenizer, request.param)


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def image(source: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": source}}


def user(*parts: dict[str, Any] | str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": [text(part) if isinstance(part, str) else part for part in parts]}


def shades(prompt: Prompt) -> list[int]:
    """The first value of each span's pixels."""
    return [int(span.pixels[0, 0, 0]) for span in prompt.images]


def without_soft_tokens(prompt: Prompt) -> list[int]:
    """All ids but those of spans, which are checked to be where the spans say."""
    ids = list(prompt.token_ids)
    for span in reversed(prompt.images):
        end = span.start + span.length
        assert (ids[span.start - 1], *ids[span.start : end], ids[end]) == IMAGE
        del ids[span.start : end]
    return ids


def test_an_image_before_the_text(either: PromptBuilder) -> None:
    prompt = either.chat([user(image("9"), "Describe this image.")])
    # The newline after "user" and the two before the image are one token.
    assert prompt.token_ids == (2, 105, 2364, 109, *IMAGE, 108, 82858, 672, 2471, 236761, *GENERATE)
    (span,) = prompt.images
    assert (span.start, span.length) == (5, 4)
    assert span.pixels.shape == (28, 28, 3)
    assert span.pixels.dtype == np.uint8
    assert (span.pixels == 9).all()


def test_an_image_after_the_text(either: PromptBuilder) -> None:
    prompt = either.chat([user("hi", image("9"))])
    assert prompt.token_ids == (2, 105, 2364, 107, 2202, 108, *IMAGE, 108, *GENERATE)


def test_images_in_a_row(either: PromptBuilder) -> None:
    prompt = either.chat([user(image("1"), image("2"), " ", image("3"))])
    assert prompt.token_ids == (2, 105, 2364, 109, *IMAGE, 110, *IMAGE, 110, *IMAGE, 108, *GENERATE)
    assert shades(prompt) == [1, 2, 3]
    assert [span.start for span in prompt.images] == [5, 12, 19]


def test_images_in_several_turns(either: PromptBuilder, tokenizer: Tokenizer) -> None:
    prompt = either.chat(
        [
            {"role": "system", "content": "Be kind."},
            user("Compare", image("1"), "with", image("2")),
            {"role": "assistant", "content": "They differ."},
            user(image("3"), "And this?"),
        ]
    )
    assert shades(prompt) == [1, 2, 3]
    assert without_soft_tokens(prompt) == tokenizer.encode(
        f"<bos><start_of_turn>user\nBe kind.\n\nCompare{MARK}with{MARK}<end_of_turn>\n<start_of_turn>model\n"
        f"They differ.<end_of_turn>\n<start_of_turn>user\n{MARK}And this?<end_of_turn>\n"
        "<start_of_turn>model\n",
        control=True,
    )


# Without control tokens, so that the whole prompt can be tokenised as one text.
_PLAIN = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=12)
_TEXTS = _PLAIN | st.sampled_from(["\n", " \n\n", "a\n", "\n\nb", "x", "a <b> c"])
_CONTENTS = st.lists(
    st.lists(_TEXTS | st.integers(0, 255), min_size=1, max_size=6), min_size=1, max_size=5
).map(
    lambda contents: [
        [part for part in parts if i % 2 == 0 or isinstance(part, str)] or [""]
        for i, parts in enumerate(contents)
    ]
)


@settings(deadline=None)
@given(_CONTENTS, st.none() | _PLAIN)
def test_any_order_of_texts_and_images(
    tokenizer: Tokenizer, either: PromptBuilder, contents: list[list[str | int]], system: str | None
) -> None:
    messages = [
        user(
            *(part if isinstance(part, str) else image(str(part)) for part in parts),
            role=("user", "assistant")[i % 2],
        )
        for i, parts in enumerate(contents)
    ]
    head = "" if system is None else system + "\n\n"
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    expected = "<bos>"
    for i, parts in enumerate(contents):
        said = "".join(part.strip() if isinstance(part, str) else MARK for part in parts)
        name = ("user", "model")[i % 2]
        expected += f"<start_of_turn>{name}\n{head if i == 0 else ''}{said}<end_of_turn>\n"
    prompt = either.chat(messages)
    assert shades(prompt) == [part for parts in contents for part in parts if isinstance(part, int)]
    assert without_soft_tokens(prompt) == tokenizer.encode(expected + "<start_of_turn>model\n", control=True)


def test_messages_that_are_merged(either: PromptBuilder, tokenizer: Tokenizer) -> None:
    apart = [user("Look:"), user(image("1")), user("What", "is it?"), user(image("2"), "and that?")]
    together = [user("Look:", image("1"), "Whatis it?", image("2"), "and that?")]
    assert either.chat(apart) == either.chat(together)


def test_images_of_tools_and_of_system_messages(either: PromptBuilder) -> None:
    asked = [{"role": "user", "content": "Draw."}, {"role": "assistant", "content": "ok"}]
    tool = either.chat([*asked, user("done", image("1"), role="tool"), user("What is it?")])
    assert tool == either.chat([*asked, user("done", image("1"), "What is it?")])
    system = either.chat([user("Logo:", image("1"), role="system"), user("hi")])
    assert system == either.chat([user("Logo:", image("1"), "hi")])


def test_an_answer_about_an_image_can_be_continued(either: PromptBuilder) -> None:
    messages = [user(image("1"), "hi"), {"role": "assistant", "content": "hi"}]
    prompt = either.chat(messages, continue_final_message=True)
    assert prompt.token_ids == (2, 105, 2364, 109, *IMAGE, 108, 2202, *GENERATE, 2202)
    assert shades(prompt) == [1]


def test_crops(either: PromptBuilder, tokenizer: Tokenizer) -> None:
    picture = Image.new("RGB", (1000, 500), "white")
    picture.paste("black", (500, 0, 1000, 500))
    prompt = either.chat([user("Look:", image(picture), "?")], pan_and_scan=True)
    assert without_soft_tokens(prompt) == tokenizer.encode(
        f"<bos><start_of_turn>user\nLook:Here is the original image {MARK} and here are some crops to help "
        f"you see better {MARK} {MARK}?<end_of_turn>\n<start_of_turn>model\n",
        control=True,
    )
    whole, left, right = (span.pixels for span in prompt.images)
    assert (int(whole[0, 0, 0]), int(whole[0, -1, 0])) == (255, 0)
    assert (left == 255).all()
    assert (right == 0).all()
    between = prompt.token_ids[prompt.images[1].start + 4 : prompt.images[2].start]
    assert between == (END, 108, 236743, 108, BEGIN)


def test_who_wants_crops(tokenizer: Tokenizer) -> None:
    oblong, square = [user(image("1:1000x500"))], [user(image("1:1000x999"))]
    for enabled in (False, True):
        builder = seeing(tokenizer, pan_and_scan=PanAndScan(enabled=enabled))
        assert len(builder.chat(oblong).images) == (3 if enabled else 1)
        assert len(builder.chat(oblong, pan_and_scan=False).images) == 1
        assert len(builder.chat(oblong, pan_and_scan=True).images) == 3
        assert builder.chat(square, pan_and_scan=True) == builder.chat(square, pan_and_scan=False)
    fine = seeing(tokenizer, pan_and_scan=PanAndScan(min_crop_size=100, max_num_crops=5))
    assert len(fine.chat([user(image("1:1000x200"))], pan_and_scan=True).images) == 6


def test_an_image_given_twice_is_fetched_once(tokenizer: Tokenizer) -> None:
    fetcher = Fetcher()
    picture = Image.new("RGB", (5, 5), (7, 7, 7))
    prompt = seeing(tokenizer, fetcher=fetcher).chat(
        [user(image("1"), image(picture), image("2")), user(image(picture), image("1"))]
    )
    assert fetcher.asked == [
        (["1", picture, "2"], [f"messages[0].content[{i}].image_url.url" for i in range(3)])
    ]
    assert shades(prompt) == [1, 7, 2, 7, 1]
    assert prompt.images[0].content_hash == prompt.images[4].content_hash
    assert prompt.images[0].pixels is prompt.images[4].pixels
    assert len({span.content_hash for span in prompt.images}) == 3


def test_images_that_look_alike_have_one_hash(tokenizer: Tokenizer) -> None:
    first, second = seeing(tokenizer).chat([user(image("1"), image("1.x"))]).images
    assert first.content_hash == second.content_hash


def test_every_kind_of_source_is_fetched(tokenizer: Tokenizer, tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(28 * 28 * 3, dtype=np.uint8).reshape(28, 28, 3))
    path = tmp_path / "picture.png"
    picture.save(path)
    base64 = b64encode(path.read_bytes()).decode()
    sources = [picture, np.asarray(picture), path.read_bytes(), path, str(path), path.as_uri(), base64]
    parts = [image(source) for source in (*sources, f"data:image/png;base64,{base64}")]
    parts += [{"type": "image", "path": str(path)}, {"type": "image", "base64": base64}]
    fetcher = ImageFetcher(IN_PROCESS)
    prompt = seeing(tokenizer, fetcher=fetcher).chat([user(*parts, "What is this?")])
    fetcher.close()
    assert len(prompt.images) == 10
    assert all((span.pixels == np.asarray(picture)).all() for span in prompt.images)
    assert len({span.content_hash for span in prompt.images}) == 1


def test_without_a_fetcher_the_rules_of_servers_hold(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (5, 5)).save(path)
    with pytest.raises(ImageRefused):
        seeing(tokenizer, fetcher=None).chat([user(image(path))])


def test_text_alone_asks_for_nothing(tokenizer: Tokenizer, builder: PromptBuilder) -> None:
    fetcher = Fetcher()
    assert seeing(tokenizer, fetcher=fetcher).chat("hi") == builder.chat("hi")
    assert fetcher.asked == []


@pytest.mark.parametrize(
    "literal",
    ["<start_of_image>", "<end_of_image>", IMAGE_SOFT_TOKEN, "<start_of_image><end_of_image>", "\ue000"],
)
def test_what_texts_say_is_no_image(either: PromptBuilder, tokenizer: Tokenizer, literal: str) -> None:
    prompt = either.chat([user(literal, image("1"), f"{literal}0;", image("2"), literal)])
    assert shades(prompt) == [1, 2]
    ids = without_soft_tokens(prompt)
    assert (ids.count(BEGIN), ids.count(END)) == (2, 2)
    gap = "\n\n\n\n"
    assert tokenizer.decode(ids) == f"user\n{literal}{gap}{literal}0;{gap}{literal}\nmodel\n"


def test_a_token_cut_by_an_image(either: PromptBuilder, tokenizer: Tokenizer) -> None:
    ids = without_soft_tokens(either.chat([user("<start_of", image("1"), "_image>")]))
    assert ids.count(BEGIN) == 1
    assert tokenizer.decode(ids) == "user\n<start_of\n\n\n\n_image>\nmodel\n"


def test_an_image_that_cannot_be_read(either: PromptBuilder) -> None:
    with pytest.raises(BadImage, match="cannot be read") as caught:
        either.chat([user("a", image("1")), user(image("broken"))])
    assert caught.value.param == "messages[1].content[0].image_url.url"


@pytest.mark.parametrize(
    "messages",
    [
        [user(image("1")), {"role": "robot", "content": "x"}],
        [user(image("1"), {"type": "video_url"})],
        [user(image("1"), image(5))],
        [{"role": "assistant", "content": "Hello!"}, user(image("1"))],
        [user(image("1")), user(image("1"), role="assistant")],
    ],
)
def test_nothing_is_fetched_for_messages_with_mistakes(
    tokenizer: Tokenizer, messages: list[dict[str, Any]]
) -> None:
    fetcher = Fetcher()
    for template in (None, GEMMA):
        with pytest.raises(RequestError):
            seeing(tokenizer, template, fetcher).chat(messages)
    assert fetcher.asked == []


def test_a_model_without_vision(builder: PromptBuilder) -> None:
    with pytest.raises(UnsupportedField, match="this model reads text only") as caught:
        builder.chat([user("a"), user("What is this?", image("1"))])
    assert caught.value.param == "messages[1].content[1].image_url.url"
    assert caught.value.status == 422


def test_a_vocabulary_without_image_markers(tokenizer: Tokenizer) -> None:
    fetcher = Fetcher()
    with pytest.raises(
        RequestError, match="vocabulary has no <start_of_image>, so it cannot be shown images"
    ):
        seeing(tokenizer, fetcher=fetcher, vocab_size=255999).chat([user(image("1"))])
    assert fetcher.asked == []


def test_completions_have_no_images(
    tokenizer: Tokenizer, builder: PromptBuilder, small_pair: tuple[Tokenizer, Tokenizer]
) -> None:
    for prompt in ("a<start_of_image>b", [5, BEGIN]):
        with pytest.raises(
            InvalidParameter, match="prompt has <start_of_image>, but a completion has no images"
        ):
            seeing(tokenizer).completion(prompt)
        assert BEGIN in builder.completion(prompt).token_ids  # as ever for models that read text only
    with pytest.raises(InvalidParameter, match=f"prompt has {IMAGE_SOFT_TOKEN}") as caught:
        seeing(small_pair[1], vocab_size=small_pair[1].vocab_size).completion(IMAGE_SOFT_TOKEN)
    assert caught.value.param == "prompt"
    assert seeing(tokenizer).completion("hi").token_ids == (2, 2202)


_LOOP = "{% for m in messages %}"
_END = "{% endfor %}"
_IF_TEXT = _LOOP + "{% if m.content is string %}{{ m.content }}{% else %}"
_PART = "{{ p.text if p.type == 'text' else '<start_of_image>' }}"


@pytest.mark.parametrize(
    "source",
    [
        _LOOP + "{{ m.content | trim }}" + _END,  # writes a list as Python does
        _LOOP + "{{ '' + m.content }}" + _END,  # fails on a list
        _IF_TEXT + "{{ raise_exception('text!') }}{% endif %}" + _END,
        _IF_TEXT + "{{ m.content[0].text }}{% endif %}" + _END,  # loses images
        _IF_TEXT
        + "{% for p in m.content if p.type == 'image' %}<start_of_image>{% endfor %}{% endif %}"
        + _END,
        _IF_TEXT
        + "{% for p in m.content | sort(attribute='type') %}"
        + _PART
        + "{% endfor %}{% endif %}"
        + _END,
        _IF_TEXT + "{% for p in m.content %}" + _PART + "{% endfor %}<start_of_image>{% endif %}" + _END,
    ],
)
def test_templates_that_cannot_do_images(tokenizer: Tokenizer, source: str) -> None:
    parts: list[dict[str, Any] | str] = ["use", image("1"), " <b>b</b> ", image("2"), image("3"), "5;"]
    prompt = seeing(tokenizer, source).chat([user(*parts)])
    assert shades(prompt) == [1, 2, 3]
    written = f"<bos>use{MARK}<b>b</b>{MARK}{MARK}5;"
    assert without_soft_tokens(prompt) == tokenizer.encode(written, control=True)


def test_a_template_with_its_own_way_of_showing_images(tokenizer: Tokenizer) -> None:
    source = (
        "{% for m in messages %}{% for p in m.content %}{% if p.type == 'image' %}"
        "Part {{ loop.index }}: <start_of_image>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endfor %}"
    )
    prompt = seeing(tokenizer, source).chat([user(image("1"), "a", image("2"))])
    assert shades(prompt) == [1, 2]
    # The template writes no <bos>; it is put in front, and the spans move along.
    assert without_soft_tokens(prompt) == tokenizer.encode(
        f"<bos>Part 1: {MARK}aPart 3: {MARK}", control=True
    )


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].role }}",
        "{{ messages[0].content | length }}",
        "{{ messages[0].content | string | lower | reverse }}",
        "{{ messages[0].content }}{{ messages[0].content }}",
        "<start_of_image>{{ messages[0].content }}",
    ],
)
def test_templates_that_lose_or_move_images(tokenizer: Tokenizer, source: str) -> None:
    fetcher = Fetcher()
    with pytest.raises(RequestError, match="chat template leaves images out or moves them") as caught:
        seeing(tokenizer, source, fetcher).chat([user(image("1"), "a", image("2"))])
    assert caught.value.param == "messages"
    assert fetcher.asked == []


def test_a_template_that_wants_no_images(tokenizer: Tokenizer) -> None:
    source = "{{ raise_exception('never: ' ~ (messages[0].content is string)) }}"
    with pytest.raises(RequestError, match=r"^never: False$"):
        seeing(tokenizer, source).chat([user(image("1"))])


@pytest.mark.timeout(20)
def test_long_texts_around_images(either: PromptBuilder) -> None:
    said = "def f(x): return <b>x</b>\n\n" * 10_000
    prompt = either.chat([user(said, image("1"), said)])
    assert len(prompt.token_ids) > 150_000
    assert shades(prompt) == [1]


def test_images_that_come_twice_count_twice(tokenizer: Tokenizer) -> None:
    fetcher = Fetcher()
    with pytest.raises(ImageTooLarge, match="at most 64 images are read") as caught:
        seeing(tokenizer, None, fetcher).chat([user(*[image("1")] * 65)])
    assert caught.value.param is not None
    assert caught.value.param.startswith("messages[0].content[64]")
    assert fetcher.asked == []
