"""A model of integers: exact, cheap, and wrong as soon as one page or one row is not where it belongs.

Like a transformer it has a local and a global layer, keeps what it needs of the past in the pages only, and
its logits depend on everything that the last row may see, in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ostro.config import RuntimeConfig
from ostro.engine.engine import Engine
from ostro.ops.protocol import PAGE_SIZE, StoreT
from ostro.types import Event, ImageSpan, Prompt, Sampling

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping

    from numpy.typing import NDArray

    from ostro.ops.batch import Batch, LayerKind
    from ostro.ops.protocol import Matrix, Ops

    MockOps = Ops[Matrix, "MockStore"]

VOCAB = 64
EOS, BOS, END_OF_TURN, IMAGE = 1, 2, 3, 63
GREEDY = Sampling(temperature=0.0)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer: every bit of the input reaches every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed


class MockVocabulary:
    """Ids 0..3 and 63 are control tokens, 4 and 5 the two bytes of an e with an acute accent, 6 a newline."""

    vocab_size = VOCAB

    def __init__(self) -> None:
        letters = [chr(97 + i) for i in range(26)]
        pairs = [f" {chr(97 + i)}" for i in range(VOCAB - 1 - 7 - 26)]
        texts = [*letters, *pairs]
        self.pieces = [b"", b"", b"", b"", b"\xc3", b"\xa9", b"\n", *(text.encode() for text in texts), b""]

    def encode(self, text: str, *, control: bool) -> list[int]:
        assert not control
        return [self.pieces.index(letter.encode()) for letter in text if letter.encode() in self.pieces]

    def token_bytes(self, token_id: int) -> bytes:
        return self.pieces[token_id]


class MockStore:
    """One number per position. limit: pages that the machine has room for."""

    page_nbytes = 1000

    def __init__(self) -> None:
        self.slots = np.zeros(0, np.uint64)
        self.limit = 10**9

    def reserve(self, pages: int) -> None:
        if pages > self.limit:
            raise MemoryError
        slots = np.full(pages * PAGE_SIZE, 12345, np.uint64)
        slots[: len(self.slots)] = self.slots
        self.slots = slots

    @property
    def nbytes(self) -> int:
        return len(self.slots) // PAGE_SIZE * self.page_nbytes


class NumpySelector:
    """The two reductions, as plainly as possible."""

    def top_k(self, logits: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        assert logits.dtype == np.float32
        assert logits.flags.c_contiguous
        assert 1 <= k <= logits.shape[1]
        ids = np.argsort(-logits, axis=1, kind="stable")[:, :k].astype(np.int32)
        return ids, np.take_along_axis(logits, ids, axis=1)

    def log_sum_exp(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        best = logits.max(axis=1).astype(np.float64)
        sums: NDArray[np.float64] = best + np.log(np.exp(logits - best[:, None]).sum(axis=1))
        return sums


class MockVision:
    """As many rows as the pixels have; all are the first pixel's value. steps: pauses on the way."""

    tokens_per_image = 256

    def __init__(self, steps: int = 2) -> None:
        self.steps = steps
        self.begun = 0
        self.slices = 0
        self.fail_on: set[int] = set()

    def encode(
        self, pixels: NDArray[np.uint8], ops: Ops[Matrix, StoreT]
    ) -> Generator[None, None, NDArray[np.float32]]:
        self.begun += 1
        for _ in range(self.steps):
            self.slices += 1
            yield
        value = int(pixels[0, 0, 0])
        if value in self.fail_on:
            raise ValueError("the mock does not like this picture")
        return np.full((len(pixels), 1), value, np.float32)


