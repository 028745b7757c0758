"""What an engine answers itself, in the one JSON shape of every error of Noctule."""

import json

_SENTENCES = {
    400: ("bad_request", "the request is not HTTP, or its head is over a bound"),
    403: ("forbidden", "these pages are for clients on this machine only"),
    404: ("not_found", "no route matches this request"),
    408: ("bad_request", "the request did not come in time"),
    413: ("too_large", "the request body is over the bound"),
    502: ("bad_gateway", "no instance could be reached, or it closed the connection before it answered"),
    503: ("unavailable", "no instance can take the request"),
    504: ("outcome_unknown", "the instance did not answer in time"),
}

RETRY_AFTER_S = 1
"""With every 503."""


def _render(status: int, code: str, message: str) -> str:
    outcome = "unknown" if status in (502, 504) else "not_applied"
    error = {"code": code, "message": message, "retryable": status == 503, "outcome": outcome}
    return json.dumps({"error": error}, separators=(",", ":"))


OWN_ANSWERS = {status: _render(status, code, message) for status, (code, message) in _SENTENCES.items()}
"""Bodies by status."""

OK = '{"status":"ok"}'
"""What `/__noctule/health` answers."""
