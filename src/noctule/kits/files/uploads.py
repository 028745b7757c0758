"""Uploads in parts, which go on after a broken connection, on any instance.

    upload = files.uploads.begin()
    await files.uploads.put(upload, 1, first_8_mib)
    await files.uploads.parts(upload)                       # {1: 8388608}: go on with 2
    saved = await files.uploads.finish(upload, kind="videos")

Parts are files of the stores below ``_uploads/``, so no instance has anything that another lacks. The name of the
upload becomes that of the file: finishing twice, as after a lost answer, gives the same file.
"""

import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime

import msgspec
import obstore

from noctule.base.clock import Clock
from noctule.base.errors import RequestError, UnavailableError
from noctule.kits.files.chain import Chain, EndpointAwayError, FileNotFoundInStoreError, StoredFile
from noctule.kits.files.content import BYTES, check_allowed
from noctule.kits.files.endpoints import Endpoint
from noctule.kits.files.keys import INCOMING, kind_of, uuid7

PART_BYTES = 8 * 1024 * 1024
"""Of each part but the last."""
UPLOAD_S_MAX = 24 * 3600
"""What is older and neither finished nor accepted is removed."""

_FOLDER = "_uploads"
_UPLOAD = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Save = Callable[[AsyncIterator[bytes], str, str, tuple[str, ...], str, str], Awaitable[StoredFile]]
"""Pieces, kind, name, allowed types, upload and SHA-256 to a saved file: `FileStore` does it."""

log = logging.getLogger("noctule.kits.files")


