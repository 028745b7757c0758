"""Links into a folder, with the semantics of S3's: for one method, one key and a while, and worth nothing if changed.

    <base>/<key>?expires=<unix s>&method=<method>[&disposition=<name>][&bytes_max=<n>]&signature=<HMAC-SHA256>

What is signed is the query as it is written, so there is one spelling of it. Every instance that has one of the keys of
the ring makes and checks the same links.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import parse_qsl, quote, urlencode

from noctule.base.errors import ConfigError, RequestError

SECRET_BYTES_MIN = 32
QUERY_CHARS_MAX = 4096

_SIGNATURE = "&signature="


class LinkRefusedError(RequestError):
    """The link is not for this request, was changed, or has expired; `s3_code` is S3's word for it."""

    code = "link_refused"
    s3_code: ClassVar[str] = "SignatureDoesNotMatch"


class LinkExpiredError(LinkRefusedError):
    """The link was good once."""

    s3_code = "AccessDenied"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a good link allows beside its method and key."""

    disposition: str
    """The name for downloads."""
    bytes_max: int
    """For uploads."""


class LinkSigner:
    """Signs with the first key of the ring, checks with each of them.

    A new one is put in front, an old one removed once its links have expired.
    """

    def __init__(self, base: str, ring: Sequence[bytes]) -> None:
        if not ring or min(map(len, ring)) < SECRET_BYTES_MIN:
            raise ConfigError(
                f"files: a link secret has {SECRET_BYTES_MIN} bytes or more, as from secrets.token_bytes(32)"
            )
        self.base = base.rstrip("/")
        self._ring = tuple(ring)

    def sign(
        self, method: str, key: str, *, expires_s: int, wall_ms: int, disposition: str = "", bytes_max: int = 0
    ) -> str:
        """A link; `disposition` is the name under which a browser saves the file, `bytes_max` bounds an upload."""
        parameters = {"expires": str(wall_ms // 1000 + expires_s), "method": method}
        if disposition:
            parameters["disposition"] = disposition
        if bytes_max:
            parameters["bytes_max"] = str(bytes_max)
        query = urlencode(parameters, quote_via=quote)
        return f"{self.base}/{quote(key)}?{query}{_SIGNATURE}{_digest(self._ring[0], key, query)}"

    def check(self, method: str, key: str, query: str, wall_ms: int) -> Grant:
        """What the link of a request allows. Raises `LinkRefusedError`. A link for GET is good for HEAD, too."""
        signed, separator, given = query.rpartition(_SIGNATURE)
        if not separator or len(query) > QUERY_CHARS_MAX:
            raise LinkRefusedError("the link has no signature")
        # All keys are tried, so that the time tells nothing about which one was right.
        good = [hmac.compare_digest(_digest(each, key, signed).encode(), given.encode()) for each in self._ring]
        if not any(good):
            raise LinkRefusedError("the signature of the link is not right for this request")
        parameters = dict(parse_qsl(signed))
        if method != parameters["method"] and (method, parameters["method"]) != ("HEAD", "GET"):
            raise LinkRefusedError("the link is for another method")
        if int(parameters["expires"]) * 1000 <= wall_ms:
            raise LinkExpiredError("the link has expired")
        return Grant(parameters.get("disposition", ""), int(parameters.get("bytes_max", "0")))


def _digest(secret: bytes, key: str, query: str) -> str:
    return hmac.new(secret, f"{key}\n{query}".encode(), hashlib.sha256).hexdigest()
