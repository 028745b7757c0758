"""What Consul answers when something cannot be done: a status, and a sentence as plain text."""

import logging

from noctule.base.errors import (
    InternalError,
    OutcomeUnknownError,
    RequestError,
    StorageError,
    TooLargeError,
    UnavailableError,
)
from noctule.core.registry.changes import change_refused
from noctule.servers.http_errors import error_kind
from noctule.servers.http_route import Answer

TEXT = "text/plain; charset=utf-8"
NO_LEADER = "No cluster leader"

_INTERNAL_SENTENCE = "this node failed to answer because of a bug of its own; its log has the details"
_logger = logging.getLogger(__name__)


class ConsulError(RequestError):
    """An answer other than 200, as Consul gives it."""

    code = "consul"

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers or {}


def bad_request(sentence: str) -> ConsulError:
    """What the client sent is not understood."""
    return ConsulError(400, sentence)


def refused(sentence: str) -> ConsulError:
    """It was understood and cannot be done as things stand, which Consul answers with 500."""
    return ConsulError(500, sentence)


def text_answer(status: int, sentence: str, headers: dict[str, str] | None = None) -> Answer:
    """A sentence as an answer."""
    return Answer(status, sentence.encode("utf-8", "replace"), TEXT, headers or {})


def error_answer(error: Exception) -> Answer:
    """The answer for an exception, of ours or not. A bug is logged with its trace, which no client ever sees."""
    if isinstance(error, ConsulError):
        return text_answer(error.status, str(error), error.headers)
    kind = error_kind(error)
    if kind is UnavailableError:
        # Consul has one sentence for whatever keeps a server from reaching a quorum, and clients know it by that.
        return text_answer(500, NO_LEADER)
    if kind is TooLargeError:
        return text_answer(413, str(error))
    if issubclass(kind, RequestError | OutcomeUnknownError | StorageError):
        return text_answer(500, change_refused(str(error))[1])
    if kind is InternalError:
        _logger.error("http_request_failed", exc_info=error)
    return text_answer(500, _INTERNAL_SENTENCE)
