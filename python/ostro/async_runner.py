"""The Python API for asyncio: Runner's twin."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from ostro.async_streams import AsyncStream
from ostro.isq_names import isq_name
from ostro.runner import LoadedModel, imatrix_path, refuse_thinking

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from ostro.isq_names import IsqType
    from ostro.requests import ChatCompletionRequest, CompletionRequest
    from ostro.responses import (
        ChatCompletionChunkResponse,
        ChatCompletionResponse,
        CompletionChunkResponse,
        CompletionResponse,
    )
    from ostro.types import CalibrationStatus
    from ostro.which import Which

    AsyncChatStream: TypeAlias = AsyncStream[ChatCompletionChunkResponse, ChatCompletionResponse]
    AsyncCompletionStream: TypeAlias = AsyncStream[CompletionChunkResponse, CompletionResponse]


class AsyncRunner(LoadedModel):
    """Runner for asyncio: the same arguments, awaitable methods. Cancelling a task cancels its request.

    The constructor blocks while it loads; `await AsyncRunner.load(...)` loads in a thread.
    """

    @classmethod
    async def load(cls, which: Which | str | Path | None = None, **arguments: Any) -> AsyncRunner:
        """An AsyncRunner with the constructor's arguments, made without blocking the event loop."""
        return await asyncio.to_thread(partial(cls, which, **arguments))

    async def send_chat_completion_request(
        self, request: ChatCompletionRequest, model_id: str | None = None
    ) -> ChatCompletionResponse | AsyncChatStream:
        """The whole answer, or with `stream=True` an asynchronous iterator over its chunks."""
        host = self._named(model_id)
        threads = host.threads_for(request.messages)
        stream = await AsyncStream.open(partial(host.start_chat, request), threads)
        if request.stream:
            return stream
        async with stream:
            return await stream.response()

    async def send_completion_request(
        self, request: CompletionRequest, model_id: str | None = None
    ) -> CompletionResponse | AsyncCompletionStream:
        """The whole answer, or with `stream=True` an asynchronous iterator over its chunks."""
        stream = await AsyncStream.open(partial(self._named(model_id).start_completion, request))
        if request.stream:
            return stream
        async with stream:
            return await stream.response()

    async def tokenize_text(
        self,
        text: str,
        add_special_tokens: bool = True,
        enable_thinking: bool | None = None,
        model_id: str | None = None,
    ) -> list[int]:
        """See `Runner.tokenize_text`."""
        refuse_thinking(enable_thinking)
        host = self._named(model_id)
        return await asyncio.to_thread(host.tokenize, text, add_special_tokens=add_special_tokens)

    async def detokenize_text(
        self, tokens: Iterable[int], skip_special_tokens: bool = True, model_id: str | None = None
    ) -> str:
        """See `Runner.detokenize_text`."""
        host = self._named(model_id)
        return await asyncio.to_thread(host.detokenize, tokens, skip_special_tokens=skip_special_tokens)

    async def send_re_isq(self, dtype: str | int | IsqType, model_id: str | None = None) -> None:
        """See `Runner.send_re_isq`."""
        await asyncio.to_thread(self._named(model_id).re_isq, isq_name(dtype))

    async def begin_calibration(self, model_id: str | None = None) -> CalibrationStatus:
        """See `Runner.begin_calibration`."""
        return await asyncio.to_thread(self._named(model_id).calibration.begin)

    async def calibration_status(self, model_id: str | None = None) -> CalibrationStatus:
        """See `Runner.calibration_status`."""
        return await asyncio.to_thread(self._named(model_id).calibration.status)

    async def apply_calibration(
        self, save_cimatrix: str | Path | None = None, model_id: str | None = None
    ) -> CalibrationStatus:
        """See `Runner.apply_calibration`."""
        save = imatrix_path(save_cimatrix)
        return await asyncio.to_thread(self._named(model_id).apply_calibration, save)

    async def aclose(self) -> None:
        """End running requests (finish_reason "canceled") and free the model."""
        await asyncio.to_thread(self._close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
