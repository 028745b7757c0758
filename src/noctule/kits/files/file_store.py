"""Files of an app with several instances: saved under names of our own, private, checked, and on a second store when
the first is away.

    files = FileStore("s3://photos?endpoint=…,s3://photos-b?endpoint=…", store=redis)
    saved = await files.save(upload.stream(), kind="avatars", allowed=("image/*",))
    link = files.links.sign(saved.key, expires_s=3600)

The stores of a chain are tried in order. A file that only a later one has is noted in a journal, and copied to the
others by `keep_repaired` once they are back; reading finds it wherever it is.
"""

import hashlib
import logging
import os
import random
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from uuid import UUID

from redis.asyncio import Redis

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, NoctuleError, RequestError, StorageError, TooLargeError, UnavailableError
from noctule.kits.app_secret import app_secrets, derived_key
from noctule.kits.files.chain import (
    Chain,
    EndpointAwayError,
    EndpointPicture,
    FileNotFoundInStoreError,
    StoredFile,
    stored_file,
)
from noctule.kits.files.content import check_allowed, sniff
from noctule.kits.files.endpoints import load_endpoints
from noctule.kits.files.journal import Journal, Repair
from noctule.kits.files.keys import check_key, is_incoming, kind_of, new_key
from noctule.kits.files.links import Links, checked_name
from noctule.kits.files.local_urls import LinkSigner
from noctule.kits.files.repairs import Repairs
from noctule.kits.files.spool import Spool
from noctule.kits.files.uploads import PART_BYTES, Uploads
from noctule.kits.locks import Locks
from noctule.kits.store import connect

BYTES_MAX = 1024**3
"""Of one file, unless it is said otherwise."""
READ_BYTES_MAX = 16 * 1024 * 1024
"""What `read` takes into memory."""

INSTANCES = "NOCTULE_INSTANCES"
"""How many instances the app has, for whom this process' environment says it; ``noctule up`` does."""

log = logging.getLogger("noctule.kits.files")


@dataclass(frozen=True, slots=True)
class FileStorePicture:
    """A `FileStore` at one moment; counts are of this instance, since its beginning."""

    endpoints: tuple[EndpointPicture, ...]
    saved: int
    saved_elsewhere: int
    """Of these, so many that the first store did not take."""
    mended: int
    repairs_unsaved: int
    """Notes that only this process has, as the journal's store is away."""


