from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostro.errors import CorruptFile, InvalidParameter
from ostro.prompt.tokenizer import Tokenizer, load_tokenizer
from tests.unit.prompt.small import small_vocabulary

if TYPE_CHECKING:
    from typing import Any

# Ids of llama.cpp's and SentencePiece's tokenizers on the real vocabulary.
VECTORS = [
    ("Hello, world!", [9259, 236764, 1902, 236888]),
    (" leading space", [5830, 2557]),
    ("trailing space ", [136697, 2557, 236743]),
    ("three   spaces x", [19891, 139, 35220, 1123]),
    ("a\tb\t\tc", [236746, 255968, 236763, 255969, 236755]),
    ("line1\nline2\n\n\nline3", [1257, 236770, 107, 1257, 236778, 109, 1257, 236800]),
    ("\r\nCRLF\r\n", [251, 107, 6459, 43102, 251, 107]),
    (
        "$100,000.00",
        [236795, 236770, 236771, 236771, 236764, 236771, 236771, 236771, 236761, 236771, 236771],
    ),
    ("naïve café — “quotes” …", [1789, 238527, 560, 33443, 2192, 999, 52231, 236919, 7881]),
    ("日本語のテキスト、漢字とかな", [94951, 236945, 95830, 236951, 201637, 237032, 19735]),
    ("👩‍👩‍👧‍👦 family", [243767, 237243, 243767, 237243, 244814, 237243, 244990, 2523]),
    ("𓀀𓁐", [478, 385, 366, 366, 478, 385, 367, 382]),
    ("\x01\x02 control \x00", [249732, 241247, 2256, 236743, 238]),
    ("e\u0301", [236744, 238288]),
    (" " * 33 + "x", [167, 138, 236781]),
    ("\n" * 35 + "y", [137, 110, 236762]),
    ("  \n  indented\n\t\ttabs", [138, 107, 138, 724, 16764, 107, 255969, 39218]),
    (
        "def f(x):\n    return x**2  # comment\n",
        [2063, 517, 236769, 236781, 1473, 107, 140, 2060, 1123, 1018, 236778, 138, 236865, 5739, 107],
    ),
    ("a" * 20, [128820, 128820, 50354]),
    (
        "don't can't I'll",
        [13246, 236789, 236745, 740, 236789, 236745, 564, 236789, 859],
    ),
    ("<b>bold</b> <s>strike</s>", [200, 15640, 209, 236743, 203, 110095, 212]),
    ("<table><tr><td>x</td></tr></table>", [168, 173, 175, 236781, 183, 181, 176]),
    ("[multimodal]", [5]),
    ("\ufffd\ufffd", [38914]),
    ("<0x0A>", [236820, 236771, 236781, 236771, 236776, 236813]),
    ("<image_soft_token>", [236820, 3304, 236779, 5622, 236779, 1114, 236813]),
    ("▁literal▁underscore ▁ x", [37087, 126226, 139, 236781]),
    ("\n\n\n", [109]),
    ("", []),
]


@pytest.mark.parametrize(("text", "ids"), VECTORS)
@pytest.mark.parametrize("control", [False, True])
def test_vectors(tokenizer: Tokenizer, text: str, ids: list[int], control: bool) -> None:
    assert tokenizer.encode(text, control=control) == ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("<bos><eos>", [2, 1]),
        ("<unused99>", [256001]),
        ("user\n\n\n<start_of_image>", [2364, 109, 255999]),
        ("<start_of_turn>user\nhi<end_of_turn>\n", [105, 2364, 107, 2202, 106, 107]),
        ("<mask><pad><unk>", [4, 0, 3]),
    ],
)
def test_control_texts_become_tokens_when_asked(tokenizer: Tokenizer, text: str, ids: list[int]) -> None:
    assert tokenizer.encode(text, control=True) == ids
    assert not any(map(tokenizer.is_control, tokenizer.encode(text, control=False)))
    assert tokenizer.decode(ids, skip_special=False) == text


