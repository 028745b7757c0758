"""Links by which files are read and uploaded without passing through the app; each store of a chain has its own kind.

The host of a link is the store's, so a link is good while that store answers.
"""

import secrets
from urllib.parse import quote

from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, RequestError
from noctule.kits.files.chain import Chain
from noctule.kits.files.content import disposition_of, type_by_name, type_of_extension
from noctule.kits.files.endpoints import Endpoint
from noctule.kits.files.keys import check_key, extension_of, is_incoming, new_key
from noctule.kits.files.local_urls import LinkSigner
from noctule.kits.files.sigv4 import EXPIRES_S_MAX

NAME_BYTES_MAX = 192
"""Of the name that a file's owner gives it, in UTF-8; what is longer is cut. Stores bound what they keep beside a file:
Swift each value by 256 characters, which are these in base64; Amazon all of them by 2 KB."""
READ_S_DEFAULT = 3600
UPLOAD_S_DEFAULT = 600


class Links:
    """The links of one `FileStore`."""

    def __init__(self, chain: Chain, signer: LinkSigner | None, clock: Clock) -> None:
        self._chain = chain
        self._signer = signer
        self._clock = clock

    @property
    def signer(self) -> LinkSigner:
        """Of links into a folder. Raises `ConfigError` without secrets."""
        if self._signer is None:
            raise ConfigError("files: links into a folder need link_secrets, or NOCTULE_APP_SECRET")
        return self._signer

    @property
    def are_public(self) -> bool:
        """Whether the first store is declared public."""
        return self._chain.endpoints[0].is_public

    def sign(self, key: str, *, expires_s: int = READ_S_DEFAULT, name: str = "") -> str:
        """A link that is good for reading this file for `expires_s` seconds, at the first store that is not away.

        Nobody is asked for it, nor whether the file is there: `find` looks. `name`: under which a browser saves it;
        without one a browser shows images, sound and plain text, and saves the rest. Raises `RequestError` for a time
        or key that cannot be.
        """
        return self._sign(self._chain.preferred(), key, expires_s, name)

    async def find(self, key: str, *, expires_s: int = READ_S_DEFAULT, name: str = "") -> str:
        """As `sign`, at a store that has the file now, which costs one question. Raises as `FileStore.stat`, too."""
        endpoint, _ = await self._chain.open(check_key(key), head=True)
        return self._sign(endpoint, key, expires_s, name)

    def public(self, key: str) -> str:
        """Where anybody reads the file, for ever. Raises `ConfigError` unless the first store is declared public, and
        `RequestError` for an upload that was not accepted."""
        if is_incoming(check_key(key)):
            raise RequestError("an upload is not public before it is accepted")
        if not self.are_public:
            raise ConfigError(
                "files: the first store is private; sign links, or declare it with public=true in its URL"
            )
        signer = self._chain.endpoints[0].signer
        return f"{self.signer.base}/{quote(key)}" if signer is None else signer.public_url(key)

    def upload(
        self, *, kind: str, content_type: str, bytes_max: int, expires_s: int = UPLOAD_S_DEFAULT
    ) -> tuple[str, str]:
        """A fresh key, and a link by which one file of this type is PUT there without passing through the app.

        An S3 store demands the header Content-Type, and takes any number of bytes; a folder looks at bytes and size.
        Then call `FileStore.accept_uploaded`.
        """
        _check_expiry(expires_s)
        signer = self._chain.preferred().signer
        key, wall_ms = self._new_key(kind, content_type)
        if signer is None:
            return key, self.signer.sign("PUT", key, expires_s=expires_s, wall_ms=wall_ms, bytes_max=bytes_max)
        return key, signer.presign("PUT", key, expires_s=expires_s, wall_ms=wall_ms, content_type=content_type)

    def form(
        self, *, kind: str, content_type: str, bytes_max: int, expires_s: int = UPLOAD_S_DEFAULT
    ) -> tuple[str, str, dict[str, str]]:
        """A fresh key, then where and with which fields a form uploads one file of at most `bytes_max` bytes to it.

        Then call `FileStore.accept_uploaded`. Raises `RequestError` for a folder, which takes no forms.
        """
        _check_expiry(expires_s)
        signer = self._chain.preferred().signer
        if signer is None:
            raise RequestError("a folder takes no forms; use a link for an upload, or save the file through the app")
        key, wall_ms = self._new_key(kind, content_type)
        fields = signer.post_policy(
            key, expires_s=expires_s, wall_ms=wall_ms, content_type=content_type, bytes_max=bytes_max
        )
        return key, signer.url, fields

    def _sign(self, endpoint: Endpoint, key: str, expires_s: int, name: str) -> str:
        check_key(key)
        _check_expiry(expires_s)
        name, wall_ms = checked_name(name), self._clock.wall_ms()
        if endpoint.signer is None:
            return self.signer.sign("GET", key, expires_s=expires_s, wall_ms=wall_ms, disposition=name)
        disposition = disposition_of(type_of_extension(extension_of(key)).name, name)
        query = {"response-content-disposition": disposition} if disposition else None
        return endpoint.signer.presign("GET", key, expires_s=expires_s, wall_ms=wall_ms, query=query)

    def _new_key(self, kind: str, content_type: str) -> tuple[str, int]:
        wall_ms = self._clock.wall_ms()
        extension = type_by_name(content_type).extension
        return new_key(kind, extension, wall_ms, secrets.randbits(74), is_incoming=True), wall_ms


def checked_name(name: str) -> str:
    """A name as people give it, cut. Raises `RequestError` for one that cannot be written in UTF-8."""
    try:
        return name.encode()[:NAME_BYTES_MAX].decode(errors="ignore")  # The cut may be within a character.
    except UnicodeEncodeError:
        raise RequestError("the name of a file must be text that UTF-8 can write") from None


def _check_expiry(expires_s: int) -> None:
    if not 1 <= expires_s <= EXPIRES_S_MAX:
        raise RequestError(f"a link is good for 1 to {EXPIRES_S_MAX} seconds, not {expires_s}")
