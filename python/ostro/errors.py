"""Errors.

OstroError
    RequestError (HTTP 400: the caller can fix it; also a ValueError)
        PromptTooLong, InvalidParameter, UnsupportedField (422)
        UnknownModel (404), RequestTooLarge (413), Overloaded (429)
        BadImage: ImageFetchFailed, ImageRefused (403), ImageTooLarge (413)
    ModelError (start-up: the model cannot be used)
        CorruptFile, UnsupportedModel, MissingTensor, UnknownTensor, BadTensor, BadConfig
        HubError: GatedModel, ModelNotFound, Offline
    ExportError (a model cannot be written down)
        CannotWrite, UnsupportedExport
    EngineError (HTTP 500: we must fix it)

Every message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class OstroError(Exception):
    """Root of everything that ostro raises on purpose.

    `status`, `kind` and `code` are the HTTP status, OpenAI's error `type` and `code`.
    """

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class RequestError(OstroError, ValueError):
    """The request cannot be served as it is; the caller can change it."""

    status = 400
    kind = "invalid_request_error"


class InvalidParameter(RequestError):
    """A field has a value outside its range or of the wrong type; `param` names the field."""

    code = "invalid_value"


class PromptTooLong(RequestError):
    """Prompt and answer do not fit into the context."""

    code = "context_length_exceeded"


class UnsupportedField(RequestError):
    """The field is known, yet what it asks for is not offered."""

    status = 422
    code = "unsupported_field"


class UnknownModel(RequestError):
    """The request names a model that is not loaded here."""

    status = 404
    kind = "not_found_error"
    code = "model_not_found"


class RequestTooLarge(RequestError):
    """The request's body or one of its parts exceeds a limit in bytes."""

    status = 413
    code = "request_too_large"


class BadImage(RequestError):
    """An image cannot be read; `param` names its place in the request."""

    code = "invalid_image"


class ImageFetchFailed(BadImage):
    """The image's URL did not deliver: no such host, a timeout, a status other than 2xx."""

    code = "image_fetch_failed"


class ImageRefused(BadImage):
    """The rules of this server forbid to read from there, whether or not something is there."""

    status = 403
    code = "image_refused"


class ImageTooLarge(BadImage):
    """An image, or all of a request, exceed a limit in bytes or pixels."""

    status = 413
    code = "image_too_large"


class Overloaded(RequestError):
    """The waiting line is full; the same request may succeed later."""

    status = 429
    kind = "rate_limit_error"
    code = "overloaded"


class ModelError(OstroError):
    """The model cannot be loaded."""


class CorruptFile(ModelError):
    """A file is truncated, malformed or claims more than it holds."""


class UnsupportedModel(ModelError):
    """The file is sound, but it is not a model that ostro runs."""


class BadConfig(ModelError):
    """A configuration lacks a required field or contradicts itself."""


class MissingTensor(ModelError):
    """The checkpoint lacks a tensor that the architecture needs."""


class UnknownTensor(ModelError):
    """The checkpoint has a tensor that the architecture has no place for."""


class BadTensor(ModelError):
    """A tensor has the wrong shape or number format."""


class HubError(ModelError):
    """The model hub did not deliver."""


class GatedModel(HubError):
    """The repository asks for a licence to be accepted, or for a token."""


class ModelNotFound(HubError):
    """Neither a local path nor a repository of that name exists."""


class Offline(HubError):
    """The files are not in the local cache and the network must not be used."""


class ExportError(OstroError):
    """The model cannot be written down."""


class CannotWrite(ExportError):
    """The place is not writable, or the disk is full."""


class UnsupportedExport(ExportError):
    """The file format has no place for what the model has."""


class EngineError(OstroError):
    """The engine failed; nothing the caller did is the cause."""
