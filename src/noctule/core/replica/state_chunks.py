"""The whole state of a replica as chunks, and back: each is made and read by itself, and none needs the others at hand.

The first chunk is the membership, which is Raft's. Then come the stamp, the client sessions and the territory, in as
many chunks as they fill, then the staged chunks of a merge, and then the keyspace (`core.keyspace.snapshot`). A chunk
is full at the size that is asked for; one value may make it larger.
"""

from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec import Struct

from noctule.base.errors import StorageError
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.snapshot import KeyspacePicture, Loading
from noctule.core.keyspace.staging import ShapePicture, Staging
from noctule.core.keyspace.territory import Territory
from noctule.core.raft.membership import Membership, decode_membership, encode_membership
from noctule.core.replica.client_sessions import ClientSessions, DumpedSession, SessionsPicture

_SESSION_COST_BYTES = 32


class _Header(Struct, frozen=True, array_like=True, gc=False):
    """The stamp of the newest entry applied, how many sessions were ever opened, and some of those remembered."""

    stamp_ms: int
    opened: int
    sessions: list[DumpedSession]
    is_last: bool
    territory: Territory | None = None
    staged_id: int = 0
    staged_count: int = 0
    """In the last of them: the slots held, and how many chunks of which merge follow, before those of the keyspace."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Header)


def state_chunks(
    membership: Membership,
    stamp_ms: int,
    sessions: SessionsPicture,
    shape: ShapePicture,
    keyspace: KeyspacePicture,
    bytes_target: int,
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
    staged = shape.staged
    held = (shape.territory, shape.staged_id, len(staged))
    yield _encoder.encode(_Header(stamp_ms, sessions.opened, dumped, True, *held))
    yield from staged
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
        self._staged_count = 0

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
        staging = self.keyspace.staging
        if staging is not None and len(staging.chunks) != self._staged_count:
            raise StorageError("a snapshot lacks chunks that are staged")
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
            self.keyspace.hold(header.territory)
            self._staged_count = header.staged_count
            if header.staged_id:
                self.keyspace.staging = Staging(header.staged_id, type(self.keyspace)())
            self._take = self._take_staged

    def _take_staged(self, chunk: bytes) -> None:
        staging = self.keyspace.staging
        if staging is not None and len(staging.chunks) < self._staged_count:
            staging.take(chunk)
        else:
            self._take = self._loading.take
            self._take(chunk)
