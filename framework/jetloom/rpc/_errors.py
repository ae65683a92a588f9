"""Errors of requests on the wire."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..errors import (
    Conflict,
    ErrorClass,
    ErrorInfo,
    InvalidInput,
    JetloomError,
    NotFound,
    RemoteError,
    Unavailable,
    from_info,
    to_info,
)
from ..messages import H_CONTENT_TYPE, H_ERROR, H_ERROR_CODE, encode

HEADER_CHARACTERS_MAX = 200
"""Of the description header; the body has the whole message."""

BUSY_RETRY_MS = 100


class Busy(Unavailable):
    """A service already handles as many requests as it takes at once."""

    code = "request.busy"
    error_class = ErrorClass.RATE_LIMITED

    def __init__(self, service: str, limit: int) -> None:
        super().__init__(
            f"{service} already handles {limit} requests: try again later", service=service, limit=limit
        )

    def to_info(self) -> ErrorInfo:
        return msgspec.structs.replace(super().to_info(), retry_after_ms=BUSY_RETRY_MS)


def status_of(error: BaseException) -> int:
    """The number in the error header, as HTTP has it."""
    match error:
        case Busy():
            return 429
        case InvalidInput() | msgspec.ValidationError() | msgspec.DecodeError():
            return 400
        case NotFound():
            return 404
        case Conflict():
            return 409
        case Unavailable():
            return 503
        case TimeoutError():
            return 504
        case _:
            return 500


def error_reply(error: BaseException) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an answer that is an error."""
    info = to_info(error)
    text = " ".join(f"{info.code}: {info.message}".split())
    plain = text.encode("ascii", "replace").decode()[:HEADER_CHARACTERS_MAX]
    headers = {H_ERROR_CODE: str(status_of(error)), H_ERROR: plain, H_CONTENT_TYPE: "application/json"}
    return encode(info), headers


def error_of(data: bytes, headers: Mapping[str, str]) -> JetloomError | None:
    """The error that an answer is; None when it is none. Services of others send headers alone."""
    found = {name.lower(): value for name, value in headers.items()}
    code, text = found.get(H_ERROR_CODE.lower()), found.get(H_ERROR.lower())
    if code is None and text is None:
        return None
    try:
        return from_info(msgspec.json.decode(data, type=ErrorInfo))
    except msgspec.MsgspecError:
        # Their 5xx and 429 may pass, their 4xx will not.
        fatal = (code or "").startswith("4") and code != "429"
        return RemoteError(
            ErrorInfo(
                code=f"service.{code or 'error'}",
                message=text or "the service answered with an error",
                error_class=ErrorClass.TERMINAL if fatal else ErrorClass.RETRYABLE,
            )
        )