def test_literal_control_texts_have_the_known_ordinary_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<bos><eos>", control=False) == [236820, 46757, 1798, 211827, 236813]


_FRAGMENTS = st.sampled_from(
    (
        *("<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<unused7>"),
        *("<image_soft_token>", "<mask>", "<", ">", "start_of_turn", "▁", "<b>", "\0"),
        *("\n", "\n" * 40, " " * 50, "\t"),
    )
)


@settings(deadline=None)
@given(st.lists(_FRAGMENTS | st.text(max_size=8), max_size=12).map("".join))
def test_no_text_yields_a_control_token(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, control=False)
    assert not any(map(tokenizer.is_control, ids))
    assert not {0, 1, 2, 3, 4, 105, 106, 255999, 256000, 262144}.intersection(ids)
    assert tokenizer.decode(ids) == text.replace("▁", " ")


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="▁")))
def test_what_tokens_add_up_to(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, control=False)
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text


@pytest.mark.parametrize(
    ("text", "read_as"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udc00", "\ufffd"),
        ("\ud83d\ude00!", "😀!"),
        ("<bos>\ud800", "<bos>\ufffd"),
    ],
)
def test_surrogates(tokenizer: Tokenizer, text: str, read_as: str) -> None:
    for control in (False, True):
        assert tokenizer.encode(text, control=control) == tokenizer.encode(read_as, control=control)


@pytest.mark.parametrize(
    "text", ["The quick brown fox <b>\n\n" * 4000, "x" * 100_000, " " * 100_000, "<" * 100_000, "é" * 100_000]
)
@pytest.mark.timeout(10)
def test_long_inputs(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, control=True)) == text


