"""The whole state of a replica as chunks, and back: each is made and read by itself, and none needs the others at hand.

The first chunk is the membership, which is Raft's. Then come the stamp and the client sessions, in as many chunks as
they fill, and then the keyspace (`core.keyspace.snapshot`). A chunk is full at the size that is asked for; one value
may make it larger.
"""

from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec import Struct

from noctule.base.errors import StorageError
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.snapshot import KeyspacePicture, Loading
from noctule.core.raft.membership import Membership, decode_membership, encode_membership
from noctule.core.replica.client_sessions import ClientSessions, DumpedSession, SessionsPicture

_SESSION_COST_BYTES = 32


class _Header(Struct, frozen=True, array_like=True, gc=False):
    """The stamp of the newest entry applied, how many sessions were ever opened, and some of those remembered."""

    stamp_ms: int
    opened: int
    sessions: list[DumpedSession]
    is_last: bool


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Header)


def state_chunks(
    membership: Membership, stamp_ms: int, sessions: SessionsPicture, keyspace: KeyspacePicture, bytes_target: int
) -> Iterator[bytes]:
    """The chunks in order, each made when it is asked for; equal states make equal chunks."""
    yield encode_membership(membership)
    size = 0
    dumped: list[DumpedSession] = []
    for session in sessions.dump():
        if size >= bytes_target:
            yield _encoder.encode(_Header(stamp_ms, sessions.opened, dumped, False))
            size, dumped = 0, []
        dumped.append(session)
        size += _SESSION_COST_BYTES + sum(map(len, session[3].values()))
    yield _encoder.encode(_Header(stamp_ms, sessions.opened, dumped, True))
    yield from keyspace.chunks(bytes_target)


class StagedState:
    """A state that is read chunk by chunk, until all of it is there and may take the place of another.

    Every method raises `StorageError` when the chunks are not those of one state, whole and in order; it is of no use
    then.
    """

    def __init__(self, kind: type[Keyspace]) -> None:
        self.keyspace = kind()
        self.sessions = ClientSessions()
        self.stamp_ms = 0
        self._loading = Loading(self.keyspace)
        self._take: Callable[[bytes], None] = self._take_membership

    @classmethod
    def of(cls, chunks: Iterable[bytes], kind: type[Keyspace]) -> "StagedState":
        """All of the chunks of a state whose keyspace is of that kind."""
        staged = cls(kind)
        for chunk in chunks:
            staged.take(chunk)
        staged.finish()
        return staged

    def take(self, chunk: bytes) -> None:
        """The next chunk."""
        self._take(chunk)

    def finish(self) -> None:
        """There are no more."""
        self._loading.finish()
        self.keyspace.loaded()

    def _take_membership(self, chunk: bytes) -> None:
        decode_membership(chunk)  # It is Raft's, but must be there.
        self._take = self._take_header

    def _take_header(self, chunk: bytes) -> None:
        try:
            header = _decoder.decode(chunk)
            self.stamp_ms = header.stamp_ms
            self.sessions.restore(header.opened, header.sessions)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise StorageError(f"the header of a snapshot cannot be read: {error}") from error
        if header.is_last:
            self._take = self._loading.take
