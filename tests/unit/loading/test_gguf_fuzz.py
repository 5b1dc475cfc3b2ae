"""Damaged GGUF files: whatever happens to the bytes, only our errors come out, and memory stays bounded."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ostro.errors import OstroError
from ostro.loading.gguf_checkpoint import open_gguf

from . import tiny

if TYPE_CHECKING:
    from collections.abc import Callable

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.gguf"))
INTERESTING = [0, 1, 7, 8, 9, 13, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    metadata = {
        "gemma3.attention.sliding_window_pattern": [True, False],
        "tokenizer.chat_template": "{{ x }}",
    }
    return tiny.write_gguf(tmp_path_factory.mktemp("sound") / "m.gguf", metadata=metadata).read_bytes()


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], None]:
    path = tmp_path_factory.mktemp("fuzz") / "m.gguf"

    def run(content: bytes) -> None:
        # A new file each time: maps of the last one may still be alive.
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        tracemalloc.start()
        message = str(path)
        try:
            open_gguf(path, name="fuzz")
        except OstroError as error:
            message = error.message
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert str(path) in message
        assert peak < 8 << 20

    return run


fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def header_size(content: bytes) -> int:
    """Where the metadata and tensor list end, roughly: all weights of the sound file lie behind."""
    return content.index(b"token_embd.weight") + 2000


@fuzz
@given(st.data())
def test_flipped_bytes(sound: bytes, check: Callable[[bytes], None], data: st.DataObject) -> None:
    content = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, header_size(sound)))] = data.draw(st.integers(0, 255))
    check(bytes(content))


@fuzz
@given(st.data())
def test_wrong_numbers(sound: bytes, check: Callable[[bytes], None], data: st.DataObject) -> None:
    content = bytearray(sound)
    code = data.draw(st.sampled_from(["<Q", "<I"]))
    value = data.draw(st.sampled_from(INTERESTING) | st.integers(0, 2**64 - 1))
    value %= 1 << (8 * struct.calcsize(code))
    struct.pack_into(code, content, data.draw(st.integers(0, header_size(sound))), value)
    check(bytes(content))


@fuzz
@given(st.data())
def test_wrong_lengths(sound: bytes, check: Callable[[bytes], None], data: st.DataObject) -> None:
    """Aimed at the places before names and texts, where lengths are."""
    names = [b"gemma3.", b"tokenizer.", b"llama", b"piece3", b"blk.", b"token_embd", b"general."]
    name = data.draw(st.sampled_from(names))
    places = [index for index in range(8, header_size(sound)) if sound.startswith(name, index)]
    place = data.draw(st.sampled_from(places))
    content = bytearray(sound)
    struct.pack_into("<Q", content, place - 8, data.draw(st.sampled_from(INTERESTING) | st.integers(0, 100)))
    check(bytes(content))


@fuzz
@given(st.data())
def test_cut_and_shifted(sound: bytes, check: Callable[[bytes], None], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, header_size(sound)) | st.integers(0, len(sound) - 1))
    check(sound[:cut])
    length = data.draw(st.integers(1, 64))
    check(sound[:cut] + sound[cut + length :])
    check(sound[:cut] + data.draw(st.binary(max_size=32)) + sound[cut:])


@fuzz
@given(content=st.binary(max_size=200), whole=st.booleans())
def test_noise(check: Callable[[bytes], None], content: bytes, whole: bool) -> None:
    check(content if whole else b"GGUF\x03\0\0\0" + content)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_corpus(check: Callable[[bytes], None], path: Path) -> None:
    check(path.read_bytes())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_corpus_files_are_all_refused(path: Path) -> None:
    with pytest.raises(OstroError):
        open_gguf(path, name="corpus")


def test_there_is_a_corpus() -> None:
    assert len(CORPUS) >= 10
