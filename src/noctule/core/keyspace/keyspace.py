"""The applied state of one partition: commands go in, replies come out, and replicas cannot diverge.

Everything is a function of the state, the command and the leader's time stamped into the log entry: no clock, no
chance, and no order that two replicas with the same data could see differently.

Expiry stands in one place, here. A key whose deadline has passed by the leader's stamp counts as absent; `execute`
removes such keys among those a command names before its handler runs, and `read` sends the command through the log
instead. So a key that one reader has seen expired can never come back after a failover to a leader with a slower clock.
"""

from binascii import crc_hqx
from collections.abc import Iterable, Sequence
from enum import Enum
from hashlib import blake2b
from typing import Final, Literal, Self

from noctule.core.keyspace.commands import KeyRead, find_command, unknown_command
from noctule.core.keyspace.failures import WRONG_TYPE, wrong_arity
from noctule.core.keyspace.merging import MERGING, bucket_problem
from noctule.core.keyspace.reply import MOVED, Reply
from noctule.core.keyspace.snapshot import KeyspacePicture, Loading
from noctule.core.keyspace.spec import CommandSpec, Scope
from noctule.core.keyspace.state import State
from noctule.core.keyspace.within import unwrapped
from noctule.core.placement.slots import BRACE, SLOT_MASK, key_slot


class ReadOutcome(Enum):
    """What `read` answers when it has no reply."""

    MUST_LOG = "must_log"
    """Send the command through the log and answer what `execute` replies."""


MUST_LOG: Final = ReadOutcome.MUST_LOG


class Keyspace(State):
    """The state with its commands. Owned by one replica; not to be shared between threads."""

    __slots__ = ()

    def execute(self, args: Sequence[bytes], now_ms: int) -> Reply:
        """Apply one command at the leader's time in unix ms and answer it; what the user did wrong is a `Failure`.

        `MOVED`, and nothing has changed, not even a key expired, when a key or slot of it is not of the territory that
        is held here, or when that is fenced. A command for all keys is `MOVED` there, too: its parts say which slots
        they are for (`within`).
        Replicas that execute the same commands with the same times in the same order hold the same data. Bounds
        on arguments are the router's to check before (`check_command`).
        """
        spec = find_command(args[0])
        if spec is None or spec.handler is None:
            return unknown_command(args)
        if spec.arity != len(args) and (spec.arity > 0 or len(args) < -spec.arity):
            return wrong_arity(args[0])
        if self.territory is not None:
            if spec.has_one_key and BRACE not in args[1]:  # Nearly always; here it costs a third of the call.
                if not self.first_slot <= crc_hqx(args[1], 0) & SLOT_MASK <= self.last_slot:
                    return MOVED
            elif self._is_moved(spec, args):
                return MOVED
        if self.deadlines:
            for key in self._expired_among(spec, args, now_ms):
                self.remove(key)
        # What is internal either is made of commands, which come here one by one, or gives no key a value.
        if self.buckets and spec.is_write and spec.handler not in MERGING and spec.scope is not Scope.INTERNAL:
            # RENAME needs no more memory, and yet puts a value where there may have been none.
            may_create = b"denyoom" in spec.flags or spec.last_key == 2
            problem = bucket_problem(self, spec.keys(args), may_create=may_create)
            if problem is not None:
                return problem
        return spec.handler(self, args, now_ms)

    def is_moved(self, args: Sequence[bytes]) -> bool:
        """Whether `execute` answers `MOVED`."""
        spec = find_command(args[0])
        return self.territory is not None and spec is not None and self._is_moved(spec, args)

    def _is_moved(self, spec: CommandSpec, args: Sequence[bytes]) -> bool:
        if spec.has_one_key:
            return not self.first_slot <= key_slot(args[1]) <= self.last_slot
        if keys := spec.keys(args):
            return any(not self.first_slot <= key_slot(key) <= self.last_slot for key in keys)
        if spec.scope is Scope.ALL:
            return True  # It means another "all" than there is here.
        part = unwrapped(list(args))
        return part is not None and not self.first_slot <= part[0] <= part[1] <= self.last_slot

    def read(self, args: Sequence[bytes], now_ms: int) -> Reply | Literal[ReadOutcome.MUST_LOG]:
        """Answer a read-only command and change nothing; `MOVED` as in `execute`.

        `ReadOutcome.MUST_LOG` when it names a key that has expired and is not purged yet, and for every write.
        """
        spec = find_command(args[0])
        if spec is None or spec.handler is None:
            return unknown_command(args)
        if spec.arity != len(args) and (spec.arity > 0 or len(args) < -spec.arity):
            return wrong_arity(args[0])
        if self.territory is not None:
            if spec.has_one_key and BRACE not in args[1]:  # Nearly always; here it costs a third of the call.
                if not self.first_slot <= crc_hqx(args[1], 0) & SLOT_MASK <= self.last_slot:
                    return MOVED
            elif self._is_moved(spec, args):
                return MOVED
        if spec.is_write or (self.deadlines and self._expired_among(spec, args, now_ms)):
            return MUST_LOG
        return spec.handler(self, args, now_ms)

    def read_key(
        self, row: KeyRead, slot: int, args: list[bytes], now_ms: int
    ) -> Reply | Literal[ReadOutcome.MUST_LOG]:
        """As `read`, of a checked command with one key, whose row and slot are known; MUST_LOG also for `MOVED`."""
        key = args[1]
        if self.territory is not None and not self.first_slot <= slot <= self.last_slot:
            return MUST_LOG
        if self.deadlines and (deadline := self.deadlines.get(key)) is not None and deadline <= now_ms:
            return MUST_LOG
        if row.is_get:  # As `strings.get`, which would have to find the slot again.
            values = self.slots.get(slot)
            value = None if values is None else values.get(key)
            return value if value is None or isinstance(value, bytes) else WRONG_TYPE
        return row.handler(self, args, now_ms)

    def picture(self) -> KeyspacePicture:
        """The data as it is now, untouched by later writes; costs the number of slots, not of keys."""
        return KeyspacePicture(*self.share(), self.buckets)

    @classmethod
    def load(cls, chunks: Iterable[bytes]) -> Self:
        """The keyspace that a picture's chunks tell of; `StorageError` when they are not whole and in order."""
        keyspace = cls()
        loading = Loading(keyspace)
        for chunk in chunks:
            loading.take(chunk)
        loading.finish()
        keyspace.loaded()
        return keyspace

    def loaded(self) -> None:
        """All keys have been put there by loading: make anew what a kind of keyspace keeps beside them.

        Raises `StorageError` when they cannot be those of such a keyspace.
        """

    def digest(self) -> bytes:
        """16 bytes that are equal for equal data, however it came about; nothing of the territory. Costs every key."""
        digest = blake2b(digest_size=16)
        for chunk in KeyspacePicture(self.slots, self.deadlines, self.buckets).chunks():
            digest.update(chunk)
        return digest.digest()

    def _expired_among(self, spec: CommandSpec, args: Sequence[bytes], now_ms: int) -> Sequence[bytes]:
        """Those of the command's keys that have expired, each once."""
        deadlines = self.deadlines
        if spec.has_one_key:
            deadline = deadlines.get(args[1])
            return () if deadline is None or deadline > now_ms else (args[1],)
        return [key for key in dict.fromkeys(spec.keys(args)) if key in deadlines and deadlines[key] <= now_ms]
