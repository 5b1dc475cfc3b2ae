"""From a request to the final token ids."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from ostro.errors import InvalidParameter, RequestError
from ostro.prompt.messages import Turn, arrange, read_messages, without_system
from ostro.prompt.template import GemmaTemplate
from ostro.types import Prompt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ostro.prompt.template import ChatTemplate, Segment
    from ostro.prompt.tokenizer import Tokenizer


class PromptBuilder:
    """Builds prompts for one model. Immutable; threads may share it.

    chat_template: Jinja source, None for Gemma's own format. vocab_size: rows of the model's embedding table;
    control tokens beyond them (the image soft token of a text model) are ordinary text.
    BadConfig if the template is not valid Jinja.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, chat_template: str | None, bos_id: int, vocab_size: int
    ) -> None:
        self._tokenizer = tokenizer
        self._bos_id = bos_id
        self._vocab_size = vocab_size
        self._control = tokenizer.control.below(vocab_size)
        self._template = self._make_template(chat_template)

    def chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> Prompt:
        """A conversation; what counts as a message and how turns are merged: see `ostro.prompt.messages`.

        Text of messages never becomes a control token. add_generation_prompt: open the model's turn, also
        after an assistant message. continue_final_message: leave the last message, an assistant one,
        open instead.
        RequestError with the template's words if it refuses the conversation.
        """
        turns = arrange(read_messages(messages))
        if continue_final_message and turns[-1].role != "assistant":
            raise InvalidParameter(
                "continue_final_message: the last message must be one of the assistant", param="messages"
            )
        segments = self._render(turns, add_generation_prompt, continue_final_message)
        return self._prompt(segments)

    def completion(self, prompt: str | Sequence[int]) -> Prompt:
        """Raw text or token ids, to be continued as they are; `<bos>` is put in front unless it is there.

        Literal control tokens in the text become those tokens, as in llama.cpp and Hugging Face: a completion
        prompt is the whole of what the model reads, and the caller wrote all of it.
        """
        if isinstance(prompt, str):
            return self._prompt(self._control.split(prompt))
        for i, token_id in enumerate(prompt):
            if not isinstance(token_id, int) or isinstance(token_id, bool):
                raise InvalidParameter(
                    f"prompt[{i}] must be a token id, not {type(token_id).__name__}", param="prompt"
                )
            if not 0 <= token_id < self._vocab_size:
                raise InvalidParameter(
                    f"prompt[{i}] is {token_id}; token ids go from 0 to {self._vocab_size - 1}",
                    param="prompt",
                )
        return self._with_bos(list(prompt))

    def _make_template(self, source: str | None) -> ChatTemplate:
        if source is None:
            return GemmaTemplate(self._control)
        # Jinja takes a while to import, and most processes run a model without a template of its own.
        from ostro.prompt.jinja_template import JinjaTemplate

        names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
        known = {name: text if text in self._control.ids else "" for name, text in names.items()}
        known["bos_token"] = self._tokenizer.token_text(self._bos_id)
        return JinjaTemplate(source, self._control, known)

    def _render(self, turns: list[Turn], add_generation_prompt: bool, continue_last: bool) -> list[Segment]:
        def render(turns: list[Turn]) -> list[Segment]:
            return self._template.render(
                [turn.message() for turn in turns],
                add_generation_prompt=add_generation_prompt,
                continue_last=continue_last,
            )

        if turns[0].role != "system":
            return render(turns)
        # Some templates refuse a system message, others drop it in silence.
        try:
            segments = render(turns)
        except RequestError as refusal:
            try:
                return render(without_system(turns))
            except RequestError:
                raise refusal from None
        said = turns[0].message()["content"].strip()
        written = "".join(segment for segment in segments if isinstance(segment, str))
        return segments if said in written else render(without_system(turns))

    def _prompt(self, segments: Sequence[Segment]) -> Prompt:
        ids: list[int] = []
        for is_control, run in groupby(segments, lambda segment: isinstance(segment, int)):
            if is_control:
                ids += (segment for segment in run if isinstance(segment, int))
            else:
                ids += self._tokenizer.encode("".join(map(str, run)), control=False)
        if ids and max(ids) >= self._vocab_size:
            raise RequestError(
                f"the tokenizer yields id {max(ids)}, but the model knows {self._vocab_size:,} tokens"
            )
        return self._with_bos(ids)

    def _with_bos(self, ids: list[int]) -> Prompt:
        if ids[:1] != [self._bos_id]:
            ids.insert(0, self._bos_id)
        return Prompt(tuple(ids))
