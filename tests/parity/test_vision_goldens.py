"""Small random vision models against transformers: features, and logits in every chunking and company."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
import pytest
from safetensors.numpy import load_file

from ostro import _kernels, load_model
from ostro.loading.open import open_checkpoint
from ostro.models import siglip
from ostro.models.gemma3 import Gemma3
from ostro.ops.cpu import CpuOps
from ostro.ops.protocol import MatrixT, StoreT

from .conftest import DATA
from .driver import Driver, Text, run
from .numpy_ops import NumpyOps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ostro.config import Compute
    from ostro.ops.protocol import Ops

FOLDERS = ["vision-small", "vision-long"]
LEVELS = ["scalar"] if _kernels.Team(1).isa == "scalar" else ["scalar", _kernels.Team(1).isa]
FEATURES, LOGITS = 1e-4, 1e-3
LAYOUTS = ["one_image", "three_images", "long_text_behind", "fifth_turn", "first_and_fifth_turn"]


@dataclass
class Case:
    """A prompt with its images [k, 3, S, S] and the reference's logits [n, V]."""

    ids: list[int]
    pixels: NDArray[np.float32]
    logits: NDArray[np.float32]


def golden(folder: str) -> Case:
    arrays = load_file(DATA / folder / "golden.safetensors")
    ids = [int(i) for i in np.ravel(arrays["input_ids"])]
    return Case(ids, arrays["pixel_values"], arrays["logits"].reshape(len(ids), -1))


def layout(name: str) -> Case:
    arrays = load_file(DATA / "vision-small" / "layouts.safetensors")
    pixels = golden("vision-small").pixels[arrays[f"{name}.images"]]
    return Case(arrays[f"{name}.ids"].tolist(), pixels, arrays[f"{name}.logits"])


class World(Generic[MatrixT, StoreT]):
    """A model that runs cases; image positions hold the padding token, as in a Prompt."""

    def __init__(self, folder: str, ops: Ops[MatrixT, StoreT]) -> None:
        self.ops = ops
        self.model = Gemma3.load(open_checkpoint(DATA / folder), ops)

    def features(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        assert self.model.vision is not None
        return siglip.run(self.model.vision.encode(pixels, self.ops))

    def text(self, case: Case) -> Text:
        soft = self.model.config.image_token_id
        assert soft is not None
        assert self.model.config.vision is not None
        at = [i for i, token in enumerate(case.ids) if token == soft]
        starts = at[:: self.model.config.vision.tokens_per_image]
        images = {start: self.features(p) for start, p in zip(starts, case.pixels, strict=True)}
        return Text([0 if token == soft else token for token in case.ids], images)

    def run(self, case: Case, chunks: list[int] | None = None) -> NDArray[np.float32]:
        text = self.text(case)
        return run(self.model, self.ops, text.ids, chunks or [len(case.ids)], text.images)


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("level", ["numpy", *LEVELS])
def test_features(folder: str, level: str) -> None:
    arrays = load_file(DATA / folder / "golden.safetensors")
    ops: Any = NumpyOps() if level == "numpy" else CpuOps(threads=2, isa=level, compute="f32")
    world = World(folder, ops)
    for pixels, expected in zip(arrays["pixel_values"], arrays["image_features"], strict=True):
        np.testing.assert_allclose(world.features(pixels), expected, atol=FEATURES, rtol=0)


@pytest.mark.parametrize("level", ["numpy", *LEVELS])
def test_logits(folder: str, level: str) -> None:
    ops: Any = NumpyOps() if level == "numpy" else CpuOps(threads=2, isa=level, compute="f32")
    case = golden(folder)
    np.testing.assert_allclose(World(folder, ops).run(case), case.logits, atol=LOGITS, rtol=0)


@pytest.mark.parametrize("name", LAYOUTS)
def test_where_images_may_stand(name: str) -> None:
    case = layout(name)
    world = World("vision-small", CpuOps(threads=2, compute="f32"))
    np.testing.assert_allclose(world.run(case), case.logits, atol=LOGITS, rtol=0)


def test_images_in_any_order() -> None:
    """The reference's three images are 0, 1, 0; in another order the answer is another."""
    case = layout("three_images")
    world = World("vision-small", CpuOps(threads=2, compute="f32"))
    other = world.run(Case(case.ids, case.pixels[[1, 0, 0]], case.logits))
    assert np.abs(other - case.logits).max() > 10 * LOGITS


@pytest.mark.parametrize("compute", ["f32", "auto"])
def test_every_chunking_gives_the_same_bits(folder: str, compute: Compute) -> None:
    case = golden(folder)
    world = World(folder, CpuOps(threads=2, compute=compute))
    n = len(case.ids)
    text = world.text(case)
    whole = run(world.model, world.ops, text.ids, [n], text.images)
    sizes = range(1, n) if n < 50 else (1, 2, 3, 7, 15, 16, 17, 24, 31, 47, 64, 100, n - 1)
    for chunks in [[size] for size in sizes] + [[1, n], [n - 1, 1], [5, 1, 1, 17, 2]]:
        have = run(world.model, world.ops, text.ids, chunks, text.images)
        np.testing.assert_array_equal(have, whole, str(chunks))


def test_in_company_of_strangers(folder: str) -> None:
    """Texts, and another conversation with images, in the same batches at other phases."""
    case = golden(folder)
    world = World(folder, CpuOps(threads=2, compute="f32"))
    rng = np.random.default_rng(7)
    driver = Driver(world.model, world.ops)
    subject, twin = world.text(case), world.text(case)
    vocab = world.model.config.vocab_size
    strangers = [Text([int(i) for i in rng.integers(3, vocab - 3, 250)]) for _ in range(2)]
    while subject.done < len(case.ids):
        work = []
        for text in [strangers[0], subject, twin, strangers[1]]:
            count = text.whole(min(int(rng.integers(0, 9)), len(text.ids) - text.done))
            if count:
                work.append((text, count))
        if work:
            driver.step(work)
    np.testing.assert_array_equal(np.concatenate(subject.logits), world.run(case))


@pytest.mark.parametrize("threads", [1, 3])
def test_results_do_not_depend_on_the_thread_count(folder: str, threads: int) -> None:
    case = golden(folder)
    one = World(folder, CpuOps(threads=2)).run(case)
    np.testing.assert_array_equal(World(folder, CpuOps(threads=threads)).run(case), one)


def test_results_do_not_depend_on_the_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    case = golden("vision-long")
    world = World("vision-long", CpuOps(threads=2))
    whole = world.features(case.pixels[0])
    for rows in (1, 5, 33, 64):
        monkeypatch.setattr(siglip, "SLICE", rows)
        np.testing.assert_array_equal(world.features(case.pixels[0]), whole)


def test_the_evaluation_door(folder: str) -> None:
    case = golden(folder)
    model = load_model(DATA / folder, compute="f32")
    logits = model.logits(case.ids, pixel_values=case.pixels)
    np.testing.assert_allclose(logits, case.logits, atol=LOGITS, rtol=0)
    np.testing.assert_array_equal(model.logits(case.ids, pixel_values=case.pixels, last=3), logits[-3:])


def test_bytes_are_seen_as_normalised_pixels() -> None:
    world = World("vision-small", CpuOps(threads=2, compute="f32"))
    image = np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8)
    values = ((image.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)
    np.testing.assert_allclose(world.features(image), world.features(values), atol=1e-6, rtol=0)
