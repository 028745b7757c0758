"""Files of an app with several instances: saved under names of our own, private, checked, and on a second store when
the first is away.

    files = FileStore("s3://photos?endpoint=…,s3://photos-b?endpoint=…", store=redis)
    saved = await files.save(upload.stream(), kind="avatars", allowed=("image/*",))
    link = files.link(saved.key, expires_s=3600)

The stores of a chain are tried in order. A file that only a later one has is noted in a journal, and copied to the
others by `repair` once they are back; reading finds it wherever it is.
"""

import asyncio
import hashlib
import logging
import os
import random
import secrets
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, TypeVar
from urllib.parse import quote, unquote

import obstore
from obstore.exceptions import BaseError, NotFoundError
from redis.asyncio import Redis

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, NoctuleError, RequestError, TooLargeError, UnavailableError
from noctule.core.balance.breaker import Breaker, BreakerPolicy
from noctule.kits.files.content import BYTES, HEAD_BYTES, check_allowed, sniff, type_of_extension
from noctule.kits.files.endpoints import Endpoint, load_endpoints
from noctule.kits.files.journal import Journal, Repair
from noctule.kits.files.keys import check_key, new_key
from noctule.kits.files.local_urls import LinkSigner
from noctule.kits.files.sigv4 import EXPIRES_S_MAX
from noctule.kits.locks import Lease, Locks
from noctule.kits.store import connect

T = TypeVar("T")

MEMORY_BYTES_MAX = 1024 * 1024
"""Of one file on its way; a longer one is held in a temporary file."""
PIECE_BYTES = 256 * 1024
PARTS_MAX = 10_000
"""Of one upload in parts."""
PART_BYTES_MAX = 64 * 1024 * 1024
REPAIR_S = 5.0
"""How often it is looked whether something waits for a repair."""
NAME_CHARS_MAX = 200

_UPLOADS = "uploads"

