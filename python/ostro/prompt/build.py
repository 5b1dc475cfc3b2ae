"""From a request to the final token ids."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ostro.errors import InvalidParameter, RequestError, UnsupportedField
from ostro.loading.config import PanAndScan
from ostro.prompt.messages import Turn, arrange, read_messages, without_system
from ostro.prompt.template import GemmaTemplate, ImageSlot
from ostro.types import ImageSpan, Prompt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ostro.loading.config import VisionConfig
    from ostro.prompt.fetch import ImageFetcher
    from ostro.prompt.images import Piece
    from ostro.prompt.template import ChatTemplate, Segment
    from ostro.prompt.tokenizer import Tokenizer


_NO_CROPS = PanAndScan()


class PromptBuilder:
    """Builds prompts for one model. Immutable; threads may share it.

    chat_template: Jinja source, None for Gemma's own format. pad_id: what stands at image positions.
    vocab_size: rows of the model's embedding table; control tokens beyond them (the image soft token of a
    text model) are ordinary text. vision: None for a model that reads text only. fetcher: how images are had,
    None for the rules of a server. pan_and_scan: how crops are made, and whether by default.
    BadConfig if the template is not valid Jinja.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        chat_template: str | None,
        bos_id: int,
        pad_id: int,
        vocab_size: int,
        vision: VisionConfig | None = None,
        fetcher: ImageFetcher | None = None,
        pan_and_scan: PanAndScan = _NO_CROPS,
    ) -> None:
        self._tokenizer = tokenizer
        self._bos_id = bos_id
        self._pad_id = pad_id
        self._vocab_size = vocab_size
        self._control = tokenizer.control.below(vocab_size)
        self._template = self._make_template(chat_template)
        self._tokens_per_image = 0
        self._images = None
        if vision is not None:
            # Pillow and the HTTP client take a while to import, and text models need neither.
            from ostro.prompt.images import ImageReader

            self._tokens_per_image = vision.tokens_per_image
            self._images = ImageReader(vision, fetcher, pan_and_scan)

    def chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        pan_and_scan: bool | None = None,
    ) -> Prompt:
        """A conversation; what counts as a message and how turns are merged: see `ostro.prompt.messages`.

        Text of messages never becomes a control token. Blocks while images are fetched, which happens after
        the messages have been checked. pan_and_scan: also show crops of oblong images, None for the default.
        add_generation_prompt: open the model's turn, also after an assistant message. continue_final_message:
        leave the last message, an assistant one, open instead.
        RequestError with the template's words if it refuses the conversation, UnsupportedField for images if
        the model has no vision.
        """
        turns = arrange(read_messages(messages))
        if continue_final_message and turns[-1].role != "assistant":
            raise InvalidParameter(
                "continue_final_message: the last message must be one of the assistant", param="messages"
            )
        images = [image for turn in turns for image in turn.images]
        if images and self._images is None:
            raise UnsupportedField(
                f"{images[0].where}: this model reads text only; images need a model with vision",
                param=images[0].where,
            )
        segments = self._render(turns, add_generation_prompt, continue_final_message)
        if images and self._images is not None:
            return self._prompt(self._images.expand(segments, images, self._control, pan_and_scan))
        return self._prompt([segment for segment in segments if not isinstance(segment, ImageSlot)])

    def completion(self, prompt: str | Sequence[int]) -> Prompt:
        """Raw text or token ids, to be continued as they are; `<bos>` is put in front unless it is there.

        Literal control tokens in the text become those tokens, as in llama.cpp and Hugging Face: a completion
        prompt is the whole of what the model reads, and the caller wrote all of it. Not those of images, if
        the model has vision: there would be no image for them (InvalidParameter).
        """
        if isinstance(prompt, str):
            pieces = self._control.split(prompt)
            self._refuse_images([piece for piece in pieces if isinstance(piece, int)])
            return self._prompt(pieces)
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
        self._refuse_images(prompt)
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

    def _refuse_images(self, ids: Sequence[int]) -> None:
        if self._images is None:
            return
        for text in ("<start_of_image>", "<image_soft_token>"):
            if (token_id := self._control.ids.get(text)) is not None and token_id in ids:
                raise InvalidParameter(
                    f"prompt has {text}, but a completion has no images; send them in the messages of a chat",
                    param="prompt",
                )

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

    def _prompt(self, pieces: Sequence[Piece]) -> Prompt:
        ids: list[int] = []
        images: list[ImageSpan] = []
        for is_text, run in groupby(pieces, lambda piece: isinstance(piece, str)):
            if is_text:
                ids += self._tokenizer.encode("".join(map(str, run)), control=False)
                continue
            for piece in run:
                if isinstance(piece, int):
                    ids.append(piece)
                elif not isinstance(piece, str):
                    length = self._tokens_per_image
                    images.append(ImageSpan(len(ids), length, piece.content_hash, piece.pixels))
                    ids += [self._pad_id] * length
        if ids and max(ids) >= self._vocab_size:
            raise RequestError(
                f"the tokenizer yields id {max(ids)}, but the model knows {self._vocab_size:,} tokens"
            )
        return self._with_bos(ids, images)

    def _with_bos(self, ids: list[int], images: Sequence[ImageSpan] = ()) -> Prompt:
        if ids[:1] == [self._bos_id]:
            return Prompt(tuple(ids), tuple(images))
        shifted = (replace(image, start=image.start + 1) for image in images)
        return Prompt((self._bos_id, *ids), tuple(shifted))
