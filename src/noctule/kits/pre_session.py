"""What seals the forms of a visitor who has no session yet: a random value in a cookie, nothing on the server; pure.

OWASP calls it a pre-session, and what is made of it a signed double-submit cookie. The value is itself the key of the
HMAC, so instances need nothing in common. A secret of theirs would add nothing: whoever asks for a page is given a
cookie and a token that fit. It is the ``__Host-`` prefix that keeps this cookie out of any other browser.

When a session begins, the cookie is bound to it, so that a page from before can still be posted: into this session
alone, and as long as it keeps its id. Signing in or out ends the value, or what was known before would be good after.
"""

import base64
import hmac
import re
import secrets
from collections.abc import Iterable

_COOKIE = re.compile(r"([A-Za-z0-9_-]{43})(?:\.([A-Za-z0-9_-]{43}))?")


class PreSession:
    """Of one request. `sent`: the values of the cookie that it brought; `session_id`: of the session that it is in."""

    def __init__(self, sent: Iterable[str] = (), session_id: str | None = None) -> None:
        self.key: str | None = None
        """What seals: 256 bits, which only this browser has and the server has not kept."""
        self._held = ""
        """The value that the browser is known to hold."""
        self._is_ended = False
        for value in sent:
            self._held = value
            found = _COOKIE.fullmatch(value)
            if found is not None and hmac.compare_digest(_cookie(found[1], session_id), value):
                self.key = found[1]
                break

    def begin(self) -> str:
        """The key; drawn if there is none, and then in the cookie of the response."""
        if self.key is None:
            self.key = secrets.token_urlsafe(32)
        return self.key

    def end(self) -> None:
        """Whatever was sealed with it is no longer good."""
        self.key, self._is_ended = None, True

    def change(self, session_id: str | None) -> str | None:
        """What the cookie has to become, now that the request leaves this session; empty: it is to be forgotten, None:
        it stays as it is."""
        if self.key is None:
            return "" if self._is_ended and self._held else None
        value = _cookie(self.key, session_id)
        return None if value == self._held else value


def _cookie(key: str, session_id: str | None) -> str:
    if session_id is None:
        return key
    bound = hmac.digest(session_id.encode(), b"noctule pre-session\0" + key.encode(), "sha256")
    return f"{key}.{base64.urlsafe_b64encode(bound).rstrip(b'=').decode()}"
