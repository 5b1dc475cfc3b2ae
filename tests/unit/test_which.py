from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ostro.errors import InvalidParameter, UnsupportedField
from ostro.isq_names import IsqType, isq_name
from ostro.loading import demo
from ostro.which import (
    DEMO_MODEL,
    Architecture,
    CheckpointSource,
    IsqOrganization,
    ModelDType,
    MultimodalArchitecture,
    VisionArchitecture,
    Which,
)


def test_names_of_the_users_page() -> None:
    which = Which.VisionPlain(model_id="google/gemma-3-12b-it", arch=VisionArchitecture.Gemma3)
    assert isinstance(which, Which)
    assert which.source() == CheckpointSource("google/gemma-3-12b-it")
    assert VisionArchitecture is MultimodalArchitecture
    assert Which.VisionPlain is Which.MultimodalPlain


@pytest.mark.parametrize("kind", [Which.Plain, Which.VisionPlain, Which.MultimodalPlain])
@pytest.mark.parametrize("arch", [None, "gemma3", "Gemma3", Architecture.Gemma3])
def test_plain(kind: Any, arch: Any) -> None:
    which = kind(
        "some/model",
        arch,
        tokenizer_json="t.json",
        dtype=ModelDType.BF16,
        hf_cache_path="cache",
        organization=IsqOrganization.Default,
        revision="main",
    )
    assert which.source() == CheckpointSource(
        "some/model", tokenizer_json=Path("t.json"), revision="main", cache_dir=Path("cache")
    )


def test_gguf() -> None:
    which = Which.GGUF("folder", "model.gguf", "some/model", tokenizer_json="t.json", max_rank=8)
    assert which.source() == CheckpointSource(
        "folder", gguf_file="model.gguf", tok_model_id="some/model", tokenizer_json=Path("t.json")
    )
    assert Which.GGUF("folder", ["model.gguf"]).source().gguf_file == "model.gguf"


def test_parts_of_a_split_gguf() -> None:
    parts = ["m-00002-of-00002.gguf", "m-00001-of-00002.gguf"]
    assert Which.GGUF("folder", parts).source().gguf_file == "m-00001-of-00002.gguf"


@pytest.mark.parametrize(
    "files",
    [["a.gguf", "b.gguf"], ["a.gguf", "a.gguf"], ["a-00001-of-00002.gguf", "b-00002-of-00002.gguf"]],
)
def test_several_files_that_are_no_split(files: list[str]) -> None:
    with pytest.raises(InvalidParameter, match=r"only if they are the parts of one split file"):
        Which.GGUF("folder", files)


@pytest.mark.parametrize("files", ["", [], [None], [""]])
def test_no_file(files: Any) -> None:
    with pytest.raises(InvalidParameter, match=r"^quantized_filename must name a file"):
        Which.GGUF("folder", files)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("auto_map_params", object()),
        ("matformer_slice_name", "x"),
        ("matformer_config_path", "x"),
    ],
)
def test_what_is_not_offered(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedField) as caught:
        Which.VisionPlain("some/model", **{name: value})
    assert caught.value.message == f"{name} is not offered by this version of ostro; leave it out"
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ()),
        ([], ()),
        ("q4k", ("q4k",)),
        ("a-0.uqff; a-1.uqff", ("a-0.uqff", "a-1.uqff")),
        (["a-0.uqff", "a-1.uqff"], ("a-0.uqff", "a-1.uqff")),
    ],
)
def test_uqff_files(given: Any, expected: tuple[str, ...]) -> None:
    for kind in (Which.Plain, Which.VisionPlain):
        source = kind("folder", from_uqff=given, write_uqff="out/x.uqff").source()
        assert source.uqff_files == expected
        assert source.write_uqff == Path("out/x.uqff")


@pytest.mark.parametrize("given", ["", "a.uqff;", [""], [None], 5])
def test_no_uqff_files(given: Any) -> None:
    with pytest.raises(InvalidParameter, match=r"^from_uqff must name a file") as caught:
        Which.Plain("folder", from_uqff=given)
    assert caught.value.param == "from_uqff"