def test_decoding(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([2, 105, 2364, 107, 2202, 106]) == "user\nhi"
    assert tokenizer.decode([2, 2202, 106], skip_special=False) == "<bos>hi<end_of_turn>"
    assert tokenizer.decode([5830, 138, 140]) == " leading      "
    assert tokenizer.decode([]) == ""


def test_decoding_byte_runs_as_hugging_face_does(tokenizer: Tokenizer) -> None:
    euro = [238 + byte for byte in "€".encode()]
    assert tokenizer.decode(euro) == "€"
    assert tokenizer.decode([*euro, euro[0]]) == "\ufffd" * 4
    assert tokenizer.decode([*euro, 2202, euro[0], 2202]) == "€hi\ufffdhi"
    assert tokenizer.decode([euro[0], 106, *euro[1:]]) == "€"
    assert (
        tokenizer.decode([euro[0], 106, *euro[1:]], skip_special=False) == "\ufffd<end_of_turn>\ufffd\ufffd"
    )


def test_tokens_alone(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_text(i) for i in (2, 5, 109, 139, 255999, 1902)] == [
        "<bos>",
        "[multimodal]",
        "\n\n\n",
        "   ",
        "<start_of_image>",
        " world",
    ]
    assert tokenizer.token_text(238 + 0xE2) == "\ufffd"
    assert tokenizer.token_bytes(238 + 0xE2) == b"\xe2"
    assert tokenizer.token_bytes(105) == tokenizer.token_bytes(255999) == b""
    assert tokenizer.token_bytes(212) == b"</s>"


def test_ids_of_texts(tokenizer: Tokenizer) -> None:
    texts = ["<bos>", "<end_of_turn>", "<start_of_image>", "  ", " world", "\n\n\n", "</s>", " "]
    assert [tokenizer.id_of(text) for text in texts] == [2, 106, 255999, 138, 1902, 109, 212, 236743]
    assert [tokenizer.id_of(text) for text in ("", "<0x0A>", "no such piece", "<image_soft_token>")] == [
        None
    ] * 4


def test_sizes(tokenizer: Tokenizer) -> None:
    assert (tokenizer.vocab_size, tokenizer.bos_id) == (262144, 2)


@pytest.mark.parametrize("token_id", [-1, 262144, 10**9])
def test_unknown_ids(tokenizer: Tokenizer, token_id: int) -> None:
    assert tokenizer.token_bytes(token_id) == b""
    for call in (tokenizer.token_text, lambda i: tokenizer.decode([i])):
        with pytest.raises(
            InvalidParameter, match=f"token id {token_id} is not in the vocabulary of 262,144"
        ):
            call(token_id)


def test_wrong_control_types_are_put_right() -> None:
    right = small_vocabulary()
    wrong = replace(right, token_types=np.where(right.token_types == 3, 1, right.token_types))
    tokenizer = load_tokenizer(wrong)
    assert tokenizer.control.ids == load_tokenizer(right).control.ids
    assert not any(map(tokenizer.is_control, tokenizer.encode("<start_of_turn><unused3>", control=False)))


def test_a_space_prefix_when_the_file_says_so() -> None:
    plain = load_tokenizer(small_vocabulary())
    prefixed = load_tokenizer(replace(small_vocabulary(), add_space_prefix=True))
    assert prefixed.encode("hello", control=False) == plain.encode(" hello", control=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pieces": []}, "tokenizer.ggml.tokens: the vocabulary is empty"),
        ({"scores": np.zeros(3, np.float32)}, "tokenizer.ggml.scores: 3 entries for"),
        ({"token_types": np.zeros(3, np.int32)}, "tokenizer.ggml.token_type: 3 entries for"),
        ({"bos_id": 100_000}, "tokenizer.ggml.bos_token_id: 100000 is outside of"),
        ({"unknown_id": -1}, "tokenizer.ggml.unknown_token_id: -1 is outside of"),
    ],
)
def test_contradictions_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptFile, match=message):
        load_tokenizer(replace(small_vocabulary(), **change))


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        ("", "a piece of 0 or"),
        ("x" * 70_000, "or 70000 bytes"),
        ("a\0b", "contains a NUL character"),
        ("\ud800", "not valid Unicode"),
        ("<0x0A>", "'<0x0A>' is already defined: tokens [0-9]+ and [0-9]+"),
    ],
)
def test_impossible_pieces_are_named(piece: str, message: str) -> None:
    vocabulary = small_vocabulary()
    pieces = [*vocabulary.pieces[:-3], piece, *vocabulary.pieces[-2:]]
    with pytest.raises(CorruptFile, match=f"tokenizer.ggml.tokens: .*{message}"):
        load_tokenizer(replace(vocabulary, pieces=pieces))


@pytest.mark.parametrize(("key", "value"), [("scores", float("nan")), ("token_types", 0), ("token_types", 7)])
def test_impossible_numbers_are_named(key: str, value: float) -> None:
    vocabulary = small_vocabulary()
    numbers = getattr(vocabulary, key).copy()
    numbers[7] = value
    with pytest.raises(
        CorruptFile, match=r"tokenizer\.ggml\.(scores: not|token_type: values .* expected 1 to 6)"
    ):
        load_tokenizer(replace(vocabulary, **{key: numbers}))


def test_missing_byte_tokens_are_named() -> None:
    vocabulary = small_vocabulary()
    pieces = ["<0xZZ>" if piece == "<0x41>" else piece for piece in vocabulary.pieces]
    with pytest.raises(CorruptFile, match="256 byte tokens, expected <0x00> to <0xFF>"):
        load_tokenizer(replace(vocabulary, pieces=pieces))


def test_pieces_longer_than_one_length_byte_can_say() -> None:
    vocabulary = small_vocabulary()
    at = next(i for i, kind in enumerate(vocabulary.token_types) if kind == 4)
    piece = "é" * 200
    pieces = [*vocabulary.pieces[:at], piece, *vocabulary.pieces[at + 1 :]]
    assert load_tokenizer(replace(vocabulary, pieces=pieces)).encode(piece, control=False) == [at]