class MockModel:
    """window None: there is no local layer."""

    def __init__(self, window: int | None = 70) -> None:
        self.sliding_window = window
        self.vision = MockVision()
        self.batches: list[Batch] = []
        self.poison: set[int] = set()  # NaN when the last token of a row is one of these
        self.fail_on: set[int] = set()  # raise when a batch has one of these tokens
        self.eos_bonus = 0.0
        self.stores: dict[LayerKind, MockStore] = {}

    def kv_stores(self, ops: MockOps) -> dict[LayerKind, MockStore]:
        kinds: tuple[LayerKind, ...] = ("global",) if self.sliding_window is None else ("global", "local")
        self.stores = {kind: MockStore() for kind in kinds}
        return self.stores

    def forward(
        self, batch: Batch, stores: Mapping[LayerKind, MockStore], ops: MockOps
    ) -> NDArray[np.float32]:
        self.batches.append(batch)
        if self.fail_on.intersection(batch.token_ids.tolist()):
            raise ValueError("the mock does not like this token")
        self.inputs = batch.token_ids.astype(np.uint64)
        if batch.image_rows is not None:
            self.inputs[batch.image_at] = 1000 + batch.image_rows[:, 0].astype(np.uint64)
        hashes = np.zeros(len(batch), np.uint64)
        for s, (start, end) in enumerate(zip(batch.row_starts[:-1], batch.row_starts[1:], strict=True)):
            hashes[start:end] = self._sequence(batch, s, slice(start, end), stores)
        rows = hashes[batch.wanted]
        ids = np.arange(VOCAB, dtype=np.uint64)
        logits: NDArray[np.float32] = (
            _mix(rows[:, None] + _mix(ids)[None] * np.uint64(3)) >> np.uint64(40)
        ).astype(np.float32)
        logits *= 8 / 2**24
        logits[:, EOS] += self.eos_bonus
        for row, token_id in zip(logits, batch.token_ids[batch.wanted], strict=True):
            if int(token_id) in self.poison:
                row[7] = np.nan
        return logits

    def _sequence(
        self, batch: Batch, s: int, rows: slice, stores: Mapping[LayerKind, MockStore]
    ) -> NDArray[np.uint64]:
        positions = batch.positions[rows].astype(np.int64)
        assert (np.diff(positions) == 1).all()
        ends = batch.key_ends[rows].astype(np.int64)
        assert (ends > positions).all()
        assert ends.max() <= positions[-1] + 1, "a row sees keys that are not written yet"
        state = _mix(self.inputs[rows] * np.uint64(1000003) + positions.astype(np.uint64))
        kinds: tuple[LayerKind, ...] = ("local", "global")
        for kind in kinds:
            if kind not in stores:
                continue
            slots, table = stores[kind].slots, batch.page_tables[kind][s]
            pages = table[positions // PAGE_SIZE]
            assert (pages >= 0).all(), f"a {kind} row has no page"
            slots[pages * PAGE_SIZE + positions % PAGE_SIZE] = state
            starts = np.zeros_like(positions)
            if kind == "local":
                assert self.sliding_window is not None
                starts = np.maximum(0, positions - self.sliding_window + 1)
            visible = np.arange(starts[0], ends.max())
            pages = table[visible // PAGE_SIZE]
            assert (pages >= 0).all(), f"a visible {kind} page was freed"
            sums = np.zeros(len(visible) + 1, np.uint64)
            np.cumsum(slots[pages * PAGE_SIZE + visible % PAGE_SIZE], out=sums[1:])
            state = _mix(state + sums[ends - starts[0]] - sums[starts - starts[0]])
        return state


def make_engine(
    model: MockModel | None = None,
    *,
    context_length: int = 1000,
    config_context: int | None = None,
    **config: Any,
) -> Engine:
    return Engine(
        model or MockModel(),
        cast("MockOps", NumpySelector()),
        MockVocabulary(),
        RuntimeConfig(**{"kv_bytes": 10**9, "context_length": config_context, **config}),
        stop_ids=(EOS, END_OF_TURN),
        banned_ids=(0, BOS, IMAGE),
        context_length=context_length,
    )


def prompt_of(seed: int, length: int) -> Prompt:
    """Some text after <bos>."""
    words = np.random.default_rng(seed).integers(6, 60, length - 1)
    return Prompt((BOS, *words.tolist()))


def image_at(start: int, length: int, value: int = 7) -> ImageSpan:
    """An image of `length` rows, all of one value."""
    pixels = np.full((length, 1, 3), value, np.uint8)
    return ImageSpan(start, length, bytes((value, length % 256)), pixels)


def run(engine: Engine, steps: int = 10_000) -> list[Event]:
    """Everything until the engine is idle."""
    events: list[Event] = []
    for _ in range(steps):
        if not engine.has_work:
            return events
        events += engine.step()
    raise AssertionError("the engine does not come to an end")


def text_of(events: Iterable[Event], sequence_id: int) -> str:
    return "".join(event.text for event in events if event.sequence_id == sequence_id)


def ids_of(events: Iterable[Event], sequence_id: int) -> list[int]:
    return [i for event in events if event.sequence_id == sequence_id for i in event.token_ids]


def last_of(events: Iterable[Event], sequence_id: int) -> Event:
    (last,) = [e for e in events if e.sequence_id == sequence_id and e.finish_reason is not None]
    return last


def alone(prompt: Prompt, sampling: Sampling, window: int | None = 70) -> list[Event]:
    """What a request gets when nothing else runs, in one chunk."""
    engine = make_engine(MockModel(window), prefill_chunk=4096)
    engine.add(prompt, sampling)
    return run(engine)


def assert_idle(engine: Engine) -> None:
    """No sequence and no page is left."""
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert set(stats.kv_pages.values()) == {0}
