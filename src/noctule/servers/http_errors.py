"""The errors of the HTTP API: one table from error to status, one from the store's code words to errors.

Every error answer is ``{"error": {"code", "message", "retryable", "outcome"}}``. What goes wrong below is raised
as a `NoctuleError`; this file alone says which status that is and which words a client may see.
"""

import re

from msgspec import Struct

from noctule.base.errors import (
    InternalError,
    NoctuleError,
    Outcome,
    OutcomeUnknownError,
    RequestError,
    StorageError,
    TooLargeError,
    UnavailableError,
)
from noctule.core.keyspace.reply import Failure


class NotFoundError(RequestError):
    """There is nothing at this path, or no such key."""

    code = "not_found"


class MethodNotAllowedError(RequestError):
    """The path exists and does not take this method; the header ``Allow`` names those it takes."""

    code = "method_not_allowed"

    def __init__(self, sentence: str, allowed: tuple[str, ...]) -> None:
        super().__init__(sentence)
        self.allowed = allowed


class ErrorFacts(Struct, frozen=True):
    """What went wrong, for a person and for a program."""

    code: str
    message: str
    retryable: bool
    outcome: Outcome


class ErrorBody(Struct, frozen=True):
    """The body of every answer that is an error."""

    error: ErrorFacts


ERROR_STATUS: dict[type[NoctuleError], int] = {
    RequestError: 400,
    NotFoundError: 404,
    MethodNotAllowedError: 405,
    TooLargeError: 413,
    InternalError: 500,
    UnavailableError: 503,
    StorageError: 503,
    OutcomeUnknownError: 504,
}
"""The status of each kind of error (RFC 9110 15.5 and 15.6); a subclass not listed has its parent's."""

_FAILURE_KINDS: dict[bytes, type[NoctuleError]] = {
    b"UNKNOWN": OutcomeUnknownError,
    b"CLUSTERDOWN": UnavailableError,
    b"TRYAGAIN": UnavailableError,
    b"LOADING": UnavailableError,
    b"OVERLOADED": UnavailableError,
    b"OOM": UnavailableError,
    b"MISCONF": StorageError,
    b"TOOLARGE": TooLargeError,
    b"WRONGTYPE": RequestError,
    b"CROSSSLOT": RequestError,
    b"ERR": RequestError,
}

# A bound is named as the code names it (base/bounds.py), or Redis' words for its own are kept.
_NAMES_A_LIMIT = re.compile(rb"\b[A-Z_]+_MAX\b|exceeds maximum|too (large|long|many)")

_INTERNAL_SENTENCE = "this node failed to answer because of a bug of its own; its log has the details"


def failure_error(failure: Failure) -> NoctuleError:
    """The error for what the store answered; a code word nobody foresaw is an `InternalError`."""
    word, _, rest = failure.text.partition(b" ")
    kind = _FAILURE_KINDS.get(word, InternalError)
    if kind is RequestError and _NAMES_A_LIMIT.search(rest):
        kind = TooLargeError
    return kind((rest or word).decode("utf-8", "backslashreplace"))


def error_kind(error: BaseException) -> type[NoctuleError]:
    """The row of `ERROR_STATUS` that an exception belongs to; `InternalError` for whatever is not ours."""
    return next((kind for kind in type(error).__mro__ if kind in ERROR_STATUS), InternalError)


def error_body(error: BaseException) -> tuple[int, ErrorBody]:
    """Status and body for an exception. What an internal error says stays in this node's log."""
    kind = error_kind(error)
    sentence = _INTERNAL_SENTENCE if kind is InternalError else str(error)
    return ERROR_STATUS[kind], ErrorBody(ErrorFacts(kind.code, sentence, kind.retryable, kind.outcome))
