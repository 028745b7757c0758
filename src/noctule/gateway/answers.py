"""What the gateway answers itself, in the one JSON shape of every error of Noctule."""

import math
from dataclasses import dataclass

import msgspec

from noctule.base.errors import Outcome

ATTEMPTS_HEADER = b"X-Noctule-Gateway"
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
    headers: tuple[tuple[bytes, bytes], ...] = ()


class RefusedError(Exception):
    """The request ends here, with this answer; raised where a head is read, and caught where it came from."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.message)
        self.answer = answer


def bad_request(message: str) -> Answer:
    """400: the client's request is not HTTP, or not HTTP that a gateway may pass on."""
    return Answer(400, "bad_request", message)


def head_too_slow(head_timeout_s: float) -> Answer:
    """408: the client took too long to send a request's head."""
    return Answer(408, "bad_request", f"the request's head was not whole after {head_timeout_s:g} s", retryable=True)


def too_slow(idle_timeout_s: float) -> Answer:
    """408: the client stopped sending its body."""
    return Answer(
        408, "bad_request", f"the request body paused for {idle_timeout_s:g} s; send it again", retryable=True
    )


def too_large(body_bytes_max: int) -> Answer:
    """413: over `body_bytes_max`; the outcome is the caller's to correct if an instance had a part of it."""
    return Answer(413, "too_large", f"the request body is over the bound of {body_bytes_max} bytes")


def target_too_long(header_bytes_max: int) -> Answer:
    """414: the request target is longer than a header line may be."""
    return Answer(414, "too_large", f"the request target is over the bound of {header_bytes_max} bytes")


def head_too_large(message: str) -> Answer:
    """431: one header line, all of them, or their number is over its bound."""
    return Answer(431, "too_large", message)


def too_many_requests(retry_after_s: float) -> Answer:
    """429: over a rate that the app or a kit has set; `retry_after_s` is rounded up to whole seconds."""
    seconds = max(1, math.ceil(retry_after_s))
    return Answer(
        429,
        "rate_limited",
        f"too many requests; try again in {seconds} s",
        retryable=True,
        headers=((b"Retry-After", b"%d" % seconds),),
    )


def go_to_tls(location: bytes) -> Answer:
    """308: the same request, over TLS."""
    return Answer(308, "use_tls", "this site is served over https", headers=((b"Location", location),))


def unavailable(message: str) -> Answer:
    """503: no instance was given anything of the request, so it may be tried again."""
    return Answer(503, "unavailable", message, retryable=True, headers=((b"Retry-After", b"%d" % RETRY_AFTER_S),))


def of_refusal(status: int, code: str, message: str, *, is_retryable: bool) -> Answer:
    """Why nobody answers: 404 without a route, 503 without an instance."""
    headers = ((b"Retry-After", b"%d" % RETRY_AFTER_S),) if status == 503 else ()
    return Answer(status, code, message, is_retryable, headers=headers)


def connection_lost(*, is_idempotent: bool, is_safe: bool) -> Answer:
    """502: an instance had the request and its connection ended before the answer was whole."""
    message = "the instance closed the connection before its answer was whole"
    return Answer(502, "bad_gateway", message, is_idempotent, "not_applied" if is_safe else "unknown")


def bad_response(reason: str, *, is_safe: bool) -> Answer:
    """502: an instance answered, with something that cannot be passed on."""
    outcome: Outcome = "not_applied" if is_safe else "unknown"
    return Answer(502, "bad_gateway", f"the instance's response cannot be passed on: {reason}", outcome=outcome)


def no_answer(response_timeout_s: float, *, is_idempotent: bool, is_safe: bool) -> Answer:
    """504: an instance has the request and has not answered in time; it may still be at work on it."""
    message = f"the instance did not answer within {response_timeout_s:g} s"
    return Answer(504, "outcome_unknown", message, is_idempotent, "not_applied" if is_safe else "unknown")


def render_answer(
    answer: Answer, *, request_id: bytes = b"", attempts: int = 0
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers, but for the length, and body of the complete response, which no cache may keep."""
    body = msgspec.json.encode(
        {
            "error": {
                "code": answer.code,
                "message": answer.message,
                "retryable": answer.retryable,
                "outcome": answer.outcome,
            }
        }
    )
    headers = [
        (b"Content-Type", b"application/json; charset=utf-8"),
        (b"Cache-Control", b"no-store"),
        (b"Server", b"noctule"),
        (ATTEMPTS_HEADER, b"%d" % attempts),
        *answer.headers,
    ]
    if request_id:
        headers.append((b"X-Request-ID", request_id))
    return headers, body
