from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostro.errors import BadConfig, CorruptFile, InvalidParameter
from ostro.prompt.tokenizer import Tokenizer, load_tokenizer
from tests.unit.prompt.small import IMAGE_SOFT_TOKEN, tokenizer_json, write_tokenizer_json

if TYPE_CHECKING:
    from pathlib import Path

_FRAGMENTS = st.sampled_from(
    (
        *("<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<unused7>", "<mask>", "<0x41>"),
        *("<", ">", "of_turn>", "\n", "\n" * 40, " ", " " * 33, " " * 50, "\t" * 35, "\0"),
        *("<b>", "</td>", "[multimodal]", " the", "hello world", "café", "日本語", "𓀀"),
    )
)
_TEXTS = st.lists(_FRAGMENTS | st.text(st.characters(exclude_characters="▁"), max_size=6), max_size=12).map(
    "".join
)


@settings(deadline=None)
@given(_TEXTS, st.booleans())
def test_both_formats_agree(small_pair: tuple[Tokenizer, Tokenizer], text: str, control: bool) -> None:
    gguf, from_json = small_pair
    ids = gguf.encode(text, control=control)
    assert from_json.encode(text, control=control) == ids
    assert from_json.decode(ids) == gguf.decode(ids)
    assert from_json.decode(ids, skip_special=False) == gguf.decode(ids, skip_special=False)


@settings(deadline=None)
@given(_TEXTS)
def test_no_text_yields_a_control_token(small_pair: tuple[Tokenizer, Tokenizer], text: str) -> None:
    for tokenizer in small_pair:
        assert not any(map(tokenizer.is_control, tokenizer.encode(text + IMAGE_SOFT_TOKEN, control=False)))


def test_both_formats_describe_tokens_alike(small_pair: tuple[Tokenizer, Tokenizer]) -> None:
    gguf, from_json = small_pair
    assert from_json.bos_id == gguf.bos_id
    assert from_json.vocab_size == gguf.vocab_size + 1
    for i in range(gguf.vocab_size):
        assert from_json.token_bytes(i) == gguf.token_bytes(i)
        assert from_json.token_text(i) == gguf.token_text(i)
        assert from_json.is_control(i) == gguf.is_control(i)
        text = gguf.token_text(i)
        assert from_json.id_of(text) == gguf.id_of(text)


def test_the_image_soft_token_is_only_in_the_json(small_pair: tuple[Tokenizer, Tokenizer]) -> None:
    gguf, from_json = small_pair
    assert from_json.encode(IMAGE_SOFT_TOKEN, control=True) == [gguf.vocab_size]
    assert from_json.id_of(IMAGE_SOFT_TOKEN) == gguf.vocab_size
    assert gguf.id_of(IMAGE_SOFT_TOKEN) is None


def test_user_defined_pieces_match_without_control(small_pair: tuple[Tokenizer, Tokenizer]) -> None:
    _, from_json = small_pair
    for text in ("<b>", "</td>", "\n\n\n", "\t\t", "[multimodal]"):
        assert from_json.encode(text, control=False) == [from_json.id_of(text)]


def test_surrogates(small_pair: tuple[Tokenizer, Tokenizer]) -> None:
    _, from_json = small_pair
    assert from_json.encode("a\ud800", control=False) == from_json.encode("a\ufffd", control=False)


def test_added_tokens_beyond_the_model_keep_their_ids(tmp_path: Path) -> None:
    config = tokenizer_json()
    free = len(config["model"]["vocab"]) + 1
    more = {**config["added_tokens"][0], "id": free, "content": "<tool>", "special": False}
    path = write_tokenizer_json(tmp_path / "tokenizer.json", added_tokens=[*config["added_tokens"], more])
    tokenizer = load_tokenizer(path)
    assert tokenizer.encode("<tool>", control=False) == tokenizer.encode("<tool>", control=True) == [free]
    assert tokenizer.token_bytes(free) == b"<tool>"
    assert tokenizer.vocab_size == free + 1


def test_truncation_and_padding_of_the_file_do_not_apply(tmp_path: Path) -> None:
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    path = write_tokenizer_json(tmp_path / "tokenizer.json", truncation=truncation)
    assert len(load_tokenizer(path).encode("a,b,c,d,e", control=False)) == 9


@pytest.mark.parametrize("token_id", [-1, 10**6, 2**40])
def test_unknown_ids(small_pair: tuple[Tokenizer, Tokenizer], token_id: int) -> None:
    _, from_json = small_pair
    assert from_json.token_bytes(token_id) == b""
    with pytest.raises(InvalidParameter, match=f"token id {token_id} is not in the vocabulary"):
        from_json.decode([token_id])


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"version": "1.0", "model": {"type": "BPE"}}', "\xff"]
)
def test_unreadable_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(CorruptFile, match=r"tokenizer\.json: not a readable tokenizer\.json: "):
        load_tokenizer(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=r"tokenizer\.json: not a readable tokenizer\.json: "):
        load_tokenizer(tmp_path / "tokenizer.json")


def _model(**changes: Any) -> dict[str, Any]:
    model: dict[str, Any] = {**tokenizer_json()["model"], **changes}
    return model


def test_other_kinds_of_models(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for model, message in (
        (_model(byte_fallback=False), "needs a BPE model with byte_fallback, found BPE"),
        ({"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}, "found WordLevel"),
    ):
        with pytest.raises(BadConfig, match=message):
            load_tokenizer(write_tokenizer_json(path, model=model))


def test_missing_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    vocab = tokenizer_json()["model"]["vocab"]
    vocab["<0xZZ>"] = vocab.pop("<0x41>")
    with pytest.raises(BadConfig, match="without all of the byte tokens <0x00> to <0xFF>"):
        load_tokenizer(write_tokenizer_json(path, model=_model(vocab=vocab)))
    added = [token for token in tokenizer_json()["added_tokens"] if token["content"] != "<bos>"]
    with pytest.raises(BadConfig, match="no <bos> among added_tokens"):
        load_tokenizer(write_tokenizer_json(path, added_tokens=added))
    assert json.loads(path.read_text())["added_tokens"] == added
