"""What the gateway answers itself, in the one JSON shape of every error of Noctule."""

from dataclasses import dataclass

import msgspec
from aiohttp import web

from noctule.base.errors import Outcome

ATTEMPTS_HEADER = "X-Noctule-Gateway"
"""In every response: how many instances the request was tried on; 0 when none was asked."""

RETRY_AFTER_S = 1
"""With every 503: probes come twice a second, so a set that can heal by itself has done so by then."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the gateway's own: a status, a code for a program, a sentence for a person, and what happened."""

    status: int
    code: str
    message: str
    retryable: bool = False
    outcome: Outcome = "not_applied"


class RefusedError(Exception):
    """The request ends here, with this answer; raised anywhere on its way and caught in forward.py."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.message)
        self.answer = answer


def bad_request(message: str) -> Answer:
    """400: the client's request is not HTTP, or not HTTP that a gateway may pass on."""
    return Answer(400, "bad_request", message)


def too_slow(idle_timeout_s: float) -> Answer:
    """408: the client stopped sending its body."""
    return Answer(
        408, "bad_request", f"the request body paused for {idle_timeout_s:g} s; send it again", retryable=True
    )


def too_large(body_bytes_max: int) -> Answer:
    """413: over `body_bytes_max`; the outcome is the caller's to correct if an instance had a part of it."""
    return Answer(413, "too_large", f"the request body is over the bound of {body_bytes_max} bytes")


def unavailable(message: str) -> Answer:
    """503: no instance was given anything of the request, so it may be tried again."""
    return Answer(503, "unavailable", message, retryable=True)


def connection_lost(*, is_idempotent: bool, is_safe: bool) -> Answer:
    """502: an instance had the request and its connection ended before it answered."""
    message = "the instance closed the connection before it answered"
    return Answer(502, "bad_gateway", message, is_idempotent, "not_applied" if is_safe else "unknown")


def bad_response(reason: str, *, is_safe: bool) -> Answer:
    """502: an instance answered, with something that cannot be passed on."""
    outcome: Outcome = "not_applied" if is_safe else "unknown"
    return Answer(502, "bad_gateway", f"the instance's response cannot be passed on: {reason}", outcome=outcome)


def no_answer(response_timeout_s: float, *, is_idempotent: bool, is_safe: bool) -> Answer:
    """504: an instance has the request and has not answered in time; it may still be at work on it."""
    message = f"the instance did not answer within {response_timeout_s:g} s"
    return Answer(504, "outcome_unknown", message, is_idempotent, "not_applied" if is_safe else "unknown")


def render_answer(answer: Answer, *, request_id: str = "", attempts: int = 0, is_last: bool = False) -> web.Response:
    """The complete response, which no cache may keep; `is_last` closes the client's connection after it."""
    body = {
        "error": {
            "code": answer.code,
            "message": answer.message,
            "retryable": answer.retryable,
            "outcome": answer.outcome,
        }
    }
    headers = {"Cache-Control": "no-store", "Server": "noctule", ATTEMPTS_HEADER: str(attempts)}
    if request_id:
        headers["X-Request-ID"] = request_id
    if answer.status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    response = web.Response(
        status=answer.status, body=msgspec.json.encode(body), content_type="application/json", headers=headers
    )
    if is_last:
        response.force_close()
    return response
