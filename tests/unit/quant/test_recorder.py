"""What the recorder saw against what the reference operations multiplied their matrices with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from ostro.errors import EngineError, InvalidParameter
from ostro.evaluation import Model
from ostro.loading.open import open_checkpoint
from ostro.models import siglip
from ostro.models.gemma3 import Gemma3
from ostro.models.matrices import named_matrices
from ostro.ops.cpu import CpuOps
from ostro.ops.protocol import Norm
from ostro.quant.recorder import Recorder
from ostro.quant.windows import windows
from tests.parity.conftest import DATA
from tests.parity.driver import Driver, Text, run
from tests.parity.numpy_ops import NumpyMatrix, NumpyOps, dequantize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ostro.config import Compute
    from ostro.loading.checkpoint import Checkpoint
    from ostro.ops.protocol import Rows
    from ostro.ops.tensor import Tensor
    from ostro.quant.importance import Importance


class SpyWeights:
    """Stands for an array [rows, cols] in products x @ weights.T, and keeps every x."""

    __array_ufunc__ = None

    def __init__(self, weights: Rows) -> None:
        self.weights = weights
        self.shape = weights.shape
        self.inputs: list[Rows] = []

    @property
    def T(self) -> SpyWeights:  # noqa: N802
        return self

    def __rmatmul__(self, x: Rows) -> Rows:
        self.inputs.append(np.array(x))
        product: Rows = x @ self.weights.T
        return product

    def __getitem__(self, rows: Any) -> Rows:
        taken: Rows = self.weights[rows]
        return taken


class SpyOps(NumpyOps):
    def matrix(self, tensor: Tensor) -> NumpyMatrix:
        return NumpyMatrix(SpyWeights(dequantize(tensor)))  # type: ignore[arg-type]


def checkpoint(folder: str) -> Checkpoint:
    return open_checkpoint(DATA / folder)


def golden(folder: str) -> tuple[list[int], dict[str, NDArray[Any]]]:
    arrays = load_file(DATA / folder / "golden.safetensors")
    return [int(i) for i in np.ravel(arrays["input_ids"])], arrays


def expected(model: Gemma3[NumpyMatrix]) -> dict[str, tuple[NDArray[np.float64], int]]:
    """Mean squares and numbers of the inputs that the spies saw."""
    result = {}
    for name, matrix in named_matrices(model):
        spy: Any = matrix.weights
        inputs = np.concatenate(spy.inputs).astype(np.float64)
        result[name] = (inputs**2).mean(axis=0), len(inputs)
    return result


def check(importance: Importance, model: Gemma3[NumpyMatrix]) -> None:
    reference = expected(model)
    assert set(importance) == set(reference)
    for name, (mean, count) in reference.items():
        np.testing.assert_allclose(importance[name], mean, rtol=1e-5, err_msg=name)
        assert importance.rows[name] == count


def test_rows_without_logits_are_recorded_in_every_layer() -> None:
    ops = SpyOps()
    model = Gemma3.load(checkpoint("text-small"), ops)
    recorder = Recorder(ops, named_matrices(model))
    ids, _ = golden("text-small")
    Driver(model, recorder).step([(Text(ids), len(ids))], wanted=[len(ids) - 1])
    rows = recorder.rows
    assert rows.pop("embed_tokens.weight") == 1
    assert set(rows.values()) == {len(ids)}


@pytest.mark.parametrize("folder", ["text-small", "text-27b-like"])
def test_text_inputs_are_those_of_the_reference(folder: str) -> None:
    ops = SpyOps()
    model = Gemma3.load(checkpoint(folder), ops)
    recorder = Recorder(ops, named_matrices(model))
    ids, _ = golden(folder)
    run(model, recorder, ids, [len(ids)])
    check(recorder.importance(), model)


def test_image_inputs_are_those_of_the_reference() -> None:
    ops = SpyOps()
    model = Gemma3.load(checkpoint("vision-small"), ops)
    recorder = Recorder(ops, named_matrices(model))
    ids, arrays = golden("vision-small")
    assert model.vision is not None
    rows = siglip.run(model.vision.encode(np.asarray(arrays["pixel_values"][0], np.float32), recorder))
    run(model, recorder, ids[:1] + ids[-5:], [6])
    importance = recorder.importance()
    check(importance, model)
    assert importance["projector.mm_input_projection_weight"].shape == (model.vision.config.hidden_size,)
    assert len(rows) == model.vision.tokens_per_image


@pytest.mark.parametrize("compute", ["f32", "int14"])
def test_recording_changes_neither_results_nor_depends_on_batches(compute: Compute) -> None:
    ids, _ = golden("text-small")
    ops = CpuOps(threads=2, compute=compute)
    model = Gemma3.load(checkpoint("text-small"), ops)
    plain = run(model, ops, ids, [len(ids)])

    def recorded(chunks: Sequence[int]) -> Importance:
        recorder = Recorder(ops, named_matrices(model))
        np.testing.assert_array_equal(run(model, recorder, ids, chunks), plain)
        return recorder.importance()

    whole = recorded([len(ids)])
    for chunks in ([1], [3, 7, 2]):
        parts = recorded(chunks)
        assert parts.rows == whole.rows
        for name, values in whole.items():
            np.testing.assert_array_equal(parts[name], values, err_msg=name)


def test_a_text_is_read_in_pieces_that_begin_with_bos() -> None:
    model = Model(checkpoint("text-small"), CpuOps(threads=2, compute="f32"))
    ids = golden("text-small")[0] * 3
    seen: list[tuple[int, int]] = []
    importance = model.calibrate(
        ids, chunk=10, name="golden", progress=lambda done, total: seen.append((done, total))
    )
    pieces = windows(ids, model.config.bos_token_id, 10)
    tokens = sum(map(len, pieces))
    assert set(importance.rows.values()) == {tokens}
    assert seen[-1] == (tokens, tokens)
    assert importance.datasets == ("golden",)
    assert importance.chunk_size == 10

    ops = SpyOps()
    reference = Gemma3.load(checkpoint("text-small"), ops)
    for piece in pieces:
        run(reference, ops, piece.tolist(), [len(piece)])
    for name, (mean, _) in expected(reference).items():
        np.testing.assert_allclose(importance[name], mean, rtol=1e-3, err_msg=name)

    assert set(model.calibrate(ids, chunk=10, max_chunks=2).rows.values()) == {20}


def test_pieces_lose_nothing() -> None:
    assert [piece.tolist() for piece in windows([2, 5, 6, 7, 8, 9], 2, 4)] == [[2, 5, 6, 7], [2, 8, 9]]
    assert [piece.tolist() for piece in windows([5, 6], 2, 4)] == [[2, 5, 6]]
    assert len(windows(range(5, 100), 2, 4, limit=3)) == 3
    for ids, chunk, limit in (([], 4, None), ([5], 1, None), ([5], 4, 0), ([5.0], 4, None)):
        with pytest.raises(InvalidParameter):
            windows(ids, 2, chunk, limit)


def test_products_that_nobody_reads_are_not_computed() -> None:
    ops = CpuOps(threads=1)
    model = Gemma3.load(checkpoint("text-small"), ops)
    recorder = Recorder(ops, named_matrices(model), unneeded=model.lm_head)
    ids, _ = golden("text-small")
    assert not run(model, recorder, ids, [len(ids)]).any()
    assert recorder.importance().rows["embed_tokens.weight"] == len(ids)


def test_overflow_is_reported() -> None:
    ops = NumpyOps()
    matrix = NumpyMatrix(np.eye(2, dtype=np.float32))
    recorder = Recorder(ops, [("layers.0.self_attn.o_proj.weight", matrix)])
    inputs = np.array([[1, np.inf]], np.float32)
    with np.errstate(invalid="ignore"):
        recorder.project_add(np.zeros((1, 2), np.float32), inputs, matrix, Norm(np.ones(2, np.float32), 1e-6))
    with pytest.raises(EngineError, match="o_proj"):
        recorder.importance()


def test_a_model_that_takes_the_place_of_another_is_recorded_on() -> None:
    ops = CpuOps(threads=1)
    ids, _ = golden("text-small")
    first, second = (Gemma3.load(checkpoint("text-small"), ops) for _ in range(2))
    recorder = Recorder(ops, named_matrices(first))
    run(first, recorder, ids, [len(ids)])
    run(second, recorder, ids, [len(ids)])  # a stranger until it is followed
    assert set(recorder.importance().rows.values()) == {len(ids)}
    recorder.follow(named_matrices(second))
    run(second, recorder, ids, [len(ids)])
    assert set(recorder.importance().rows.values()) == {2 * len(ids)}
