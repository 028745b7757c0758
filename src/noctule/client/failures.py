"""The one place where an error answer of a node becomes an error of `base/errors.py`."""

import msgspec

from noctule.base.errors import (
    InternalError,
    NoctuleError,
    OutcomeUnknownError,
    ProtocolError,
    RequestError,
    StorageError,
    TooLargeError,
    UnavailableError,
)
from noctule.client.exchange import Answer

_BY_CODE: dict[str, type[NoctuleError]] = {
    "bad_request": RequestError,
    "not_found": RequestError,
    "method_not_allowed": RequestError,
    "too_large": TooLargeError,
    "unavailable": UnavailableError,
    "outcome_unknown": OutcomeUnknownError,
    "storage": StorageError,
    "internal": InternalError,
}


class _Detail(msgspec.Struct, frozen=True):
    code: str
    message: str


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _Detail


def failure_of(answer: Answer) -> NoctuleError | None:
    """The error that an answer tells of, for the caller to raise; None for every 2xx.

    `ProtocolError` when the answer has no error body of Noctule's: whoever is there is no node.
    """
    if 200 <= answer.status < 300:
        return None
    detail = _detail(answer)
    if detail is None:
        return ProtocolError(
            f"{answer.method} {answer.url}: {answer.status} without Noctule's error body; is it a node's HTTP URL?"
        )
    return _BY_CODE.get(detail.code, ProtocolError)(f"{answer.method} {answer.url}: {detail.message}")


def is_not_found(answer: Answer) -> bool:
    """Whether a node says that what was asked for does not exist; a 404 of anybody else is not that."""
    detail = _detail(answer) if answer.status == 404 else None
    return detail is not None and detail.code == "not_found"


def _detail(answer: Answer) -> _Detail | None:
    try:
        return msgspec.json.decode(answer.body, type=_ErrorBody).error
    except msgspec.DecodeError:
        return None
