"""Small random checkpoints against transformers: whole, in every chunking, and in company."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file

from ostro import _kernels
from ostro.loading.open import open_checkpoint
from ostro.models.gemma3 import Gemma3
from ostro.ops.cpu import CpuOps

from .conftest import DATA
from .driver import Driver, Text, run
from .numpy_ops import NumpyOps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ostro.ops.protocol import Ops

FOLDERS = ["text-small", "text-27b-like", "text-kquant"]
LEVELS = ["scalar"] if _kernels.Team(1).isa == "scalar" else ["scalar", _kernels.Team(1).isa]
TOLERANCE = 1e-3


class Golden:
    def __init__(self, folder: str, ops: Ops) -> None:
        arrays = load_file(DATA / folder / "golden.safetensors")
        self.ids: list[int] = [int(i) for i in np.ravel(arrays["input_ids"])]
        self.logits: NDArray[np.float32] = arrays["logits"].reshape(len(self.ids), -1)
        self.ops = ops
        self.model = Gemma3.load(open_checkpoint(DATA / folder), ops)


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=LEVELS)
def golden(folder: str, request: pytest.FixtureRequest) -> Golden:
    return Golden(folder, CpuOps(threads=2, isa=request.param, compute="f32"))


def test_reference_ops_equal_transformers(folder: str) -> None:
    golden = Golden(folder, NumpyOps())
    logits = run(golden.model, golden.ops, golden.ids, [len(golden.ids)])
    np.testing.assert_allclose(logits, golden.logits, atol=TOLERANCE, rtol=0)


def test_whole_prompt(golden: Golden) -> None:
    logits = run(golden.model, golden.ops, golden.ids, [len(golden.ids)])
    np.testing.assert_allclose(logits, golden.logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("compute", ["f32", "auto"])
def test_every_chunking_gives_the_same_bits(folder: str, compute: str) -> None:
    golden = Golden(folder, CpuOps(threads=2, compute=compute))  # type: ignore[arg-type]
    n = len(golden.ids)
    whole = run(golden.model, golden.ops, golden.ids, [n])
    for chunks in [[size] for size in range(1, n)] + [[1, n], [n - 1, 1], [5, 1, 1, 17, 2]]:
        np.testing.assert_array_equal(run(golden.model, golden.ops, golden.ids, chunks), whole, str(chunks))


def test_in_company_of_strangers(golden: Golden) -> None:
    """Four sequences of different lengths and phases in each batch; the golden one must not notice."""
    rng = np.random.default_rng(7)
    driver = Driver(golden.model, golden.ops)
    subject = Text(golden.ids)
    strangers = [Text([int(i) for i in rng.integers(3, golden.model.config.vocab_size, 120)]) for _ in range(3)]
    while subject.done < len(golden.ids):
        work = []
        for text in [strangers[0], subject, *strangers[1:]]:
            count = min(int(rng.integers(0, 9)), len(text.ids) - text.done)
            if count:
                work.append((text, count))
        if work:
            driver.step(work)
    np.testing.assert_allclose(np.concatenate(subject.logits), golden.logits, atol=TOLERANCE, rtol=0)
    alone = run(golden.model, golden.ops, golden.ids, [len(golden.ids)])
    np.testing.assert_array_equal(np.concatenate(subject.logits), alone)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_results_do_not_depend_on_the_thread_count(folder: str, threads: int) -> None:
    one = Golden(folder, CpuOps(threads=1))
    many = Golden(folder, CpuOps(threads=threads))
    np.testing.assert_array_equal(
        run(one.model, one.ops, one.ids, [len(one.ids)]), run(many.model, many.ops, many.ids, [len(many.ids)])
    )
