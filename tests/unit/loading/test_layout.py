"""Which model a set of file names stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ostro.errors import BadConfig, ModelNotFound, OstroError, UnsupportedModel
from ostro.loading.layout import GgufLayout, HuggingFaceLayout, find_layout, find_mmproj

INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("names", "pick", "expected"),
    [
        (["a.gguf", "README.md"], None, GgufLayout("a.gguf", ("a.gguf",))),
        (["a.gguf", "mmproj-a.gguf"], None, GgufLayout("a.gguf", ("a.gguf",))),
        (["mmproj-a.gguf"], None, GgufLayout("mmproj-a.gguf", ("mmproj-a.gguf",))),
        (["a.gguf", "b.gguf"], "b.gguf", GgufLayout("b.gguf", ("b.gguf",))),
        (["q/a.GGUF"], None, GgufLayout("q/a.GGUF", ("q/a.GGUF",))),
        (["odd-name", "a.gguf"], "odd-name", GgufLayout("odd-name", ("odd-name",))),
        (
            ["q/a-00002-of-00002.gguf", "q/a-00001-of-00002.gguf"],
            None,
            GgufLayout("q/a-00001-of-00002.gguf", ("q/a-00001-of-00002.gguf", "q/a-00002-of-00002.gguf")),
        ),
        (
            ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "b.gguf"],
            "a-00002-of-00002.gguf",
            GgufLayout("a-00001-of-00002.gguf", ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf")),
        ),
        (["config.json", "model.safetensors", INDEX], None, HuggingFaceLayout(("model.safetensors",), None)),
        (["config.json", INDEX, "model-00001-of-00002.safetensors"], None, HuggingFaceLayout((), INDEX)),
        (["config.json", "weights.safetensors"], None, HuggingFaceLayout(("weights.safetensors",), None)),
        (
            ["config.json", "model.safetensors", "a.gguf"],
            None,
            HuggingFaceLayout(("model.safetensors",), None),
        ),
        (["config.json", "model.safetensors", "a.gguf"], "a.gguf", GgufLayout("a.gguf", ("a.gguf",))),
        (["config.json", "a.gguf"], None, GgufLayout("a.gguf", ("a.gguf",))),
    ],
)
def test_finds(names: list[str], pick: str | None, expected: object) -> None:
    assert find_layout(names, pick, "here") == expected


@pytest.mark.parametrize(
    ("names", "pick", "error", "message"),
    [
        (
            ["a.gguf", "b.gguf"],
            None,
            BadConfig,
            "here holds several GGUF models; choose one as gguf_file: a.gguf, b.gguf",
        ),
        (["a.gguf", "b.gguf"], "c.gguf", ModelNotFound, "here has no file 'c.gguf': a.gguf, b.gguf"),
        (["README.md"], "c.gguf", ModelNotFound, "here has no file 'c.gguf' nor any other GGUF file"),
        ([], None, UnsupportedModel, "here: no model in there"),
        (
            ["config.json"],
            None,
            UnsupportedModel,
            "config.json is there, but no safetensors, GGUF or UQFF weights",
        ),
        (["config.json", "pytorch_model.bin"], None, UnsupportedModel, "its weights are Python pickles"),
        (["model.safetensors"], None, UnsupportedModel, "safetensors weights without a config.json"),
        (
            ["adapter_config.json", "adapter_model.safetensors"],
            None,
            UnsupportedModel,
            "this is an adapter (LoRA)",
        ),
        (
            ["config.json", "adapter_config.json", "adapter_model.safetensors"],
            None,
            UnsupportedModel,
            "this is an adapter (LoRA)",
        ),
        ([f"{i:02d}.gguf" for i in range(50)], None, BadConfig, "39.gguf and 10 more"),
    ],
)
def test_refuses(names: list[str], pick: str | None, error: type[OstroError], message: str) -> None:
    with pytest.raises(error) as caught:
        find_layout(names, pick, "here")
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("names", "model", "pick", "expected"),
    [
        (["a.gguf"], "a.gguf", None, None),
        (["a.gguf", "mmproj-a.gguf"], "a.gguf", None, "mmproj-a.gguf"),
        (["a.gguf", "a.MMPROJ.GGUF"], "a.gguf", None, "a.MMPROJ.GGUF"),
        (["a.gguf", "mmproj.txt", "mmproj/b.gguf"], "a.gguf", None, None),
        (["a.gguf", "mmproj-1.gguf", "mmproj-2.gguf"], "a.gguf", None, None),
        (["a.gguf", "mmproj-1.gguf", "mmproj-2.gguf"], "a.gguf", "mmproj-2.gguf", "mmproj-2.gguf"),
        (["a.gguf", "mmproj-1.gguf", "eye"], "a.gguf", "eye", "eye"),
        (["a.gguf", "mmproj-1.gguf"], "a.gguf", Path("/elsewhere/eye"), None),
        (["q/a.gguf", "mmproj.gguf"], "q/a.gguf", None, "mmproj.gguf"),
        (["q/a.gguf", "q/mmproj.gguf", "mmproj.gguf"], "q/a.gguf", None, "q/mmproj.gguf"),
        (["q/a.gguf", "r/mmproj.gguf"], "q/a.gguf", None, None),
        (["a.gguf", "q/mmproj.gguf"], "a.gguf", None, None),
        (["a.gguf", "mmproj.gguf"], "mmproj.gguf", None, None),
    ],
)
def test_finds_the_image_half(names: list[str], model: str, pick: str | None, expected: str | None) -> None:
    assert find_mmproj(names, GgufLayout(model, (model,)), pick, "here") == expected


def test_image_halves_that_are_not_there() -> None:
    with pytest.raises(ModelNotFound) as caught:
        find_mmproj(["a.gguf", "b.gguf"], GgufLayout("a.gguf", ("a.gguf",)), "mmproj.gguf", "here")
    assert caught.value.message == "here has no file 'mmproj.gguf': there is no mmproj file in it"
    with pytest.raises(BadConfig, match=r"here is no GGUF model, so mmproj_file .* has to be left out"):
        find_mmproj(["mmproj.gguf"], HuggingFaceLayout((), None), "mmproj.gguf", "here")
