"""Raft and keyspace of one group behind one door.

The replica decides what becomes a log entry, applies what is committed, and answers. It knows nothing of sockets,
files or other groups. What Raft asks for goes out as it came, except what is the replica's own business: applying,
restoring, and telling whoever waits.

Here belongs what needs both the log and the state. What needs only one of them belongs in `raft` or `keyspace`.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from noctule.base.ensure import ensure
from noctule.base.ids import END_OF_TIME, META_GROUP, GroupId, Instant
from noctule.core.keyspace.container import Container
from noctule.core.keyspace.effects import EVAL_READ, TO_BE_EVALUATED
from noctule.core.keyspace.evaluation import evaluating, read_script
from noctule.core.keyspace.keyspace import Keyspace, ReadOutcome
from noctule.core.keyspace.reply import Reply
from noctule.core.keyspace.reshape import describe_territory, dump_fenced
from noctule.core.keyspace.scripting import ScriptEngine
from noctule.core.keyspace.staging import picture_shape
from noctule.core.keyspace.territory import Territory, TerritoryPicture
from noctule.core.raft import events as raft
from noctule.core.raft.membership import MARK, Membership, decode_membership
from noctule.core.raft.node import RaftNode, RaftPicture
from noctule.core.raft.staleness import staleness_s
from noctule.core.replica.batches import decode_entry, encode_batch, encode_entry
from noctule.core.replica.client_sessions import ClientSessions, Verdict
from noctule.core.replica.digests import DIGEST, DIGEST_CHUNK_BYTES, Digests
from noctule.core.replica.durability import ENTRIES_IN_FLIGHT_MAX as EARLY_ENTRIES_IN_FLIGHT_MAX
from noctule.core.replica.durability import Durability, EarlyAnswers
from noctule.core.replica.events import (
    Answer,
    Begin,
    ChildSaved,
    Effect,
    EndOfTurn,
    Event,
    Order,
    Publish,
    Query,
    Ready,
    Refuse,
    ReleaseParent,
    SplitOff,
    Submit,
    TakeDigest,
    Work,
    WriteSnapshot,
    WriteSnapshotNow,
)
from noctule.core.replica.family import Family, find_split
from noctule.core.replica.lag import Lag, lag_behind
from noctule.core.replica.scripts import choose_batches
from noctule.core.replica.state_chunks import StagedState, state_chunks

ENTRY_BYTES_TARGET = 1 << 20
"""Batches are gathered into one entry up to about this size."""
ENTRIES_IN_FLIGHT_MAX: Final = 1
"""Entries proposed and not yet applied; meanwhile batches gather, so a busy group makes fewer, larger entries."""
ROUNDS_IN_FLIGHT_MAX: Final = 1
"""Read rounds begun and not yet confirmed; meanwhile queries gather for the next one."""
WAITING_BYTES_MAX = 64 << 20
"""Batches that wait to be proposed; over it they are refused, to be sent again."""
PURGE_INTERVAL_MS: Final = 200
PURGE_KEYS_MAX: Final = 500
"""Expired keys purged by one logged command; reads purge what they meet at once."""


@dataclass(frozen=True)
class SnapshotPolicy:
    """When a replica writes a snapshot of its state."""

    entries: int = 20_000
    """Entries applied since the last one."""
    log_bytes: int = 64 << 20
    """Entry data in the log."""


@dataclass(frozen=True)
class ReplicaPicture:
    """What `describe()` shows of a replica."""

    raft: RaftPicture
    keys: int
    bytes_used: int
    stamp_ms: int
    territory: TerritoryPicture | None
    """None where every key is at home."""


class _LoggedQuery(NamedTuple):
    """A query that went into the log, where it is named by `number`. The leader's own purges have nobody to answer."""

    query: Query | None
    number: int
    has_scripts: bool = False


_Waiting: TypeAlias = tuple[int, bytes, Submit | _LoggedQuery]
"""Bytes, batch, whom to answer."""


