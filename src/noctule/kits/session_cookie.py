"""The cookie of a web session: its id, how it is read, how it is set; pure.

The id is a bearer token. It is made here from the system's randomness, leaves only in the cookie, and is stored under
its SHA-256 alone, so that whoever reads the store cannot take over a session.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Literal

from noctule.base.errors import ConfigError
from noctule.kits.asgi import Headers, header_values

SameSite = Literal["lax", "strict", "none"]

_ID = re.compile(r"[A-Za-z0-9_-]{43}")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 6265 4.1.1: cookie-name is a token.
_ATTRIBUTE = re.compile(r"[\x20-\x3a\x3c-\x7e]*")  # RFC 6265 4.1.1: no control characters, no semicolon.


def new_session_id() -> str:
    """256 bits from the system's randomness, as 43 characters of base64url."""
    return secrets.token_urlsafe(32)


def session_digest(session_id: str) -> str:
    """SHA-256 of an id in 64 hexadecimal digits: the only form in which it is stored."""
    return hashlib.sha256(session_id.encode()).hexdigest()


def read_session_id(headers: Headers, cookie_name: str) -> str | None:
    """The first well-formed id under that name in the request's Cookie headers; None when there is none.

    Well-formed says nothing about whether such a session exists. RFC 6265 5.4 lets a browser send the name twice.
    """
    for line in header_values(headers, b"cookie"):
        for pair in line.decode("latin-1").split(";"):
            name, _, value = pair.strip(" \t").partition("=")
            if name == cookie_name and _ID.fullmatch(value):
                return value
    return None


@dataclass(frozen=True, slots=True)
class SessionCookie:
    """The attributes of the cookie (RFC 6265 4.1, RFC 6265bis 4.1.3); always HttpOnly."""

    name: str = "session"
    """``__Host-session`` with `secure` keeps every other host of the domain from planting a cookie of that name."""
    max_age_s: int = 14 * 24 * 3600
    """How long the browser keeps it after the last touch."""
    secure: bool = False
    """Only over HTTPS. Danger: without it the cookie travels in clear text; set it wherever TLS is in use."""
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
            problems.append(f"ttl_s {self.max_age_s} must be at least 1 second")
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

    def render(self, session_id: str) -> bytes:
        """The value of a Set-Cookie header that hands out this id."""
        return self._render(session_id, self.max_age_s)

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