class FileStore:
    """Files in a chain of stores.

    `urls`: see endpoints.py; None for NOCTULE_FILES_URL. `store`: where the journal is, as for every kit; `name` tells
    chains apart that share it. `instances`: how many instances of the app there are (None: the environment's
    NOCTULE_INSTANCES, or one); with more than one a folder is refused, for the others would not see it, unless its URL
    says ``shared=true``. `link_base` and `link_secrets` are for links into a folder: where `serving.FileLinks` is
    mounted, and a ring of secrets that all instances have (None: made of NOCTULE_APP_SECRET, if that is set). Raises
    `ConfigError` for what cannot work.
    """

    def __init__(
        self,
        urls: str | None = None,
        *,
        store: Redis | str | None = None,
        name: str = "files",
        instances: int | None = None,
        link_base: str = "/files",
        link_secrets: Sequence[bytes] | None = None,
        bytes_max: int = BYTES_MAX,
        part_bytes: int = PART_BYTES,
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
    ) -> None:
        endpoints = load_endpoints(urls or os.environ.get("NOCTULE_FILES_URL", ""))
        unshared = [each.name for each in endpoints if not each.is_shared]
        instances = _instances() if instances is None else instances
        if unshared and instances > 1:
            raise ConfigError(
                f"files: {unshared[0]} is a folder of one machine, and there are {instances} instances; use an s3:// "
                "store, or end the URL with ?shared=true if all of them see the same folder there"
            )
        if link_secrets is None:
            link_secrets = [derived_key(each, "file links") for each in app_secrets()]
        self.bytes_max = bytes_max
        self._clock = clock
        self._name = name
        self._owns_store = store is None or isinstance(store, str)
        if store is None or isinstance(store, str):
            store = connect(store)
        self._redis = store
        self._chain = Chain(endpoints, clock, random.Random())
        signer = LinkSigner(link_base, link_secrets) if link_secrets else None
        self.links = Links(self._chain, signer, clock)
        self.journal = Journal(store, name)
        self.uploads = Uploads(self._chain, self._save_upload, bytes_max, part_bytes, clock)
        self._repairs = Repairs(self._chain, self.journal, self.uploads, bytes_max, clock)
        self._saved = 0
        self._saved_elsewhere = 0

    # Saving -----------------------------------------------------------------------------------------------------------

    async def save(
        self, data: bytes | AsyncIterable[bytes], *, kind: str, name: str = "", allowed: tuple[str, ...] = ()
    ) -> StoredFile:
        """Save a file; what it is is seen by its first bytes, and must be one of `allowed` if that names any.

        Returns once one store of the chain has it. Raises `RequestError`, or `TooLargeError` over `bytes_max`, for what
        is not to be saved, `UnavailableError` when no store took it, and `StorageError` when this machine has no room
        for it on its way; nothing that anybody can find is left then.
        """
        with Spool() as spool:
            await spool.take(data, self.bytes_max)
            extension = _allowed_extension(spool, allowed)
            key = new_key(kind, extension, self._clock.wall_ms(), secrets.randbits(74))
            try:
                return await self._put(key, spool, name)
            except UnavailableError:
                # A store may have it nevertheless, as its answer was lost. Nobody will use this key again.
                await self.journal.note(key, Repair("delete", tuple(each.name for each in self._chain.endpoints)))
                raise

    async def _save_upload(
        self, pieces: AsyncIterator[bytes], kind: str, name: str, allowed: tuple[str, ...], upload: str, sha256: str
    ) -> StoredFile:
        with Spool() as spool:
            await spool.take(pieces, self.bytes_max)
            if sha256 and sha256 != spool.sha256:
                raise RequestError("the parts are there, but they are not the file with this SHA-256")
            number = UUID(upload).int
            # The key has the upload's time and chance: the same upload gives the same key.
            key = new_key(
                kind,
                _allowed_extension(spool, allowed),
                number >> 80,
                ((number >> 64) & 0xFFF) << 62 | number & ((1 << 62) - 1),
            )
            return await self._put(key, spool, name)

    async def replace(
        self, key: str, data: AsyncIterable[bytes], *, allowed: tuple[str, ...], bytes_max: int
    ) -> StoredFile:
        """Save what comes by an upload link, whose key is given. Raises as `save` does."""
        check_key(key)
        with Spool() as spool:
            await spool.take(data, min(bytes_max, self.bytes_max))
            _allowed_extension(spool, allowed)
            return await self._put(key, spool, "")

    async def _put(self, key: str, spool: Spool, name: str) -> StoredFile:
        saved = StoredFile(key, sniff(spool.head).name, spool.size_bytes, spool.sha256, checked_name(name))
        missing: list[str] = []
        for endpoint in self._chain.endpoints:
            try:
                await self._chain.put(endpoint, saved, spool.body)
            except EndpointAwayError:
                missing.append(endpoint.name)
                continue
            self._saved += 1
            if missing:
                self._saved_elsewhere += 1
                await self.journal.note(key, Repair("copy", tuple(missing), saved.sha256, saved.name))
            return saved
        raise UnavailableError("no store of files took it; try again")

    # Reading ----------------------------------------------------------------------------------------------------------

    async def stat(self, key: str) -> StoredFile:
        """What is known of a file. Raises `FileNotFoundInStoreError`, or `UnavailableError`."""
        endpoint, result = await self._chain.open(check_key(key), head=True)
        return stored_file(key, endpoint, result)

    async def read(self, key: str) -> bytes:
        """A small file whole, as it was saved: a copy that is damaged is not given, and replaced by a good one.

        Raises as `stat` does, `TooLargeError` over 16 MiB (stream it), `StorageError` when every copy is damaged.
        """
        check_key(key)
        damaged: list[str] = []
        while True:
            try:
                endpoint, result = await self._chain.open(key, skip=damaged)
            except FileNotFoundInStoreError:
                if damaged:
                    raise StorageError("the file is not as it was saved, on any store that has it") from None
                raise
            saved = stored_file(key, endpoint, result)
            if saved.size_bytes > READ_BYTES_MAX:
                raise TooLargeError(f"the file is over {READ_BYTES_MAX} bytes; stream it")
            pieces = self._chain.pieces(key, 0, saved.size_bytes, (endpoint, result))
            data = b"".join([piece async for piece in pieces])
            if saved.sha256 in ("", hashlib.sha256(data).hexdigest()):
                if damaged:
                    await self.journal.note(key, Repair("copy", tuple(damaged), saved.sha256, saved.name))
                return data
            log.error("file_damaged", extra={"key": key, "endpoint": endpoint.name})
            damaged.append(endpoint.name)

    async def stream(
        self, key: str, *, start: int = 0, end: int | None = None, verify: bool = True
    ) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to before `end`, in pieces, from store to store if one breaks off.

        A file that is read whole is compared with its SHA-256 where that is known, unless not to `verify`: then
        `StorageError` is raised after the last piece. Raises as `stat` does, and `RequestError` for a start behind the
        end of the file.
        """
        is_whole = start == 0 and end is None
        opened = await self._chain.open(check_key(key), head=not is_whole)
        saved = stored_file(key, *opened)
        end = saved.size_bytes if end is None else min(end, saved.size_bytes)
        if not is_whole and not 0 <= start < end:
            raise RequestError(f"the file has {saved.size_bytes} bytes; there are none from {start} to before {end}")
        digest = hashlib.sha256() if is_whole and verify and saved.sha256 else None
        async with aclosing(self._chain.pieces(key, start, end, opened if is_whole else None)) as pieces:
            async for piece in pieces:
                if digest is not None:
                    digest.update(piece)
                yield piece
        if digest is not None and digest.hexdigest() != saved.sha256:
            log.error("file_damaged", extra={"key": key, "endpoint": opened[0].name})
            raise StorageError("the file is not as it was saved")

    # Deleting ---------------------------------------------------------------------------------------------------------

    async def delete(self, key: str) -> None:
        """Delete a file everywhere; one that is not there is no error. A store that is away is told once it is back.

        With several stores it is noted first, so that it is finished by others if this process dies. Raises
        `UnavailableError` when no store answers; it is deleted later then, if the note could be saved.
        """
        check_key(key)
        names = tuple(each.name for each in self._chain.endpoints)
        repair = Repair("delete", names)
        if len(names) > 1:
            await self.journal.note(key, repair)
        away = 0
        for endpoint in self._chain.endpoints:
            try:
                await self._chain.remove(endpoint, key)
            except EndpointAwayError:
                away += 1
        if away == len(names):
            raise UnavailableError("no store of files answers; try again")
        if not away and len(names) > 1:
            with suppress(NoctuleError):  # Else it is deleted once more, by a repair.
                await self.journal.strike(key, repair)

    # Uploads that did not pass through the app ------------------------------------------------------------------------

    async def accept_uploaded(self, key: str, *, allowed: tuple[str, ...] = (), name: str = "") -> StoredFile:
        """What was uploaded by a link or form, looked at and saved under a new key; the old one is deleted.

        The new key, because whoever has the link may still overwrite the old one. Raises as `save` and `stat` do, and
        `RequestError` for a key that no link or form was made for, as that of somebody's file; what is not allowed, or
        too large, is deleted.
        """
        if not is_incoming(check_key(key)):
            raise RequestError("that is no key of an upload")
        kind = kind_of(key)
        try:
            async with aclosing(self.stream(key)) as pieces:
                saved = await self.save(pieces, kind=kind, name=name, allowed=allowed)
        except (UnavailableError, FileNotFoundInStoreError):
            raise
        except RequestError:
            await self.delete(key)
            raise
        await self.delete(key)
        return saved

    # Keeping ----------------------------------------------------------------------------------------------------------

    async def repair(self) -> int:
        """One round of repairs by this instance; how many files are mended. `UnavailableError` without the journal."""
        return await self._repairs.run()

    async def keep_repaired(self) -> None:
        """Until cancelled: one of all instances that run this repairs what there is, whoever wrote it."""
        await self._repairs.keep(Locks(self._redis), self._name)

    def describe(self) -> FileStorePicture:
        """A frozen picture; asks nobody."""
        return FileStorePicture(
            self._chain.describe(), self._saved, self._saved_elsewhere, self._repairs.mended, self.journal.unsaved
        )

    async def aclose(self) -> None:
        """Close the journal's client if this object made it."""
        if self._owns_store:
            await self._redis.aclose()


def _instances() -> int:
    said = os.environ.get(INSTANCES) or "1"
    if not said.isdecimal():
        raise ConfigError(f"files: {INSTANCES} must be how many instances the app has, not {said!r}")
    return int(said)


def _allowed_extension(spool: Spool, allowed: tuple[str, ...]) -> str:
    found = sniff(spool.head)
    check_allowed(found.name, allowed)
    return found.extension