log = logging.getLogger("noctule.kits.files")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file, as it was saved."""

    key: str
    content_type: str
    """By its first bytes."""
    size_bytes: int
    sha256: str
    """Hexadecimal; empty where a store keeps no metadata, as a folder."""
    name: str = ""
    """As its owner calls it; for people and for downloads only."""


class FileNotFoundInStoreError(RequestError):
    """No store of the chain has the file."""

    code = "not_found"


class FileStore:
    """Files in a chain of stores.

    `urls`: see endpoints.py; None for NOCTULE_FILES_URL. `store`: where the journal is, as for every kit. `instances`:
    how many instances of the app there are; with more than one a folder is refused, for the others would not see it,
    unless `force_local` says that it is a shared file system. `link_base` and `link_secrets` are for links into a folder:
    where `serving.FileLinks` is mounted, and a ring of secrets that all instances have.
    Raises `ConfigError` for what cannot work.
    """

    def __init__(
        self,
        urls: str | None = None,
        *,
        store: Redis | str | None = None,
        instances: int = 1,
        force_local: bool = False,
        link_base: str = "/files",
        link_secrets: Sequence[bytes] = (),
        bytes_max: int = 1024**3,
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
    ) -> None:
        self.endpoints = load_endpoints(urls or os.environ.get("NOCTULE_FILES_URL", ""))
        local = [each.name for each in self.endpoints if each.is_local]
        if local and instances > 1 and not force_local:
            raise ConfigError(
                f"files: {local[0]} is a folder of one machine, and there are {instances} instances; use an s3:// store, "
                "or force_local=True if all of them mount the same file system there"
            )
        self._owns_store = store is None or isinstance(store, str)
        if store is None or isinstance(store, str):
            store = connect(store)
        self.journal = Journal(store)
        self._redis = store
        self.bytes_max = bytes_max
        self.links = LinkSigner(link_base, link_secrets) if link_secrets else None
        self._clock = clock
        chance = random.Random()
        self._breakers = {each.name: Breaker(BreakerPolicy(calls_min=3), chance) for each in self.endpoints}

    # Saving -----------------------------------------------------------------------------------------------------------

    async def save(
        self,
        data: bytes | AsyncIterable[bytes],
        *,
        kind: str,
        name: str = "",
        allowed: tuple[str, ...] = (),
    ) -> StoredFile:
        """Save a file; what it is is seen by its first bytes, and must be one of `allowed` if that names any.

        Returns once one store of the chain has it. Raises `RequestError`, or `TooLargeError` over `bytes_max`, for what
        is not to be saved, and `UnavailableError` when no store took it; nothing that anybody can find is left then.
        """
        with tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES_MAX) as spool:
            digest, size, head = await self._spool(data, spool)
            found = sniff(head)
            check_allowed(found, allowed)
            key = new_key(kind, found.extension, self._clock.wall_ms(), secrets.randbits(74))
            saved = StoredFile(key, found.name, size, digest, name[:NAME_CHARS_MAX])
            await self._put(saved, spool)
            return saved

    async def _spool(self, data: bytes | AsyncIterable[bytes], spool: IO[bytes]) -> tuple[str, int, bytes]:
        """Take it in once, so that it can be sent twice; its SHA-256, size and first bytes."""
        digest, size, head = hashlib.sha256(), 0, b""
        async for piece in _pieces(data):
            size += len(piece)
            if size > self.bytes_max:
                raise TooLargeError(f"the file is over {self.bytes_max} bytes, which is the limit")
            head += piece[: HEAD_BYTES - len(head)]
            digest.update(piece)
            if size > MEMORY_BYTES_MAX:
                await asyncio.to_thread(spool.write, piece)
            else:
                spool.write(piece)
        return digest.hexdigest(), size, head

    async def _put(self, saved: StoredFile, spool: IO[bytes]) -> None:
        missing = []
        for endpoint in self.endpoints:
            spool.seek(0)
            attributes = {
                "Content-Type": saved.content_type,
                "Cache-Control": "private",
                "sha256": saved.sha256,
                "name": quote(saved.name),
            }

            async def put(endpoint: Endpoint = endpoint, attributes: dict[str, str] = attributes) -> None:
                options: dict[str, Any] = {} if endpoint.is_local else {"attributes": attributes}
                await obstore.put_async(endpoint.store, saved.key, spool, **options)

            if await self._try(endpoint, put) is not _AWAY:
                if missing:
                    await self.journal.note(saved.key, Repair("copy", tuple(missing)))
                return
            missing.append(endpoint.name)
        raise UnavailableError("no store of files took it; try again")

    # Reading ----------------------------------------------------------------------------------------------------------

    async def stat(self, key: str) -> StoredFile:
        """What is known of a file. Raises `FileNotFoundInStoreError`, or `UnavailableError`."""
        endpoint, result = await self._open(key, head=True)
        return _stored(key, endpoint, result)

    async def read(self, key: str) -> bytes:
        """A small file whole; `TooLargeError` over 16 MiB: stream it. Raises as `stat` does."""
        _, result = await self._open(key)
        if result.meta["size"] > READ_BYTES_MAX:
            raise TooLargeError(f"the file is over {READ_BYTES_MAX} bytes; stream it")
        return bytes(await result.bytes_async())

    async def stream(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` to before `end`, in pieces. Raises as `stat` does, before the first piece."""
        options = {"range": (start, end)} if end is not None else {"range": {"offset": start}} if start else {}
        _, result = await self._open(key, options=options)
        async for piece in result.stream(min_chunk_size=PIECE_BYTES):
            yield bytes(piece)

    async def _open(
        self, key: str, *, options: dict[str, Any] | None = None, head: bool = False
    ) -> tuple[Endpoint, Any]:
        check_key(key)
        asked = {**(options or {}), "head": head} if head else dict(options or {})
        is_away = False
        for endpoint in self.endpoints:

            async def get(endpoint: Endpoint = endpoint) -> Any:
                try:
                    return await obstore.get_async(endpoint.store, key, options=asked)  # type: ignore[arg-type]
                except (NotFoundError, FileNotFoundError):
                    return None

            result = await self._try(endpoint, get)
            if result is _AWAY:
                is_away = True
            elif result is not None:
                return endpoint, result
        if is_away:
            raise UnavailableError("the store that may have the file does not answer; try again")
        raise FileNotFoundInStoreError("there is no such file")

    # Deleting ---------------------------------------------------------------------------------------------------------

    async def delete(self, key: str) -> None:
        """Delete a file everywhere; one that is not there is no error. A store that is away is told once it is back.

        Raises `UnavailableError` when no store answers; then nothing was deleted.
        """
        check_key(key)
        away = [each.name for each in self.endpoints if await self._delete_at(each, key) is _AWAY]
        if len(away) == len(self.endpoints):
            raise UnavailableError("no store of files answers; try again")
        if away:
            await self.journal.note(key, Repair("delete", tuple(away)))

    async def _delete_at(self, endpoint: Endpoint, key: str) -> object:
        async def remove() -> None:
            with suppress(NotFoundError, FileNotFoundError):
                await obstore.delete_async(endpoint.store, key)

        return await self._try(endpoint, remove)

    # Links ------------------------------------------------------------------------------------------------------------

    def link(self, key: str, *, expires_s: int = 3600, disposition: str = "", method: str = "GET") -> str:
        """A link that is good for `expires_s` seconds, at the first store of the chain; nobody is asked for it.

        `disposition`: under which name a browser saves the file. Raises `RequestError` for a time or key that cannot be.
        """
        check_key(key)
        if not 1 <= expires_s <= EXPIRES_S_MAX:
            raise RequestError(f"a link is good for 1 to {EXPIRES_S_MAX} seconds, not {expires_s}")
        wall_ms = self._clock.wall_ms()
        signer = self.endpoints[0].signer
        if signer is not None:
            value = f"attachment; filename*=UTF-8''{quote(disposition)}"
            query = {"response-content-disposition": value} if disposition else None
            return signer.presign(method, key, expires_s=expires_s, wall_ms=wall_ms, query=query)
        if self.links is None:
            raise ConfigError("files: links into a folder need link_secrets")
        return self.links.sign(method, key, expires_s=expires_s, wall_ms=wall_ms, disposition=disposition)

    def upload_form(
        self, *, kind: str, content_type: str, extension: str, bytes_max: int, expires_s: int = 600
    ) -> tuple[str, dict[str, str]]:
        """Where, and with which fields, a browser uploads one file straight to the first store; the key is among them.

        What is uploaded so was seen by nobody: look at it with `check_uploaded` before it is believed.
        Raises `RequestError` where the first store is a folder.
        """
        signer = self.endpoints[0].signer
        if signer is None:
            raise RequestError("a folder takes no forms; save the file through the app")
        wall_ms = self._clock.wall_ms()
        key = new_key(kind, extension, wall_ms, secrets.randbits(74))
        fields = signer.post_policy(
            key, expires_s=expires_s, wall_ms=wall_ms, content_type=content_type, bytes_max=bytes_max
        )
        return signer.url, fields

    async def check_uploaded(self, key: str, allowed: tuple[str, ...] = ()) -> StoredFile:
        """What a browser uploaded by a form or a link; deleted, with `RequestError`, if its first bytes are not allowed."""
        saved = await self.stat(key)
        head = b""
        async for piece in self.stream(key, start=0, end=min(HEAD_BYTES, max(saved.size_bytes, 1))):
            head += piece
        try:
            check_allowed(sniff(head), allowed)
        except RequestError:
            await self.delete(key)
            raise
        return saved

    # Uploads in parts -------------------------------------------------------------------------------------------------

    async def put_part(self, upload: str, number: int, data: bytes) -> None:
        """One part of a large file, from 1; sent again, it is replaced. Any instance takes any part.

        `upload` is drawn by `secrets.token_hex(16)` and known to its owner only. Raises as `save` does.
        """
        if not 1 <= number <= PARTS_MAX or len(data) > PART_BYTES_MAX:
            raise RequestError(f"a part has a number from 1 to {PARTS_MAX} and at most {PART_BYTES_MAX} bytes")
        path = _part(upload, number)
        for endpoint in self.endpoints:

            async def put(endpoint: Endpoint = endpoint) -> None:
                await obstore.put_async(endpoint.store, path, data)

            if await self._try(endpoint, put) is not _AWAY:
                return
        raise UnavailableError("no store of files took it; try again")

    async def parts(self, upload: str) -> dict[int, int]:
        """Which parts are there, with their sizes: where to go on. Raises `UnavailableError`."""
        found: dict[int, int] = {}
        for endpoint in self.endpoints:

            async def look(endpoint: Endpoint = endpoint) -> list[Any]:
                listed: list[Any] = []
                async for page in obstore.list(endpoint.store, prefix=f"{_UPLOADS}/{_upload(upload)}"):
                    listed += page
                return listed

            result = await self._try(endpoint, look)
            if result is _AWAY:
                if len(self.endpoints) == 1:
                    raise UnavailableError("no store of files answers; try again")
                continue
            for each in result:  # type: ignore[attr-defined]
                found.setdefault(int(each["path"].rpartition("/")[2]), each["size"])
        return found

    async def finish_upload(
        self, upload: str, *, kind: str, name: str = "", allowed: tuple[str, ...] = ()
    ) -> StoredFile:
        """The parts, from 1 without a gap, as one file; they are gone after that. Raises as `save` does."""
        numbers = sorted(await self.parts(upload))
        if not numbers or numbers != list(range(1, len(numbers) + 1)):
            raise RequestError("the upload is not whole: its parts are to be numbered from 1 without a gap")

        async def pieces() -> AsyncIterator[bytes]:
            for number in numbers:
                yield await self._read_part(_part(upload, number))

        saved = await self.save(pieces(), kind=kind, name=name, allowed=allowed)
        await self.abort_upload(upload)
        return saved

    async def abort_upload(self, upload: str) -> None:
        """Forget the parts, wherever a store answers."""
        for number in await self.parts(upload):
            for endpoint in self.endpoints:
                await self._delete_at(endpoint, _part(upload, number))

    async def _read_part(self, path: str) -> bytes:
        for endpoint in self.endpoints:

            async def get(endpoint: Endpoint = endpoint) -> bytes | None:
                with suppress(NotFoundError, FileNotFoundError):
                    return bytes(await (await obstore.get_async(endpoint.store, path)).bytes_async())
                return None

            result = await self._try(endpoint, get)
            if isinstance(result, bytes):
                return result
        raise UnavailableError("a part of the upload cannot be read; try again")

    # Repairs ----------------------------------------------------------------------------------------------------------

    async def repair(self) -> int:
        """Copy, or delete, what waits for it, as far as its stores answer; how many files are mended. Raises
        `UnavailableError` when the journal does not answer."""
        mended = 0
        for key, repair in (await self.journal.some()).items():
            done = [await self._mend(key, repair, each) for each in self.endpoints if each.name in repair.at]
            if all(done):
                await self.journal.done(key, repair)
                mended += 1
        if mended:
            log.info("files_repaired", extra={"count": mended})
        return mended

    async def keep_repaired(self) -> None:
        """Until cancelled: one of all instances repairs what there is."""

        async def work(_: Lease) -> None:
            while True:
                with suppress(NoctuleError):
                    await self.repair()
                await asyncio.sleep(REPAIR_S)

        await Locks(self._redis).lead("files:repairs", work)

    async def _mend(self, key: str, repair: Repair, endpoint: Endpoint) -> bool:
        if repair.op == "delete":
            return await self._delete_at(endpoint, key) is not _AWAY
        try:
            source, result = await self._open(key)
        except FileNotFoundInStoreError:
            return True  # Deleted meanwhile.
        except UnavailableError:
            return False
        if source.name == endpoint.name:
            return True
        saved = _stored(key, source, result)
        attributes = {"Content-Type": saved.content_type, "Cache-Control": "private"}
        attributes |= {"sha256": saved.sha256, "name": quote(saved.name)}

        async def copy() -> None:
            options: dict[str, Any] = {} if endpoint.is_local else {"attributes": attributes}
            await obstore.put_async(endpoint.store, key, result.stream(min_chunk_size=5 * 1024 * 1024), **options)

        return await self._try(endpoint, copy) is not _AWAY

    async def _try(self, endpoint: Endpoint, operation: Callable[[], Awaitable[T]]) -> T | "_Away":
        """What it gave, or `_AWAY`; a store that failed several times is not asked for a while."""
        breaker = self._breakers[endpoint.name]
        permit = breaker.ask(self._clock.now())
        if permit is None:
            return _AWAY
        is_ok = False
        try:
            result = await operation()
            is_ok = True
            return result
        except (BaseError, OSError) as error:
            log.warning("file_store_away", extra={"endpoint": endpoint.name, "reason": type(error).__name__})
            return _AWAY
        finally:
            breaker.end(permit, is_ok, self._clock.now())

    async def aclose(self) -> None:
        """Close the journal's client if this object made it."""
        if self._owns_store:
            await self._redis.aclose()


class _Away:
    pass


_AWAY = _Away()

READ_BYTES_MAX = 16 * 1024 * 1024
"""What `read` takes into memory."""


async def _pieces(data: bytes | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    async for piece in data:
        yield piece


def _stored(key: str, endpoint: Endpoint, result: Any) -> StoredFile:
    if endpoint.is_local:
        # A folder keeps no metadata: the extension was given by what the file is.
        return StoredFile(
            key, type_of_extension(key.rpartition("/")[2].partition(".")[2]).name, result.meta["size"], ""
        )
    attributes = {str(name).lower(): str(value) for name, value in result.attributes.items()}
    return StoredFile(
        key,
        attributes.get("content-type") or BYTES.name,
        result.meta["size"],
        attributes.get("sha256", ""),
        unquote(attributes.get("name", "")),
    )


def _upload(upload: str) -> str:
    if len(upload) != 32 or not all(each in "0123456789abcdef" for each in upload):
        raise RequestError("an upload is named by 32 hexadecimal digits")
    return upload


def _part(upload: str, number: int) -> str:
    return f"{_UPLOADS}/{_upload(upload)}/{number:05d}"
