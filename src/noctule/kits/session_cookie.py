"""The cookie of a web session: its id, how it is read, how it is set; pure.

The id is a bearer token of two parts, made here from the system's randomness. The first names the session and stays
the same all its life; the second is the secret, which is exchanged at sign-in. Both leave only in the cookie, and are
stored under their SHA-256 alone, so that whoever reads the store cannot take over a session. That an exchanged id is
of the same session is what lets one script exchange it: a session's hash never moves to another slot.
"""

import hashlib
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from noctule.base.errors import ConfigError
from noctule.kits.asgi import Headers, header_values

SameSite = Literal["lax", "strict", "none"]

NAME_CHARACTERS = 22
"""Of the first part: 128 bits in base64url."""

_ID = re.compile(r"[A-Za-z0-9_-]{65}")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 6265 4.1.1: cookie-name is a token.
_ATTRIBUTE = re.compile(r"[\x20-\x3a\x3c-\x7e]*")  # RFC 6265 4.1.1: no control characters, no semicolon.


def new_session_id(of: str | None = None) -> str:
    """A name of 128 bits and a secret of 256, as 65 characters of base64url; `of`: the id of a session, whose name it
    keeps."""
    name = of[:NAME_CHARACTERS] if of else secrets.token_urlsafe(16)
    return name + secrets.token_urlsafe(32)


def session_digest(session_id: str) -> str:
    """SHA-256 of an id in 64 hexadecimal digits: the only form in which it is stored."""
    return hashlib.sha256(session_id.encode()).hexdigest()


def session_handle(session_id: str) -> str:
    """SHA-256 of the id's name: what the store and lists of devices call the session; it signs nobody in."""
    return session_digest(session_id[:NAME_CHARACTERS])


def session_key(prefix: str, handle: str) -> str:
    """Where the store keeps a session."""
    return f"{prefix}{{{handle}}}"


def read_session_id(headers: Headers, cookie_name: str) -> str | None:
    """The first well-formed id under that name in the request's Cookie headers; None when there is none.

    Well-formed says nothing about whether such a session exists. RFC 6265 5.4 lets a browser send the name twice.
    """
    return next((value for value in cookie_values(headers, cookie_name) if _ID.fullmatch(value)), None)


def cookie_values(headers: Headers, cookie_name: str) -> Iterator[str]:
    """All values under that name in the request's Cookie headers, in their order."""
    for line in header_values(headers, b"cookie"):
        for pair in line.decode("latin-1").split(";"):
            name, _, value = pair.strip(" \t").partition("=")
            if name == cookie_name:
                yield value


@dataclass(frozen=True, slots=True)
class SessionCookie:
    """The attributes of the cookie (RFC 6265 4.1, RFC 6265bis 4.1.3); always HttpOnly."""

    name: str = "__Host-session"
    """The prefix keeps every other host of the domain from planting a cookie of that name (RFC 6265bis 4.1.3.2)."""
    max_age_s: int = 14 * 24 * 3600
    """How long the browser keeps it after the last touch."""
    secure: bool = True
    """Only over HTTPS. Danger: without it the cookie travels in clear text."""
    same_site: SameSite = "lax"
    """Danger: ``none`` sends it with requests that other sites start."""
    path: str = "/"
    domain: str | None = None
    """None: this host only. Danger: a domain shares the session with every host below it."""

    def validate(self) -> None:
        """Raise `ConfigError` naming every problem at once."""
        problems = []
        if not _TOKEN.fullmatch(self.name):
            problems.append(f"cookie_name {self.name!r} may hold letters, digits and !#$%&'*+-.^_`|~ only")
        if self.max_age_s < 1:
            problems.append(f"idle_s {self.max_age_s} must be at least 1 second")
        if self.same_site not in ("lax", "strict", "none"):
            problems.append(f"same_site {self.same_site!r} must be lax, strict or none")
        if self.same_site == "none" and not self.secure:
            problems.append("same_site none needs secure=True, or browsers drop the cookie")
        if not self.path.startswith("/") or not _ATTRIBUTE.fullmatch(self.path):
            problems.append(f"path {self.path!r} must begin with / and hold no semicolon")
        if self.domain is not None and not (self.domain and _ATTRIBUTE.fullmatch(self.domain)):
            problems.append(f"domain {self.domain!r} must be a host name or None")
        if self.name.startswith("__Host-") and not (self.secure and self.path == "/" and self.domain is None):
            problems.append("a cookie_name that begins with __Host- needs secure=True, path='/' and no domain")
        if self.name.startswith("__Secure-") and not self.secure:
            problems.append("a cookie_name that begins with __Secure- needs secure=True")
        if problems:
            raise ConfigError("session cookie: " + "; ".join(problems))

    def for_forms(self) -> "SessionCookie":
        """The cookie that seals forms while there is no session, see pre_session.py: under a name of its own, and as
        protected."""
        return replace(self, name=f"{self.name}-form")

    def render_change(self, value: str | None) -> list[tuple[bytes, bytes]]:
        """The header that makes the value this; empty: forgotten, None: as it is, which takes no header."""
        if value is None:
            return []
        return [(b"set-cookie", self.render(value) if value else self.render_removal())]

    def render(self, value: str, max_age_s: int | None = None) -> bytes:
        """The value of a Set-Cookie header that hands this out."""
        return self._render(value, self.max_age_s if max_age_s is None else max_age_s)

    def render_removal(self) -> bytes:
        """The value of a Set-Cookie header that makes the browser forget the cookie."""
        return self._render("", 0)

    def _render(self, value: str, max_age_s: int) -> bytes:
        parts = [f"{self.name}={value}", f"Max-Age={max_age_s}", f"Path={self.path}", "HttpOnly"]
        parts.append(f"SameSite={self.same_site.capitalize()}")
        if self.domain is not None:
            parts.append(f"Domain={self.domain}")
        if self.secure:
            parts.append("Secure")
        return "; ".join(parts).encode("latin-1")
