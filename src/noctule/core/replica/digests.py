"""Digests of a replica's state at an index, a slice at a time.

A digest is taken of the state's chunks, so two replicas that made it at the same entry can be compared, whatever each
has applied meanwhile.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Final, NamedTuple

from noctule.core.replica.events import DigestReady

DIGEST: Final = b"NOCTULE.DIGEST"
"""The command by which the log says at which entry."""
DIGEST_CHUNK_BYTES: Final = 128 * 1024
"""How much of the state is digested in one slice: 2 to 3 ms of values of 100 bytes. Equal on all replicas."""
DIGESTS_MAX: Final = 2
"""Digests in progress at a time, each of which holds what the state has changed since; the oldest one is given up."""


class _Digest(NamedTuple):
    nonce: bytes
    at: int
    chunks: Iterator[bytes]
    hasher: blake2b


class Digests:
    """Those in progress on one replica, the first one first."""

    __slots__ = ("_digests",)

    def __init__(self) -> None:
        self._digests: list[_Digest] = []

    def __bool__(self) -> bool:
        return bool(self._digests)

    def begin(self, nonce: bytes, index: int, chunks: Iterator[bytes]) -> None:
        """The chunks are the state's at `index`, in pieces of `DIGEST_CHUNK_BYTES`."""
        del self._digests[: len(self._digests) + 1 - DIGESTS_MAX]
        self._digests.append(_Digest(nonce, index, chunks, blake2b(digest_size=16)))

    def work(self) -> list[DigestReady]:
        """Digest one chunk; what is ready by it."""
        if not self._digests:
            return []
        first = self._digests[0]
        chunk = next(first.chunks, None)
        if chunk is None:
            del self._digests[0]
            return [DigestReady(first.nonce, first.at, first.hasher.digest())]
        # The length too: else the same bytes in other chunks would look the same.
        first.hasher.update(len(chunk).to_bytes(8, "big"))
        first.hasher.update(chunk)
        return []