class Uploads:
    """The uploads of one `FileStore`; who may put parts to which upload is for the app to know."""

    def __init__(self, chain: Chain, save: Save, bytes_max: int, part_bytes: int, clock: Clock) -> None:
        self._chain = chain
        self._save = save
        self._clock = clock
        self.part_bytes = part_bytes
        self.parts_max = max(1, -(-bytes_max // part_bytes))

    def begin(self) -> str:
        """A name for a new upload, to be known to its owner only; nothing is stored yet."""
        return str(uuid7(self._clock.wall_ms(), secrets.randbits(74)))

    async def put(self, upload: str, number: int, data: bytes) -> None:
        """Save one part, from 1; all have `part_bytes` bytes but the last, which may have fewer.

        It may be sent again, and must be the same then. Raises `RequestError`, or `UnavailableError` when no store took
        it.
        """
        if not 1 <= number <= self.parts_max or not 1 <= len(data) <= self.part_bytes:
            raise RequestError(
                f"a part has a number from 1 to {self.parts_max} and 1 to {self.part_bytes} bytes, "
                f"not number {number} and {len(data)} bytes"
            )
        path = _part(upload, number)
        await self._put(StoredFile(path, BYTES.name, len(data), ""), data)

    async def parts(self, upload: str) -> dict[int, int]:
        """Which parts are there, with their bytes: where to go on. Raises `UnavailableError` when a store that may have
        more of them does not answer and there is a gap."""
        found, is_away = await self._look(upload)
        if is_away and not self._is_whole(found):
            raise UnavailableError("a store that may have parts of the upload does not answer; try again")
        return found

    async def finish(
        self, upload: str, *, kind: str, name: str = "", allowed: tuple[str, ...] = (), sha256: str = ""
    ) -> StoredFile:
        """The parts as one file; asked again within a day it gives the same file.

        `sha256`: of the whole, hexadecimal, if the client knows it. Raises `RequestError` for parts that are no whole
        file, or not that file, and as `FileStore.save` does; also when what it became is not what is asked for now.
        """
        done = await self._read(_done(upload))
        if done is not None:
            saved = msgspec.json.decode(done, type=StoredFile)
            check_allowed(saved.content_type, allowed)
            if kind_of(saved.key) != kind or sha256 not in ("", saved.sha256):
                raise RequestError("the upload is finished already, as another file")
            return saved
        found = await self.parts(upload)
        if not self._is_whole(found):
            raise RequestError(
                f"the upload is not whole: its parts are numbered from 1, each of {self.part_bytes} bytes but the last"
            )
        saved = await self._save(self._pieces(upload, sorted(found)), kind, name, allowed, upload, sha256)
        encoded = msgspec.json.encode(saved)
        await self._put(StoredFile(_done(upload), BYTES.name, len(encoded), ""), encoded)
        await self._remove([_part(upload, number) for number in found])
        return saved

    async def abort(self, upload: str) -> None:
        """Forget the parts; those on a store that is away are removed when they are a day old."""
        found, _ = await self._look(upload)
        await self._remove([_part(upload, number) for number in found])

    async def sweep(self) -> int:
        """Remove what is older than `UPLOAD_S_MAX` of uploads that nobody finished or accepted, and notes of those that
        were; how many objects that were."""
        before = datetime.fromtimestamp(self._clock.wall_ms() / 1000 - UPLOAD_S_MAX, UTC)
        old: list[str] = []
        for endpoint in self._chain.endpoints:
            try:
                listed = [await self._list(endpoint, folder) for folder in (_FOLDER, INCOMING)]
            except EndpointAwayError:
                continue
            old += [path for each in listed for path, (_, modified) in each.items() if modified < before]
        await self._remove(old)
        if old:
            log.info("uploads_swept", extra={"count": len(old)})
        return len(old)

    # Inside -----------------------------------------------------------------------------------------------------------

    def _is_whole(self, found: dict[int, int]) -> bool:
        numbers = sorted(found)
        return numbers == list(range(1, len(numbers) + 1)) != [] and all(
            found[number] == self.part_bytes for number in numbers[:-1]
        )

    async def _pieces(self, upload: str, numbers: list[int]) -> AsyncIterator[bytes]:
        for number in numbers:
            part = await self._read(_part(upload, number))
            if part is None:
                raise UnavailableError("a part of the upload cannot be read; try again")
            yield part

    async def _look(self, upload: str) -> tuple[dict[int, int], bool]:
        """The parts by number, and whether a store did not answer."""
        found: dict[int, int] = {}
        is_away = False
        for endpoint in self._chain.endpoints:
            try:
                listed = await self._list(endpoint, f"{_FOLDER}/{_checked(upload)}")
            except EndpointAwayError:
                is_away = True
                continue
            for path, (size, _) in listed.items():
                number = path.rpartition("/")[2]
                if number.isdigit():
                    found.setdefault(int(number), size)
        return found, is_away

    async def _list(self, endpoint: Endpoint, prefix: str) -> dict[str, tuple[int, datetime]]:
        """Size and time by path."""

        async def look() -> dict[str, tuple[int, datetime]]:
            found = {}
            async for page in obstore.list(endpoint.store, prefix=prefix):
                found.update({each["path"]: (each["size"], each["last_modified"]) for each in page})
            return found

        return await self._chain.attempt(endpoint, look)

    async def _put(self, saved: StoredFile, data: bytes) -> None:
        for endpoint in self._chain.endpoints:
            try:
                await self._chain.put(endpoint, saved, data)
                return
            except EndpointAwayError:
                continue
        raise UnavailableError("no store of files took it; try again")

    async def _read(self, path: str) -> bytes | None:
        """None where nobody who answers has it."""
        try:
            endpoint, result = await self._chain.open(path)
        except (FileNotFoundInStoreError, UnavailableError):
            return None
        pieces = self._chain.pieces(path, 0, result.meta["size"], (endpoint, result))
        return b"".join([piece async for piece in pieces])

    async def _remove(self, paths: Sequence[str]) -> None:
        for endpoint in self._chain.endpoints:
            for path in paths:
                try:
                    await self._chain.remove(endpoint, path)
                except EndpointAwayError:
                    break


def _checked(upload: str) -> str:
    if not _UPLOAD.fullmatch(upload):
        raise RequestError("an upload is named as begin() does")
    return upload


def _part(upload: str, number: int) -> str:
    return f"{_FOLDER}/{_checked(upload)}/{number:05d}"


def _done(upload: str) -> str:
    return f"{_FOLDER}/{_checked(upload)}/done"
