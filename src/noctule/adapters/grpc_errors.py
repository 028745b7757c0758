"""Our errors as a gRPC status and back, in one place.

The status code says to any gRPC client what kind of failure it was. Our own side reads code and outcome from the
trailing metadata, so an error is raised at the asking side as it was at the answering one. The sentence travels, a
stack trace never does.
"""

from typing import cast

import grpc

from noctule.base import errors
from noctule.base.errors import (
    InternalError,
    NoctuleError,
    OutcomeUnknownError,
    ProtocolError,
    RequestError,
    TooLargeError,
    UnavailableError,
)

CODE_KEY = "noctule-code"
OUTCOME_KEY = "noctule-outcome"

INTERNAL_SENTENCE = "the node ran into an error of its own; its log has it"
"""What the other side is told of an error that nobody foresaw."""

_STATUS = {
    "config": grpc.StatusCode.FAILED_PRECONDITION,
    "protocol": grpc.StatusCode.INVALID_ARGUMENT,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "bad_request": grpc.StatusCode.FAILED_PRECONDITION,
    "too_large": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "outcome_unknown": grpc.StatusCode.UNKNOWN,
    "storage": grpc.StatusCode.DATA_LOSS,
    "internal": grpc.StatusCode.INTERNAL,
}

_KINDS: dict[str, type[NoctuleError]] = {
    kind.code: kind
    for kind in (
        errors.ConfigError,
        ProtocolError,
        UnavailableError,
        RequestError,
        TooLargeError,
        OutcomeUnknownError,
        errors.StorageError,
        InternalError,
    )
}

_NEVER_BEGUN = ("failed to connect to all addresses", "Concurrent RPC limit exceeded")
"""How gRPC words a call that did not reach a handler; a test holds these words to the library's."""


def status_of(error: NoctuleError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """Status code, sentence and trailing metadata of an error."""
    code = _STATUS.get(error.code, grpc.StatusCode.INTERNAL)
    return code, str(error), ((CODE_KEY, error.code), (OUTCOME_KEY, error.outcome))


def error_of(error: grpc.aio.AioRpcError, address: str, *, is_change: bool) -> NoctuleError:
    """The error to raise for a call to `address` that failed.

    `is_change`: the call may have changed something, so that without a word of its fate it is unknown.
    """
    details = error.details() or error.code().name
    # What the caller's library makes up by itself has no metadata.
    facts = {str(key): str(value) for key, value in error.trailing_metadata() or ()}
    if (kind := _KINDS.get(facts.get(CODE_KEY, ""))) is not None:
        return kind(details)
    code = error.code()
    if any(words in details for words in _NEVER_BEGUN):
        return UnavailableError(f"cannot reach the control service at {address}: {_first_line(details)}")
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return TooLargeError(f"a message to or from {address} is over the limit: {_first_line(details)}")
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return RequestError(f"{address} does not offer this: it runs another release, or is no control service")
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return RequestError(f"{address} refused: {_first_line(details)}")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        sentence = f"{address} has not answered: {_first_line(details)}"
        return OutcomeUnknownError(sentence) if is_change else UnavailableError(sentence)
    return InternalError(f"{address} answered {code.name}: {_first_line(details)}")


def _first_line(text: str) -> str:
    return cast("list[str]", text.splitlines() or [text])[0][:300]
