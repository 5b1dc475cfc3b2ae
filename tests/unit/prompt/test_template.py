from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ostro.errors import RequestError
from ostro.prompt.control import ControlTexts
from ostro.prompt.template import GemmaTemplate, ImageSlot

if TYPE_CHECKING:
    from ostro.prompt.template import Segment

TOKENS = {
    "<bos>": 2,
    "<start_of_turn>": 105,
    "<end_of_turn>": 106,
}
NAMES = {token_id: text for text, token_id in TOKENS.items()}


def render(*messages: tuple[str, Any], generate: bool = True, continue_last: bool = False) -> str:
    segments = GemmaTemplate(ControlTexts(TOKENS)).render(
        [{"role": role, "content": content} for role, content in messages],
        add_generation_prompt=generate,
        continue_last=continue_last,
    )
    return "".join(map(written, segments))


def written(segment: Segment) -> str:
    if isinstance(segment, ImageSlot):
        return f"(image {segment.index})"
    return NAMES[segment] if isinstance(segment, int) else segment


def test_the_system_text_leads_the_first_turn_untrimmed() -> None:
    assert render(("system", " sys "), ("user", "q"), ("assistant", " a "), ("user", "z")) == (
        "<bos><start_of_turn>user\n sys \n\nq<end_of_turn>\n<start_of_turn>model\na<end_of_turn>\n"
        "<start_of_turn>user\nz<end_of_turn>\n<start_of_turn>model\n"
    )


def test_parts_keep_their_order_and_a_system_list_its_first_text_only() -> None:
    image = {"type": "image"}
    texts = [{"type": "text", "text": text} for text in ("S1", "S2", " what? ", "x")]
    assert render(("system", texts[:2]), ("user", [image, texts[2], image, texts[3], {"type": "video"}])) == (
        "<bos><start_of_turn>user\nS1\n\n(image 0)what?(image 1)x<end_of_turn>\n<start_of_turn>model\n"
    )


def test_other_roles_are_printed_at_odd_places() -> None:
    assert "<start_of_turn>tool\nr<end_of_turn>" in render(("user", "u"), ("tool", "r"), ("user", "v"))


def test_without_generation_prompt() -> None:
    assert render(("user", "u"), generate=False) == "<bos><start_of_turn>user\nu<end_of_turn>\n"
    assert render(("system", "lost"), generate=False) == "<bos>"


def test_the_last_turn_can_stay_open() -> None:
    assert render(("user", "u"), ("assistant", " It is "), continue_last=True) == (
        "<bos><start_of_turn>user\nu<end_of_turn>\n<start_of_turn>model\nIt is"
    )


@pytest.mark.parametrize(
    "roles", [("user", "user"), ("assistant",), ("system", "assistant"), ("user", "tool", "tool")]
)
def test_roles_must_alternate(roles: tuple[str, ...]) -> None:
    with pytest.raises(RequestError, match="Conversation roles must alternate user/assistant/user/assistant"):
        render(*((role, "x") for role in roles))


def test_refusals() -> None:
    with pytest.raises(RequestError, match="at least one message"):
        render()
    with pytest.raises(RequestError, match="Invalid content type"):
        render(("user", None))


def test_a_vocabulary_without_turns() -> None:
    template = GemmaTemplate(ControlTexts({"<bos>": 2}))
    with pytest.raises(RequestError, match="vocabulary has no <start_of_turn>, so it cannot chat"):
        template.render([{"role": "user", "content": "x"}], add_generation_prompt=True, continue_last=False)
