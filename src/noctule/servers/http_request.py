"""A request as the API takes it, whatever carried it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came, its body not yet read."""

    method: str
    target: str
    """Path and query (RFC 9112 3.2.1), or the whole URL (3.2.2), still percent-encoded."""
    accept: str
    content_encoding: str
    read_body: Callable[[], Awaitable[bytes]]
    """Called at most once, after everything else about the request was found good."""
    is_gone: Callable[[], bool] = lambda: False
    """Whether the client has hung up; asked while an answer waits."""
