"""Stores in order: who is asked first, who is not asked for a while, and what becomes of a read that breaks off.

Each store has a circuit breaker of its own. That a file is not there says nothing against a store; everything else that
goes wrong does, also a refused key, for the next store may take what this one does not.
"""

import asyncio
import logging
import random
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import BaseError, GenericError

from noctule.base.clock import Clock
from noctule.base.errors import RequestError, UnavailableError
from noctule.core.balance.breaker import Breaker, BreakerPolicy, BreakerState
from noctule.kits.files.content import BYTES, type_of_extension
from noctule.kits.files.endpoints import Endpoint
from noctule.kits.files.keys import extension_of

if TYPE_CHECKING:  # obstore has these for type checkers only.
    from obstore import GetOptions, GetResult

T = TypeVar("T")

ANSWER_S_MAX = 10.0
"""For the beginning of an answer, and for each piece after it."""
BYTES_PER_S_MIN = 256 * 1024
"""A store that takes a file more slowly is away; on top of `ANSWER_S_MAX`."""
PIECE_BYTES = 256 * 1024
BREAKER = BreakerPolicy(calls_min=3, open_s=1.0, open_s_max=10.0, probes_good=1, probe_lease_s=60.0)
"""Short: a store that is back is wanted back, and a refused connection costs little."""

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
    etag: str = ""
    """As HTTP has it; differs between stores."""


@dataclass(frozen=True, slots=True)
class EndpointPicture:
    """One store of a chain at one moment."""

    name: str
    state: BreakerState
    calls: int
    """Since the beginning, as the next two."""
    failures: int
    refused: int
    """Calls that were not made while the breaker was open."""


class FileNotFoundInStoreError(RequestError):
    """No store of the chain has the file."""

    code = "not_found"


class EndpointAwayError(UnavailableError):
    """One store did not do what it was asked, or is not asked for a while."""