def test_what_is_not_offered_for_gguf() -> None:
    with pytest.raises(UnsupportedField, match=r"^adapters is not offered"):
        Which.GGUF("folder", "model.gguf", adapters=["a"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, None), ([], None), ("mmproj.gguf", "mmproj.gguf"), (["mmproj.gguf"], "mmproj.gguf")],
)
def test_the_file_of_the_image_half(given: Any, expected: str | None) -> None:
    assert Which.GGUF("folder", "model.gguf", mmproj_filename=given).source().mmproj_file == expected


@pytest.mark.parametrize("given", ["", ["a.gguf", "b.gguf"], [None], [""], 5])
def test_image_halves_of_several_files(given: Any) -> None:
    with pytest.raises(InvalidParameter, match=r"^mmproj_filename must name one file, got ") as caught:
        Which.GGUF("folder", "model.gguf", mmproj_filename=given)
    assert caught.value.param == "mmproj_filename"


def test_the_model_inside_the_package() -> None:
    assert DEMO_MODEL == demo.DEMO_MODEL
    assert Which.demo().source() == CheckpointSource(DEMO_MODEL)


def test_bad_values() -> None:
    with pytest.raises(UnsupportedField, match=r"^arch llama is not offered: ostro runs gemma3$"):
        Which.Plain("some/model", "llama")
    with pytest.raises(UnsupportedField, match=r"^organization MoQE"):
        Which.Plain("some/model", organization=IsqOrganization.MoQE)
    with pytest.raises(InvalidParameter, match=r"^dtype must be one of auto, bf16, f16, f32, got 'int3'$"):
        Which.Plain("some/model", dtype="int3")
    with pytest.raises(InvalidParameter, match=r"^model_id must be a path or a hub id, got ''$"):
        Which.Plain("")
    with pytest.raises(AttributeError):
        _ = VisionArchitecture.Llama  # type: ignore[attr-defined]


def test_paths_and_ids_stand_for_themselves() -> None:
    assert Which.of("some/model").source().model == "some/model"
    assert Which.of(Path("a") / "b.gguf").source().model == str(Path("a") / "b.gguf")
    which = Which.Plain("x")
    assert Which.of(which) is which
    with pytest.raises(InvalidParameter, match=r"^which must be a Which\.\*, a path or a hub id, got int$"):
        Which.of(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("Q4K", "Q4K"),
        ("q4k", "Q4K"),
        ("Q4_K", "Q4K"),
        ("q8_0", "Q8_0"),
        ("Q80", "Q8_0"),
        ("afq4", "AFQ4"),
        ("4", "Q4K"),
        (2, "Q2K"),
        (8, "Q8_0"),
        (IsqType.Q6K, "Q6K"),
    ],
)
def test_isq_names(asked: Any, name: str) -> None:
    assert isq_name(asked) == name


@pytest.mark.parametrize("asked", ["Q9", "", "7", 1])
def test_unknown_isq_names_list_all(asked: Any) -> None:
    with pytest.raises(InvalidParameter) as caught:
        isq_name(asked)
    assert caught.value.param == "in_situ_quant"
    assert caught.value.message == (
        f"in_situ_quant: unknown type {str(asked)!r}; "
        "known are 2, 3, 4, 5, 6, 8, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, "
        "Q8_1, Q2K, Q3K, Q4K, Q5K, Q6K, Q8K, HQQ4, HQQ8, FP8, AFQ2, AFQ3, AFQ4, AFQ6, AFQ8, F8Q8, MXFP4, "
        "Q3K_S, Q3K_M, Q3K_L, Q4K_S, Q4K_M, Q5K_S, Q5K_M"
    )


def test_files_that_say_how_to_quantize() -> None:
    source = Which.VisionPlain("a/b", topology="t.yml", imatrix="i.gguf").source()
    assert (source.topology, source.imatrix, source.calibration_file) == (Path("t.yml"), Path("i.gguf"), None)
    assert Which.GGUF("a/b", "c.gguf", calibration_file="c.txt").source().calibration_file == Path("c.txt")
    with pytest.raises(InvalidParameter) as caught:
        Which.Plain("a/b", imatrix="i.gguf", calibration_file="c.txt")
    assert str(caught.value) == "imatrix and calibration_file exclude each other"
    with pytest.raises(InvalidParameter) as caught:
        Which.Plain("a/b", topology=7)  # type: ignore[arg-type]
    assert str(caught.value) == "topology must be the path of a file, got 7"