class Replica:
    """One copy of one group on one node."""

    __slots__ = (
        "_awaited",
        "_digests",
        "_early",
        "_effects",
        "_engine",
        "_family",
        "_in_flight",
        "_led_term",
        "_left_behind",
        "_own_origin",
        "_own_sequence",
        "_policy",
        "_proposed_stamp_ms",
        "_purge_at",
        "_purge_at_ms",
        "_queries",
        "_ready",
        "_rounds",
        "_scripts_waiting",
        "_snapshot_for_space",
        "_snapshot_in_progress",
        "_snapshot_index",
        "_staged",
        "_waiting",
        "_waiting_bytes",
        "_wall_ms",
        "group",
        "has_work",
        "keyspace",
        "on_batch",
        "raft",
        "sessions",
        "stamp_ms",
        "wants_turn",
    )

    def __init__(
        self,
        group: GroupId,
        consensus: RaftNode,
        policy: SnapshotPolicy,
        chance: random.Random,
        keyspace: Keyspace | None = None,
        durability: Durability = Durability.QUORUM,
        *,
        slots: tuple[int, int] | None = None,
        engine: ScriptEngine | None = None,
    ) -> None:
        """`slots` are the first and last one with which the group began, for ever the same, whatever it holds by now:
        every replica that takes in the log from its beginning must begin alike. None where every key is at home, and
        where it makes no difference, since the state comes by a snapshot or from a parent.

        `engine` runs scripts while this replica leads; without one they are answered with an error.
        """
        self.group = group
        self.raft = consensus
        self.keyspace = Keyspace() if keyspace is None else keyspace
        if slots is not None:
            self.keyspace.hold(Territory(*slots))
        self.sessions = ClientSessions()
        self.stamp_ms = 0
        """The stamp of the newest entry applied."""
        self._policy = policy
        self._proposed_stamp_ms = 0
        self._waiting: list[_Waiting] = []
        """What the next entry will hold."""
        self._waiting_bytes = 0
        self._scripts_waiting = 0
        """How many of those hold scripts."""
        self._engine = engine
        self._awaited: dict[tuple[int, int], Submit | _LoggedQuery] = {}
        """By (origin, sequence) of what waits or was proposed: whom to answer when it is applied."""
        self._led_term = 0
        """The newest term that this replica has led in this life; 0 before it led any."""
        self._left_behind: frozenset[tuple[int, int]] = frozenset()
        """(origin, sequence) of what was proposed in that term and not applied when the leadership was lost."""
        self._queries: list[Query] = []
        self._rounds: dict[int, tuple[int, list[Query]]] = {}
        self._ready: list[tuple[int, Query]] = []
        """Confirmed queries, each with the entry that must be applied before it is answered."""
        self._early = EarlyAnswers() if durability is Durability.LEADER else None
        self._in_flight: list[int] = []
        self._own_sequence = chance.getrandbits(48)
        """For commands that this replica logs itself; begins at random, since an earlier life may have logged some."""
        self._own_origin = -consensus.node_id
        self._purge_at_ms = 0
        """By the wall clock, not before this."""
        self._purge_at = END_OF_TIME
        """While this replica leads: when the first key expires, which nobody else may be awake to notice."""
        self._snapshot_index = consensus.log.snapshot_index
        self._staged: StagedState | None = None
        """What has come of a snapshot, until it is complete and durable and takes the place of the state."""
        self._snapshot_in_progress = False
        self._snapshot_for_space = False
        self._family = Family()
        self._wall_ms = 0
        self._effects: list[Effect] = []
        self._digests = Digests()
        self.has_work = False
        """Whether something is put off until there is time between the turns (`Work`)."""
        self.on_batch: Callable[[list[list[bytes]], Instant], None] | None = None
        """Told of the commands of each batch and query, while somebody wants to know what is asked for here."""
        self.wants_turn = False
        """Whether the end of this turn has anything to do here; most messages of a busy group leave nothing to it."""

    # The four methods of a machine -----------------------------------------------------------------------------------

    def handle(self, event: Event, now: Instant) -> list[Effect]:
        """Take one event in; return what is to be done, in order."""
        own = _HANDLERS.get(type(event))
        if own is not None:
            own(self, event, now)
        else:
            if type(event) is raft.Tick:
                self.wants_turn = True
            elif type(event) is raft.SnapshotSaved:
                event = self._snapshot_saved(event)
            elif self._family.parent:
                self.wants_turn = True
            self._take(self.raft.handle(event, now))  # type: ignore[arg-type]
            if self._early is not None and type(event) is raft.Persisted:
                self._answer_early(self._early)
        self.has_work = self.raft.applied < self.raft.commit or bool(self._digests)
        effects, self._effects = self._effects, []
        if self._family.born:
            effects += self._family.born
            self._family.born = []
        return effects

    def next_deadline(self) -> Instant:
        """When the next `Tick` is due, Raft's or the one that purging rides on."""
        if self._purge_at is END_OF_TIME or not self.raft.is_leader():
            return self.raft.next_deadline()
        return min(self.raft.next_deadline(), self._purge_at)

    def check(self) -> None:
        """Raise `InternalError` when an invariant is broken."""
        self.raft.check()
        self.keyspace.check()
        ensure(self._waiting_bytes == sum(size for size, _, _ in self._waiting), "waiting bytes are counted")
        scripts = sum(request.has_scripts for _, _, request in self._waiting)
        ensure(self._scripts_waiting == scripts, "waiting scripts are counted", counted=scripts)
        ensure(self._led_term <= self.raft.term, "a term that was led is not ahead", led=self._led_term)

    def describe(self) -> ReplicaPicture:
        """A picture of this replica now."""
        keyspace = self.keyspace
        counts = (keyspace.key_count, keyspace.bytes_used, self.stamp_ms)
        return ReplicaPicture(self.raft.describe(), *counts, describe_territory(keyspace))

    def digest(self) -> bytes:
        """The same bytes on every replica that has applied the same entries."""
        shape = msgspec.msgpack.encode((self.stamp_ms, picture_shape(self.keyspace)))
        return self.keyspace.digest() + shape + self.sessions.digest_input()

    def lag(self, wall_ms: int) -> dict[int, Lag]:
        """On the leader how far each other member is behind; empty elsewhere. Costs what is behind, up to a bound."""
        leadership = self.raft.leadership
        if leadership is None:
            return {}
        log, state_bytes = self.raft.log, self.keyspace.bytes_used
        return {
            peer: lag_behind(log, progress.match, state_bytes=state_bytes, wall_ms=wall_ms)
            for peer, progress in leadership.progress.items()
        }

    def staleness_ms(self, now: Instant, asleep_heard_at: Instant | None = None) -> int | None:
        """How old what `read_local` answers may be, in whole ms rounded up; None when unknown. See `staleness_s`."""
        age_s = staleness_s(now, fresh_at=self.raft.fresh_at(now), asleep_heard_at=asleep_heard_at)
        return None if age_s is None else ceil(age_s * 1_000)

    def read_local(self, command: list[bytes], wall_ms: int) -> Reply | ReadOutcome:
        """A read of this replica's own state, however old; `MUST_LOG` where only the leader can decide."""
        return self._read(command, max(wall_ms, self.stamp_ms))

    def read_confirmed(
        self, term: int, membership: Membership, command: list[bytes], wall_ms: int
    ) -> Reply | ReadOutcome:
        """A linearizable read, once a majority of that membership has confirmed, since it came, that this replica
        leads in that term. `MUST_LOG` where the state here does not tell, or only the log can decide."""
        consensus = self.raft
        leadership = consensus.leadership
        if leadership is None or consensus.term != term or consensus.log.membership is not membership:
            return ReadOutcome.MUST_LOG
        if consensus.applied < consensus.commit or not leadership.has_caught_up() or self._early is not None:
            return ReadOutcome.MUST_LOG
        return self._read(command, max(wall_ms, self.stamp_ms))

    def _read(self, command: list[bytes], now_ms: int) -> Reply | ReadOutcome:
        if command[0] == EVAL_READ:
            return read_script(self.keyspace, self._engine, command, now_ms)
        return self.keyspace.read(command, now_ms)

    # Splits and merges -----------------------------------------------------------------------------------------------

    def dump_chunks(self, merge: int) -> Iterator[bytes]:
        """What this replica holds, for its left neighbour, as `dump_fenced` does."""
        return dump_fenced(self.keyspace, merge)

    def may_split_off(self, child: GroupId) -> bool:
        """Whether this replica might split the child off after a restart, for the first time or once more.

        While so, a replica of the child must not be forgotten here: it would come back without what it has promised.
        A snapshot of this one, `WriteSnapshotNow`, ends it, once the split is applied.
        """
        return find_split(self.raft.log, self._family.saved_index, child) > 0

    @property
    def waiting_parent(self) -> GroupId:
        """The group that waits, if it is here, for this replica's first snapshot; 0 when none does."""
        return self._family.parent

    def become_child(self, effect: SplitOff, parent: GroupId) -> None:
        """Take the state that was split off, as a new replica; `Begin` must follow if nothing of it is durable yet."""
        self.keyspace, self.stamp_ms = effect.keyspace, effect.stamp_ms
        self._family.parent = parent
        self.wants_turn = True

    def replay(self, index: int) -> list[SplitOff]:
        """Apply the log up to `index` before this replica takes part: a child of it has made something durable, so the
        split that stands there is committed. Of the splits returned, each half must be used, or `ChildSaved` told."""
        self._take(self.raft.learn_commit(index))
        self._effects.clear()  # Nobody has asked for anything yet.
        born, self._family.born = self._family.born, []
        return born

    def _begin(self, event: Begin, now: Instant) -> None:
        self._take(self.raft.begin(now, campaigns=event.campaigns))

    def _child_saved(self, event: ChildSaved, _now: Instant) -> None:
        withheld = self._family.child_saved(event.child)
        if withheld is not None:
            self._effects.append(withheld)

    def _order(self, event: Order, _now: Instant) -> None:
        if self.raft.is_leader():
            self.wants_turn = True
            self._log_query(None, [event.command])

    def _split_off(self, index: int, term: int) -> None:
        children, self.keyspace.split_off = self.keyspace.split_off, []
        membership, leads = self.raft.log.membership_at(index), self.raft.is_leader()
        for child, keyspace in children:
            effect = SplitOff(GroupId(child), keyspace, index, term, membership, self.stamp_ms, leads)
            self._family.bear(effect)
        if leads:
            # The others must have the child before it asks them for votes, or it waits for a whole timeout.
            self._take(self.raft.tell_commit())

    def _publish(self, term: int) -> None:
        messages, self.keyspace.published = self.keyspace.published, []
        # A later leader that applies the entry, too, cannot know whether the one that made it has published.
        if self.raft.is_leader() and term == self.raft.term:
            self._effects.append(Publish(messages))

    def abandon(self) -> list[Refuse]:
        """Refuse whatever waits here: this replica is about to be removed and answers nothing any more.

        What it had proposed may yet be applied by others, so nothing is disclaimed.
        """
        queries = [*self._queries, *(query for _, query in self._ready)]
        queries += [query for _, waiting in self._rounds.values() for query in waiting]
        for request in [*self._awaited.values(), *queries]:
            self._refuse(request)
        self._waiting, self._waiting_bytes, self._scripts_waiting = [], 0, 0
        self._queries, self._ready = [], []
        self._awaited.clear()
        self._rounds.clear()
        effects, self._effects = self._effects, []
        return [
            Refuse(effect.to, effect.origin, effect.is_write, effect.number)
            for effect in effects
            if isinstance(effect, Refuse)
        ]

    # Events of its own -----------------------------------------------------------------------------------------------

    def _submit(self, event: Submit, _now: Instant) -> None:
        if self._name(event) in self._awaited:
            return  # A copy of what is in progress: that will be answered.
        is_meant = self.raft.is_leader() and event.term in (0, self.raft.term)
        if not is_meant or self._waiting_bytes > WAITING_BYTES_MAX:
            self._refuse(event)
            return
        self.wants_turn = True
        self._wait(event.batch, event)

    def _wait(self, batch: bytes, request: Submit | _LoggedQuery) -> None:
        self._waiting.append((len(batch), batch, request))
        self._waiting_bytes += len(batch)
        self._scripts_waiting += request.has_scripts
        self._awaited[self._name(request)] = request

    def _query(self, event: Query, _now: Instant) -> None:
        # What a leader has acknowledged early its own reads wait for; another replica's would not.
        if self.raft.is_leader() or (self._early is None and self.raft.get_leader()):
            self.wants_turn = True
            self._queries.append(event)
        else:
            self._refuse(event)

    def _end_of_turn(self, event: EndOfTurn, now: Instant) -> None:
        self.wants_turn = False
        self._wall_ms = event.wall_ms
        if self._ready:
            self._answer_ready()
        if self.raft.is_leader():
            if event.wall_ms >= self._purge_at_ms:
                self._purge()
            self._purge_at = self._next_purge(now)
            if self._waiting:
                self._propose(now)
        if self._queries and len(self._rounds) < ROUNDS_IN_FLIGHT_MAX:
            self._begin_read_round(now)
        self._maybe_snapshot()

    def _work(self, _event: Work, now: Instant) -> None:
        if self.raft.applied < self.raft.commit:
            self._take(self.raft.handle(raft.ApplyMore(), now))
        else:
            self._effects.extend(self._digests.work())

    def _take_digest(self, event: TakeDigest, _now: Instant) -> None:
        if self.raft.is_leader():
            self.wants_turn = True
            self._log_query(None, [[DIGEST, event.nonce]])

    def _snapshot_now(self, _event: WriteSnapshotNow, _now: Instant) -> None:
        is_behind = self.raft.applied > self.raft.log.snapshot_index
        if self._may_snapshot() and is_behind:
            self._snapshot_for_space = True
            self._snapshot()

    def _snapshot_saved(self, event: raft.SnapshotSaved) -> raft.SnapshotSaved:
        self._snapshot_in_progress = False
        family = self._family
        family.saved(event.index, event.term)
        if family.parent:
            self._effects.append(ReleaseParent(family.parent))
            family.parent = GroupId(0)
        for_space, self._snapshot_for_space = self._snapshot_for_space, False
        return raft.SnapshotSaved(event.index, event.term, keeps_entries=not for_space)

    def _propose(self, now: Instant) -> None:
        in_flight_max = ENTRIES_IN_FLIGHT_MAX if self._early is None else EARLY_ENTRIES_IN_FLIGHT_MAX
        while self._waiting and len(self._in_flight) < in_flight_max:
            # The leader's clock may have jumped back, or an earlier leader's may have been ahead.
            stamp = max(self._wall_ms, self.stamp_ms, self._proposed_stamp_ms)
            if self._scripts_waiting:
                if not self._has_applied_all():
                    return  # Nothing overtakes the scripts, or they might wait for ever.
                taken = self._take_evaluated(stamp)
            else:
                taken = self._take_waiting()
            data = encode_entry(stamp, [batch for _, batch, _ in taken])
            effects = self.raft.handle(raft.Propose(data), now)
            self._take(effects)
            if isinstance(effects[0], raft.ProposalRefused):
                for _, _, request in taken:
                    # A copy that was logged in an earlier term may have been applied, and answered this one, meanwhile.
                    if self._awaited.pop(self._name(request), None) is not None:
                        self._refuse(request)
                return
            self._proposed_stamp_ms = stamp
            if self._early is not None and isinstance(effects[0], raft.Proposed):
                for _, batch, request in taken:
                    submit = request if isinstance(request, Submit) else None
                    self._early.proposed(effects[0].index, submit, batch, stamp, self.keyspace, self.sessions)

    def _has_applied_all(self) -> bool:
        """Whether the state is the one that the next entry will meet, if that one is ever in the log."""
        return self.raft.applied == self.raft.log.last_index

    def _take_waiting(self) -> list[_Waiting]:
        size = count = 0
        for length, _, _ in self._waiting:
            if count and size + length > ENTRY_BYTES_TARGET:
                break
            size += length
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self._waiting_bytes -= size
        return taken

    def _take_evaluated(self, stamp: int) -> list[_Waiting]:
        """What waits, with the effects of scripts in their places; those batches stand first, each as evaluated there.

        Of the batches of one origin no later one is taken while an earlier one waits.
        """
        with evaluating(self.keyspace, self._engine, stamp) as evaluation:
            chosen = choose_batches(self._waiting, self.sessions, evaluation, stamp, ENTRY_BYTES_TARGET)
        self._waiting = chosen.left
        self._waiting_bytes = sum(size for size, _, _ in chosen.left)
        self._scripts_waiting = sum(request.has_scripts for _, _, request in chosen.left)
        return chosen.taken

    def _name(self, request: Submit | _LoggedQuery) -> tuple[int, int]:
        if isinstance(request, Submit):
            return request.origin, request.sequence
        return self._own_origin, request.number

    def _waiting_names(self) -> set[tuple[int, int]]:
        return {self._name(request) for _, _, request in self._waiting}

    def _begin_read_round(self, now: Instant) -> None:
        context = self._next_own()
        queries, self._queries = self._queries, []
        self._rounds[context] = (self._early.said_index if self._early is not None else 0, queries)
        lease = all(query.lease for query in queries)
        self._take(self.raft.handle(raft.ReadIndex(context, lease), now))
        if self._ready:
            self._answer_ready()

    def _answer_ready(self) -> None:
        applied = self.raft.applied
        ready = [query for index, query in self._ready if index <= applied]
        self._ready = [(index, query) for index, query in self._ready if index > applied]
        now_ms = max(self._wall_ms, self.stamp_ms)
        for query in ready:
            results: list[Reply] = []
            for command in query.commands:
                # As `_read`, whose call would be a tenth of a small read.
                is_script = command[0] == EVAL_READ
                result = self._read(command, now_ms) if is_script else self.keyspace.read(command, now_ms)
                if isinstance(result, ReadOutcome):
                    # The read meets a key whose time is over: let the log decide so, then read.
                    if self.raft.is_leader():
                        self._log_query(query, query.commands)
                    else:
                        self._refuse(query)
                    break
                results.append(result)
            else:
                self._effects.append(Answer(query.sender, query.origin, False, query.number, results))
                if self.on_batch is not None:
                    self.on_batch(query.commands, self.raft.now)

    def _log_query(self, query: Query | None, commands: list[list[bytes]]) -> None:
        """Run commands through the log: where time decides, the leader's stamp does, and every replica heeds it."""
        number = self._next_own()
        batch = encode_batch(self._own_origin, number, 0, commands)
        has_scripts = any(command[0] in TO_BE_EVALUATED for command in commands)
        self._wait(batch, _LoggedQuery(query, number, has_scripts))

    def _purge(self) -> None:
        self._purge_at_ms = self._wall_ms + PURGE_INTERVAL_MS
        if self.keyspace.is_fenced:
            return  # It would be refused: what is copied for a merge stays as it is.
        keys = self.keyspace.expired_keys(max(self._wall_ms, self.stamp_ms), PURGE_KEYS_MAX)
        if keys:
            self._log_query(None, [[b"NOCTULE.PURGE", *keys]])

    def _next_purge(self, now: Instant) -> Instant:
        first_ms = self.keyspace.first_deadline_ms
        if first_ms is None or self.keyspace.is_fenced:
            return END_OF_TIME
        return Instant(now + max(first_ms - self._wall_ms, PURGE_INTERVAL_MS) / 1000)

    def _next_own(self) -> int:
        self._own_sequence += 1
        return self._own_sequence

    def _refuse(self, request: Submit | Query | _LoggedQuery) -> None:
        if isinstance(request, Submit):
            disclaimed_term = request.term if self._is_disclaimed(request) else 0
            self._effects.append(Refuse(request.sender, request.origin, True, request.sequence, disclaimed_term))
            return
        query = request.query if isinstance(request, _LoggedQuery) else request
        if query is not None:
            self._effects.append(Refuse(query.sender, query.origin, False, query.number))

    def _is_disclaimed(self, request: Submit) -> bool:
        """Whether the batch did not take effect through the leader of the request's term, and never will.

        Only a replica that led that term in this life can know. While it leads, another copy may come and be taken.
        Afterwards none is; and what it had taken was applied, so its session is past it, or was left behind, or was
        out of order and had no effect.
        """
        if self.raft.is_leader() or request.term != self._led_term:
            return False
        is_left_behind = self._name(request) in self._left_behind
        return not is_left_behind and self.sessions.is_ahead(request.origin, request.sequence)

    # Effects of Raft -------------------------------------------------------------------------------------------------

    def _take(self, effects: Iterable[raft.Effect]) -> None:
        for effect in effects:
            taken = _TAKERS.get(type(effect))
            if taken is None:
                self._effects.append(effect)  # type: ignore[arg-type]
            else:
                taken(self, effect)

    def _take_commit(self, effect: raft.Commit) -> None:
        for index, entry in enumerate(effect.entries, effect.first_index):
            if entry.data and entry.data[:1] != MARK:
                self._apply(index, entry.term, entry.data)
                if self.keyspace.split_off:
                    self._split_off(index, entry.term)
                if self.keyspace.published:
                    self._publish(entry.term)
        if self.keyspace.ready:
            self._tell_ready()
        if self.group == META_GROUP and self.raft.is_leader():
            # Whoever asked at another node waits until that node shows what was done; a heartbeat later is 50 ms later.
            self._take(self.raft.tell_commit())
        last = effect.first_index + len(effect.entries) - 1
        if self._in_flight:
            self._in_flight = [index for index in self._in_flight if index > last]
        policy = self._policy
        is_long = last - self._snapshot_index >= policy.entries or self.raft.log.bytes_held >= policy.log_bytes
        if self._early is not None:
            self._early.applied(last)
        if self._waiting or is_long or self._ready:
            self.wants_turn = True

    def _tell_ready(self) -> None:
        keyspace = self.keyspace
        for node, key, kind in keyspace.ready:
            value = keyspace.get(key)
            count = value.servings if isinstance(value, Container) and value.type_name == kind else 0
            self._effects.append(Ready(node, key, kind, count))
        keyspace.ready.clear()

    def _apply(self, index: int, term: int, data: bytes) -> None:
        body = decode_entry(data)
        stamp = self.stamp_ms = max(self.stamp_ms, body.stamp_ms)
        keyspace = self.keyspace
        for batch in body.batches:
            request = self._awaited.pop((batch.origin, batch.sequence), None)

            def execute(command: list[bytes]) -> Reply:
                return keyspace.execute(command, stamp)

            if self.on_batch is not None and batch.commands:
                self.on_batch(batch.commands, self.raft.now)
            if batch.origin < 0:
                results: list[Reply] | Verdict = [execute(command) for command in batch.commands]
            else:
                results = self.sessions.apply(batch, stamp, execute)
            if keyspace.digests_asked:
                self._begin_digests(index, term)
            if request is not None:
                self._answer(request, results)
            elif self._early is not None:
                self._early.batch_applied(batch.origin, batch.sequence)

    def _begin_digests(self, index: int, term: int) -> None:
        nonces, self.keyspace.digests_asked = self.keyspace.digests_asked, []
        # Whoever led in an earlier term waits for none any more: a log that is replayed is full of these.
        # Who has just joined may not know who belonged then, which is part of the state.
        if term == self.raft.term and self.raft.log.membership_at(index).voters:
            for nonce in nonces:
                self._digests.begin(nonce, index, self._chunks(index, DIGEST_CHUNK_BYTES))

    def _answer(self, request: Submit | _LoggedQuery, results: list[Reply] | Verdict) -> None:
        if isinstance(results, Verdict):
            self._refuse(request)
        elif isinstance(request, Submit):
            self._effects.append(Answer(request.sender, request.origin, True, request.sequence, results))
        elif request.query is not None:
            query = request.query
            self._effects.append(Answer(query.sender, query.origin, False, query.number, results))

    def _answer_early(self, early: EarlyAnswers) -> None:
        for submit, results in early.take_due(self.raft.durable):
            if self._awaited.pop(self._name(submit), None) is not None:
                self._answer(submit, results)
            else:  # A quorum was faster.
                early.batch_applied(submit.origin, submit.sequence)

    def _take_proposed(self, effect: raft.Proposed) -> None:
        self._in_flight.append(effect.index)

    def _take_refused(self, _effect: raft.ProposalRefused) -> None:
        """The caller of `handle` sees to it."""

    def _take_read_ready(self, effect: raft.ReadReady) -> None:
        ensure(self.raft.applied >= effect.index, "a read index is applied when its round ends", index=effect.index)
        index, queries = self._rounds.pop(effect.context, (0, ()))
        self._ready.extend((index, query) for query in queries)
        self.wants_turn = True

    def _take_read_refused(self, effect: raft.ReadRefused) -> None:
        for query in self._rounds.pop(effect.context, (0, ()))[1]:
            self._refuse(query)

    def _take_role(self, effect: raft.RoleChanged) -> None:
        self._effects.append(effect)
        if self.raft.is_leader():
            if self._led_term != self.raft.term:
                self._led_term, self._left_behind = self.raft.term, frozenset()
                if self._early is not None:
                    self._early.begin(self.raft.log.last_index)
            return
        # Whoever waits asks the next leader; what was proposed may yet be committed, and is then applied once.
        self._left_behind |= self._awaited.keys() - self._waiting_names()
        if self._early is not None:
            self._left_behind |= self._early.take_unapplied()
            late = [query for index, query in self._ready if index > self.raft.applied]
            self._ready = [(index, query) for index, query in self._ready if index <= self.raft.applied]
            for query in late:
                self._refuse(query)
        for request in self._awaited.values():
            self._refuse(request)
        for query in self._queries:
            self._refuse(query)
        self._waiting, self._waiting_bytes, self._scripts_waiting = [], 0, 0
        self._queries, self._in_flight = [], []
        self._awaited.clear()
        self._proposed_stamp_ms = 0

    # Snapshots -------------------------------------------------------------------------------------------------------

    def _maybe_snapshot(self) -> None:
        applied, log = self.raft.applied, self.raft.log
        if not self._may_snapshot():
            return
        if self._family.parent:
            # Only once the log tells of this group: else a recovery would take the file for one that was left behind.
            if self.raft.durable >= log.snapshot_index:
                self._snapshot()
        elif applied <= self._snapshot_index:
            return
        elif applied - self._snapshot_index >= self._policy.entries or log.bytes_held >= self._policy.log_bytes:
            self._snapshot()

    def _may_snapshot(self) -> bool:
        """Whether none is being written, nor would take the place of what a child needs."""
        return not self._snapshot_in_progress and self._family.may_snapshot and self._knows_membership()

    def _knows_membership(self) -> bool:
        """A replica that has just joined may not know yet who belonged to the group as of what it has applied."""
        return bool(self.raft.log.membership_at(self.raft.applied).voters)

    def _snapshot(self) -> None:
        applied = self.raft.applied
        term = self.raft.log.term_at(applied)
        ensure(term is not None, "the newest applied entry is in the log", applied=applied)
        self._snapshot_in_progress = True
        self._snapshot_index = applied
        chunks = self._chunks(applied, self.raft.config.chunk_bytes_max)
        self._effects.append(WriteSnapshot(applied, term or 0, chunks))

    def _chunks(self, index: int, bytes_target: int) -> Iterator[bytes]:
        """The state as it is now, which is that of `index`, whatever is applied while the iterator is read."""
        # As applied, not as in force: what is in force may yet be taken back (canonical/raft#250).
        membership = self.raft.log.membership_at(index)
        keyspace = self.keyspace
        pictures = (self.sessions.picture(), picture_shape(keyspace), keyspace.picture())
        return state_chunks(membership, self.stamp_ms, *pictures, bytes_target)

    def load_state(self, chunks: Iterable[bytes]) -> None:
        """Replace the state by a snapshot's. Raises `StorageError` when it cannot be read; then nothing has changed."""
        self._become(StagedState.of(chunks, type(self.keyspace)))

    def _become(self, staged: StagedState) -> None:
        if staged.keyspace.territory is None:
            # A snapshot of an earlier release, when every group had the slots that it had begun with.
            staged.keyspace.hold(self.keyspace.territory)
        self.keyspace, self.sessions, self.stamp_ms = staged.keyspace, staged.sessions, staged.stamp_ms

    def snapshot_restored(self, index: int) -> None:
        """The state just loaded is that of `index`: the next snapshot is due as many entries later."""
        self._snapshot_index = self._family.saved_index = index

    def _take_chunk(self, effect: raft.SaveChunk) -> None:
        if effect.number == 0:
            self._staged = StagedState(type(self.keyspace))
        ensure(self._staged is not None, "a snapshot that is received begins with its first chunk")
        assert self._staged is not None
        self._staged.take(effect.data)
        if self._family.receive(effect):
            self._effects.append(effect)

    def _take_drop(self, effect: raft.DropChunks) -> None:
        self._staged = None
        self._family.drop()
        self._effects.append(effect)

    def _take_restore(self, effect: raft.Restore) -> None:
        ensure(self._staged is not None, "what is restored has come", index=effect.index)
        assert self._staged is not None
        staged, self._staged = self._staged, None
        staged.finish()
        self._become(staged)
        self.snapshot_restored(effect.index)


def membership_of(chunks: Sequence[bytes]) -> Membership:
    """The membership that a snapshot's chunks begin with. Raises `StorageError` when none does."""
    return decode_membership(chunks[0] if chunks else b"")


_HANDLERS: dict[type, Callable[[Replica, Any, Instant], None]] = {
    Submit: Replica._submit,
    Query: Replica._query,
    Work: Replica._work,
    TakeDigest: Replica._take_digest,
    EndOfTurn: Replica._end_of_turn,
    WriteSnapshotNow: Replica._snapshot_now,
    Order: Replica._order,
    Begin: Replica._begin,
    ChildSaved: Replica._child_saved,
}

_TAKERS: dict[type, Callable[[Replica, Any], None]] = {
    raft.Commit: Replica._take_commit,
    raft.Proposed: Replica._take_proposed,
    raft.ProposalRefused: Replica._take_refused,
    raft.ReadReady: Replica._take_read_ready,
    raft.ReadRefused: Replica._take_read_refused,
    raft.RoleChanged: Replica._take_role,
    raft.SaveChunk: Replica._take_chunk,
    raft.DropChunks: Replica._take_drop,
    raft.Restore: Replica._take_restore,
}
