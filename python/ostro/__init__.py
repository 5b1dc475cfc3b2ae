"""Gemma 3 on the machine in front of you: the public names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ostro.errors import (
    EngineError,
    InvalidParameter,
    ModelError,
    OstroError,
    Overloaded,
    PromptTooLong,
    RequestError,
    UnsupportedField,
)
from ostro.isq_names import IsqType
from ostro.requests import ChatCompletionRequest, CompletionRequest, ToolChoice
from ostro.responses import (
    ChatCompletionChunkResponse,
    ChatCompletionResponse,
    CompletionChunkResponse,
    CompletionResponse,
    Usage,
)
from ostro.runner import Runner
from ostro.types import CalibrationStatus
from ostro.which import (
    Architecture,
    IsqOrganization,
    ModelDType,
    MultimodalArchitecture,
    VisionArchitecture,
    Which,
)

if TYPE_CHECKING:
    from ostro.async_runner import AsyncRunner
    from ostro.evaluation import Model, load_model
    from ostro.prompt.fetch import ImageAccess

    __version__: str

__all__ = [
    "Architecture",
    "AsyncRunner",
    "CalibrationStatus",
    "ChatCompletionChunkResponse",
    "ChatCompletionRequest",
    "ChatCompletionResponse",
    "CompletionChunkResponse",
    "CompletionRequest",
    "CompletionResponse",
    "EngineError",
    "ImageAccess",
    "InvalidParameter",
    "IsqOrganization",
    "IsqType",
    "Model",
    "ModelDType",
    "ModelError",
    "MultimodalArchitecture",
    "OstroError",
    "Overloaded",
    "PromptTooLong",
    "RequestError",
    "Runner",
    "ToolChoice",
    "UnsupportedField",
    "Usage",
    "VisionArchitecture",
    "Which",
    "load_model",
]


def __getattr__(name: str) -> Any:
    # Read only when asked for: each of these takes longer to load than all of the above.
    if name == "AsyncRunner":
        from ostro.async_runner import AsyncRunner

        return AsyncRunner
    if name == "ImageAccess":
        from ostro.prompt.fetch import ImageAccess

        return ImageAccess
    if name in {"Model", "load_model"}:
        from ostro import evaluation

        return getattr(evaluation, name)
    if name == "__version__":
        from ostro.version import ostro_version

        return ostro_version()
    raise AttributeError(f"module 'ostro' has no attribute {name!r}")
