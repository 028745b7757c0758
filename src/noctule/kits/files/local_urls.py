"""Links into a folder, with the semantics of S3's: for one method, one key and a while, and worth nothing if changed.

    <base>/<key>?expires=<unix s>&method=<method>&disposition=<name>&signature=<HMAC-SHA256>

Every instance that has one of the keys of the ring makes and checks the same links.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode

from noctule.base.errors import ConfigError

SECRET_BYTES_MIN = 32


class LinkSigner:
    """Signs with the first key of the ring, checks with each of them: a new one is put in front, an old one removed once
    its links have expired."""

    def __init__(self, base: str, ring: Sequence[bytes]) -> None:
        if not ring or min(map(len, ring)) < SECRET_BYTES_MIN:
            raise ConfigError(
                f"files: a link secret has {SECRET_BYTES_MIN} bytes or more, as from secrets.token_bytes(32)"
            )
        self._base = base.rstrip("/")
        self._ring = tuple(ring)

    def sign(self, method: str, key: str, *, expires_s: int, wall_ms: int, disposition: str = "") -> str:
        """A link; `disposition` is the name under which a browser saves the file."""
        until = wall_ms // 1000 + expires_s
        query = {"expires": str(until), "method": method, "disposition": disposition}
        query["signature"] = _digest(self._ring[0], method, key, query)
        return f"{self._base}/{quote(key)}?{urlencode(query)}"

    def is_good(self, method: str, key: str, query: Mapping[str, str], wall_ms: int) -> bool:
        """Whether a request comes by a link for it that has not expired. A link for GET is good for HEAD, too."""
        wanted = query.get("method", "")
        if method != wanted and not (method == "HEAD" and wanted == "GET"):
            return False
        until = query.get("expires", "")
        if not (until.isascii() and until.isdigit() and len(until) < 16) or int(until) * 1000 <= wall_ms:
            return False
        given = query.get("signature", "").encode(errors="replace")
        # All keys are tried, so that the time tells nothing about which one was right.
        return bool(sum(hmac.compare_digest(_digest(each, wanted, key, query).encode(), given) for each in self._ring))


def _digest(secret: bytes, method: str, key: str, query: Mapping[str, str]) -> str:
    signed = "\n".join((method, key, query.get("expires", ""), query.get("disposition", "")))
    return hmac.new(secret, signed.encode(), hashlib.sha256).hexdigest()
