"""Small random checkpoints against transformers: whole, in every chunking, and in company."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeAlias

import numpy as np
import pytest
from safetensors.numpy import load_file

from ostro import _kernels
from ostro.loading.open import open_checkpoint
from ostro.models.gemma3 import Gemma3
from ostro.ops.cpu import CpuOps
from ostro.ops.protocol import MatrixT, StoreT

from .conftest import DATA
from .driver import Driver, Text, run
from .numpy_ops import NumpyOps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ostro.config import Compute, KvDtype
    from ostro.ops.protocol import Ops

FOLDERS = ["text-small", "text-27b-like", "text-kquant"]
LEVELS = ["scalar"] if _kernels.Team(1).isa == "scalar" else ["scalar", _kernels.Team(1).isa]
TOLERANCE = 1e-3


class Golden(Generic[MatrixT, StoreT]):
    def __init__(self, folder: str, ops: Ops[MatrixT, StoreT]) -> None:
        arrays = load_file(DATA / folder / "golden.safetensors")
        self.ids: list[int] = [int(i) for i in np.ravel(arrays["input_ids"])]
        self.logits: NDArray[np.float32] = arrays["logits"].reshape(len(self.ids), -1)
        self.ops = ops
        self.model = Gemma3.load(open_checkpoint(DATA / folder), ops)

    def run(self, chunks: list[int] | None = None) -> NDArray[np.float32]:
        """Logits of the golden text, prefilled whole or in the given chunks."""
        return run(self.model, self.ops, self.ids, chunks or [len(self.ids)])


CpuGolden: TypeAlias = Golden[_kernels.Matrix, _kernels.KvStore]


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=LEVELS)
def golden(folder: str, request: pytest.FixtureRequest) -> CpuGolden:
    return Golden(folder, CpuOps(threads=2, isa=request.param, compute="f32"))


def test_reference_ops_equal_transformers(folder: str) -> None:
    golden = Golden(folder, NumpyOps())
    np.testing.assert_allclose(golden.run(), golden.logits, atol=TOLERANCE, rtol=0)


def test_whole_prompt(golden: CpuGolden) -> None:
    np.testing.assert_allclose(golden.run(), golden.logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("compute", "kv_dtype"), [("f32", None), ("auto", None), ("auto", "int8")])
def test_every_chunking_gives_the_same_bits(folder: str, compute: Compute, kv_dtype: KvDtype | None) -> None:
    golden = Golden(folder, CpuOps(threads=2, compute=compute, kv_dtype=kv_dtype))
    n = len(golden.ids)
    whole = golden.run()
    for chunks in [[size] for size in range(1, n)] + [[1, n], [n - 1, 1], [5, 1, 1, 17, 2]]:
        np.testing.assert_array_equal(golden.run(chunks), whole, str(chunks))


def test_in_company_of_strangers(golden: CpuGolden) -> None:
    """Four sequences of different lengths and phases in each batch; the golden one must not notice."""
    rng = np.random.default_rng(7)
    driver = Driver(golden.model, golden.ops)
    subject = Text(golden.ids)
    vocab = golden.model.config.vocab_size
    strangers = [Text([int(i) for i in rng.integers(3, vocab, 120)]) for _ in range(3)]
    while subject.done < len(golden.ids):
        work = []
        for text in [strangers[0], subject, *strangers[1:]]:
            count = min(int(rng.integers(0, 9)), len(text.ids) - text.done)
            if count:
                work.append((text, count))
        if work:
            driver.step(work)
    np.testing.assert_allclose(np.concatenate(subject.logits), golden.logits, atol=TOLERANCE, rtol=0)
    np.testing.assert_array_equal(np.concatenate(subject.logits), golden.run())


@pytest.mark.parametrize("compute", ["f32", "auto"])
def test_rows_without_logits_change_no_others(folder: str, compute: Compute) -> None:
    """Two texts in three steps: the logits of some rows are wanted, of all rows of a text, of none."""
    golden = Golden(folder, CpuOps(threads=2, compute=compute))
    whole = golden.run()
    third = len(golden.ids) // 3
    driver = Driver(golden.model, golden.ops)
    texts = [Text(golden.ids), Text(golden.ids[: 3 * third])]
    for wanted in ([0, third - 2, third - 1, *range(third, 2 * third)], [], [1, 2 * third - 1]):
        driver.step([(text, third) for text in texts], wanted)
    rows = [[0, third - 2, third - 1, 2 * third + 1], [*range(third), 3 * third - 1]]
    for text, own in zip(texts, rows, strict=True):
        np.testing.assert_array_equal(np.concatenate(text.logits), whole[own])


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_results_do_not_depend_on_the_thread_count(folder: str, threads: int) -> None:
    one = Golden(folder, CpuOps(threads=1))
    many = Golden(folder, CpuOps(threads=threads))
    np.testing.assert_array_equal(one.run(), many.run())
