"""The state of the *meta* group: the objects of the cluster, the registry among them, and ordinary keys beside them.

One command, ``NOCTULE.META``, changes the objects; every other one is the keyspace's, which is kept from reaching
them. Applying is a pure function as everywhere: replicas that apply the same entries hold the same objects.
Read operations.py for what can be asked, objects.py for what can be read.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from noctule.base.errors import RequestError, StorageError
from noctule.core.keyspace.commands import find_command
from noctule.core.keyspace.keyspace import MUST_LOG, ReadOutcome
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.meta import map_operations, operations, registry_operations, roster_operations
from noctule.core.meta.objects import Objects
from noctule.core.meta.operations import COMMAND, REFUSED, Answer, decode_operation, encode_answer
from noctule.core.meta.records import is_reserved, record_count

RESERVED = Failure(b"ERR keys with this prefix belong to the cluster itself")
NO_FLUSH = Failure(b"ERR the meta group is not flushed")


class MetaState(Objects):
    """What every node knows of the cluster, as far as its replica of *meta* has applied the log."""

    def execute(self, args: Sequence[bytes], now_ms: int) -> Reply:
        """Apply an operation, or a command to the ordinary keys, at the leader's time in unix ms.

        An operation answers MessagePack (`operations.decode_answer`), or a `Failure` that begins with ``REFUSED``; then
        nothing has changed. One that this release cannot read is refused too: members that could are not asked for it
        before all of them can, by a feature.
        """
        if args[0] == COMMAND:
            return self._operate(args, now_ms)
        return self._fenced(args) or self._unreserved(args, super().execute(args, now_ms))

    def read(self, args: Sequence[bytes], now_ms: int) -> Reply | Literal[ReadOutcome.MUST_LOG]:
        """As of any keyspace; the objects are not among the keys. `COMMAND` alone answers the version."""
        if args[0] == COMMAND:
            return self.version if len(args) == 1 else MUST_LOG
        fenced = self._fenced(args)
        if fenced is not None:
            return fenced
        reply = super().read(args, now_ms)
        return reply if isinstance(reply, ReadOutcome) else self._unreserved(args, reply)

    def _operate(self, args: Sequence[bytes], now_ms: int) -> Reply:
        try:
            operation = decode_operation(args[1] if len(args) == 2 else b"")
            answer = _OPERATIONS[type(operation)](self, operation, now_ms)
        except (RequestError, StorageError) as error:
            return Failure(REFUSED + str(error).encode())
        counters = self.counters
        epoch, version = self.map.epoch, counters.version + 1
        self.set_counters(msgspec.structs.replace(counters, epoch=epoch, version=version))
        return encode_answer(answer, version)

    def _fenced(self, args: Sequence[bytes]) -> Failure | None:
        """Why a command cannot be done here, if it would reach the objects."""
        spec = find_command(args[0])
        if spec is None:
            return None
        if spec.first_key:
            return RESERVED if any(map(is_reserved, spec.keys(args))) else None
        return NO_FLUSH if spec.is_write else None

    def _unreserved(self, args: Sequence[bytes], reply: Reply) -> Reply:
        """The reply of a command without keys of its own, without what belongs to the objects."""
        spec = find_command(args[0])
        if spec is None or spec.first_key:
            return reply
        if spec.name == b"DBSIZE" and isinstance(reply, int):
            return reply - record_count(self)
        if spec.name == b"SCAN" and isinstance(reply, list) and isinstance(reply[1], list):
            return [reply[0], [key for key in reply[1] if not _is_reserved_reply(key)]]
        if spec.name == b"KEYS" and isinstance(reply, list):
            return [key for key in reply if not _is_reserved_reply(key)]
        return reply


def _is_reserved_reply(key: Reply) -> bool:
    return isinstance(key, bytes) and is_reserved(key)


# The operation's type belongs to its function, which a table of functions cannot tell the type checker.
_OPERATIONS: dict[type, Callable[[Objects, Any, int], Answer]] = {
    operations.Form: roster_operations.form,
    operations.Admit: roster_operations.admit,
    operations.UpdateMember: roster_operations.update_member,
    operations.SetMemberState: roster_operations.set_member_state,
    operations.CreateToken: roster_operations.create_token,
    operations.RevokeToken: roster_operations.revoke_token,
    operations.ChangeSettings: roster_operations.change_cluster_settings,
    operations.OpenFeature: roster_operations.open_feature,
    operations.BeginMigration: map_operations.begin_migration,
    operations.AdvanceMigration: map_operations.advance_migration,
    operations.BeginSplit: map_operations.begin_split,
    operations.FinishSplit: map_operations.finish_split,
    operations.AbortSplit: map_operations.abort_split,
    operations.BeginMerge: map_operations.begin_merge,
    operations.AdvanceMerge: map_operations.advance_merge,
    operations.PreferLeader: map_operations.prefer_leader,
    operations.ReleaseReplica: map_operations.release_replica,
    operations.ChangeRegistry: registry_operations.change_registry,
}
