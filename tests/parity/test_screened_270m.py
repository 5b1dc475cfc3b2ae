"""The real 270m whose head lies in two planes writes what it writes when it reads the head as a whole."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest

from ostro.config import RuntimeConfig
from ostro.host import ModelHost
from ostro.types import Event, Prompt, Sampling

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

TOKENS = 48


@pytest.fixture(scope="module")
def hosts(real_file: Path) -> Iterator[tuple[ModelHost, ModelHost]]:
    """With planes, as by default, and without."""
    with (
        ModelHost.load(real_file, RuntimeConfig()) as screened,
        ModelHost.load(real_file, RuntimeConfig(repack=False)) as whole,
    ):
        screened.loop.await_chore()
        for host, has_planes in ((screened, screened.describe()["isa"] != "scalar"), (whole, False)):
            assert host.work is not None
            assert (host.work.screen_bytes() is not None) == has_planes
        yield screened, whole


def write(host: ModelHost, requests: list[tuple[list[int], Sampling]]) -> list[list[int]]:
    """The tokens of sequences that are written together."""
    futures: list[Future[list[int]]] = []
    for ids, sampling in requests:
        future: Future[list[int]] = Future()
        written: list[int] = []

        def take(event: Event, future: Future[list[int]] = future, written: list[int] = written) -> None:
            written.extend(event.token_ids)
            if event.finish_reason is not None:
                future.set_result(written)

        host.loop.submit(Prompt(tuple(ids)), sampling, take)
        futures.append(future)
    return [future.result(timeout=120) for future in futures]


def requests_of(
    real_golden: dict[str, dict[str, NDArray[Any]]], **sampling: Any
) -> list[tuple[list[int], Sampling]]:
    return [
        (golden["ids"][:200].tolist(), Sampling(max_tokens=TOKENS, ignore_eos=True, seed=7, **sampling))
        for golden in real_golden.values()
    ]


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": 0.0}, {"top_k": 64, "top_p": 0.95}, {"top_k": 8}, {"temperature": 0.0, "logprobs": 2}],
    ids=["greedy", "top-64", "top-8", "log-probabilities"],
)
def test_the_text_is_the_same(
    hosts: tuple[ModelHost, ModelHost],
    real_golden: dict[str, dict[str, NDArray[Any]]],
    sampling: dict[str, Any],
) -> None:
    screened, whole = hosts
    requests = requests_of(real_golden, **sampling)
    expected = write(whole, requests)
    assert all(len(tokens) == TOKENS for tokens in expected)
    assert write(screened, requests) == expected
    # One by one, where a longer list of candidates is looked for with the copy.
    assert [write(screened, [request])[0] for request in requests] == expected


def test_who_wants_everything_among_those_who_do_not_changes_nothing(
    hosts: tuple[ModelHost, ModelHost], real_golden: dict[str, dict[str, NDArray[Any]]]
) -> None:
    screened, whole = hosts
    requests = requests_of(real_golden, temperature=0.0)
    requests += requests_of(real_golden, temperature=0.8)[:1]
    assert write(screened, requests) == write(whole, requests)