class Chain:
    """The stores of one `FileStore`."""

    def __init__(self, endpoints: Sequence[Endpoint], clock: Clock, chance: random.Random) -> None:
        self.endpoints = tuple(endpoints)
        self._clock = clock
        self._breakers = {each.name: Breaker(BREAKER, chance) for each in endpoints}
        self._calls: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()

    def is_away(self, endpoint: Endpoint) -> bool:
        """Whether it would not be asked now; looking changes nothing."""
        picture = self._breakers[endpoint.name].describe(self._clock.now())
        return picture.state is not BreakerState.CLOSED and picture.retry_after_s > 0

    def preferred(self) -> Endpoint:
        """The first store that is not away; the first of all when all are."""
        return next((each for each in self.endpoints if not self.is_away(each)), self.endpoints[0])

    def describe(self) -> tuple[EndpointPicture, ...]:
        """How each store does."""
        now = self._clock.now()
        pictures = [(each.name, self._breakers[each.name].describe(now)) for each in self.endpoints]
        return tuple(
            EndpointPicture(name, picture.state, self._calls[name], self._failures[name], picture.refused)
            for name, picture in pictures
        )

    async def attempt(
        self, endpoint: Endpoint, operation: Callable[[], Awaitable[T]], timeout_s: float = ANSWER_S_MAX
    ) -> T:
        """What the operation gave, asked of one store. Raises `EndpointAwayError` for all that goes wrong there."""
        breaker = self._breakers[endpoint.name]
        permit = breaker.ask(self._clock.now())
        if permit is None:
            raise EndpointAwayError("a store of files is away")
        self._calls[endpoint.name] += 1
        try:
            async with asyncio.timeout(timeout_s):
                result = await operation()
        except (BaseError, OSError, NotImplementedError) as error:
            breaker.end(permit, False, self._clock.now())
            self.failed(endpoint, error)
            # The store's own words may hold addresses and names of keys.
            raise EndpointAwayError("a store of files is away") from None
        except BaseException:
            breaker.give_up(permit)
            raise
        breaker.end(permit, True, self._clock.now())
        return result

    def failed(self, endpoint: Endpoint, error: Exception) -> None:
        """Count and log that a store did not do what it was asked."""
        self._failures[endpoint.name] += 1
        log.warning("file_store_away", extra={"endpoint": endpoint.name, "reason": type(error).__name__})

    async def put(self, endpoint: Endpoint, saved: StoredFile, body: bytes | Path) -> None:
        """Save a file there, whole or not at all. Raises `EndpointAwayError`."""
        attributes = {"Content-Type": saved.content_type, "Cache-Control": "private"}
        attributes |= {"sha256": saved.sha256, "name": urlsafe_b64encode(saved.name.encode()).decode()}

        async def put() -> None:
            if endpoint.is_local:
                await obstore.put_async(endpoint.store, saved.key, body)
            else:
                await obstore.put_async(endpoint.store, saved.key, body, attributes=attributes)

        await self.attempt(endpoint, put, ANSWER_S_MAX + saved.size_bytes / BYTES_PER_S_MIN)

    async def remove(self, endpoint: Endpoint, path: str) -> None:
        """Delete what is there, if it is. Raises `EndpointAwayError`."""

        async def remove() -> None:
            try:
                await obstore.delete_async(endpoint.store, path)
            except FileNotFoundError:
                pass

        await self.attempt(endpoint, remove)

    async def get(
        self, endpoint: Endpoint, path: str, *, head: bool = False, span: tuple[int, int] | None = None
    ) -> "GetResult | None":
        """The beginning of a file, or None where it is not; a store without ranges gives more than the `span`."""

        async def get() -> "GetResult | None":
            options: GetOptions = {"head": True} if head else {"range": span} if span else {}
            try:
                return await obstore.get_async(endpoint.store, path, options=options)
            except FileNotFoundError:
                return None
            except GenericError as error:
                if span is None or "non-partial" not in str(error):
                    raise
                return await obstore.get_async(endpoint.store, path)

        return await self.attempt(endpoint, get)

    async def open(
        self, path: str, *, head: bool = False, span: tuple[int, int] | None = None, skip: Collection[str] = ()
    ) -> "tuple[Endpoint, GetResult]":
        """The beginning of a file at the first store that has it, but none of `skip`.

        Raises `FileNotFoundInStoreError` when all others say that they do not have it, else `UnavailableError`.
        """
        is_away = False
        for endpoint in self.endpoints:
            if endpoint.name in skip:
                continue
            try:
                result = await self.get(endpoint, path, head=head, span=span)
            except EndpointAwayError:
                is_away = True
                continue
            if result is not None:
                return endpoint, result
        if is_away:
            raise UnavailableError("the store that may have the file does not answer; try again")
        raise FileNotFoundInStoreError("there is no such file")

    async def pieces(
        self, path: str, start: int, end: int, opened: "tuple[Endpoint, GetResult] | None" = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to before `end`; what breaks off at one store is gone on with at the others.

        `opened`: where it begins, if that is known. Raises as `open` does, between any two pieces.
        """
        failed: set[str] = set()
        while start < end:
            endpoint, result = opened or await self.open(path, span=(start, end), skip=failed)
            opened = None
            failed.add(endpoint.name)
            try:
                async for piece in _cut(result, start, end):
                    start += len(piece)
                    yield piece
            except (BaseError, OSError) as error:
                self.failed(endpoint, error)
            if start < end and len(failed) == len(self.endpoints):
                raise UnavailableError("reading the file broke off; try again")


async def _cut(result: "GetResult", start: int, end: int) -> AsyncGenerator[bytes, None]:
    """What lies between the two, of an answer that may hold more."""
    at = result.range[0]
    stream = result.stream(min_chunk_size=PIECE_BYTES)
    while at < end:
        async with asyncio.timeout(ANSWER_S_MAX):
            piece = bytes(await anext(stream, b""))
        if not piece:
            return
        wanted = piece[max(start - at, 0) : end - at]
        at += len(piece)
        if wanted:
            yield wanted


def stored_file(key: str, endpoint: Endpoint, result: "GetResult") -> StoredFile:
    """What a store tells of a file; of a folder the extension tells the type, as it was given by what the file is."""
    size, etag = result.meta["size"], result.meta["e_tag"] or ""
    if endpoint.is_local:
        return StoredFile(key, type_of_extension(extension_of(key)).name, size, "", "", etag)
    attributes = {str(name).lower(): str(value) for name, value in result.attributes.items()}
    content_type = attributes.get("content-type") or BYTES.name
    return StoredFile(key, content_type, size, attributes.get("sha256", ""), _name_of(attributes), etag)


def _name_of(attributes: dict[str, str]) -> str:
    try:
        return urlsafe_b64decode(attributes.get("name", "")).decode()
    except ValueError:  # Somebody else's; a store that is lax about headers keeps what an uploader says.
        return ""
