"""What a leader does so that replicas that differ are noticed: it has them digested now and then, and compares.

Replicas apply the same entries, so they cannot differ, unless there is a bug or memory is broken. Nothing else would
tell then: each replica serves what it holds. *meta* is not compared: members of an older release drop fields of its
records that they do not know.
"""

import logging
from typing import TYPE_CHECKING

from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.meta.state import MetaState
from noctule.core.replica.comparison import Comparison
from noctule.core.replica.events import TakeDigest
from noctule.core.replica.replica import Replica
from noctule.core.replica.sampling import SampleTable, is_small_enough, is_worth_a_sample
from noctule.core.roster.loads import Compared
from noctule.core.wire.messages import DigestTold

if TYPE_CHECKING:
    from noctule.node.steward import Premises

log = logging.getLogger("noctule.node")

SAMPLE = b"sample "
"""What the nonces of digests begin with that a leader asks for by itself."""
CHECK = b"check "
"""And of those that an operator asks for, by way of any node."""
LOOK_S = 1.0
"""How often it is looked up which groups are due."""
CHECKS_MAX = 100
"""Comparisons that operators may have on their way on one node; more are not heeded."""


class Comparer:
    """One node's, for the partitions that it leads."""

    def __init__(self, premises: "Premises") -> None:
        self.compared: dict[GroupId, Compared] = {}
        """What came of the newest comparison of each group that is led here."""
        self.fresh: set[GroupId] = set()
        """Those of which it has not been told yet; whoever tells empties it."""
        self.compared_total = 0
        """Comparisons in which all members told the same."""
        self.differ_total = 0
        """Comparisons in which some told something else."""
        self._premises = premises
        self._table = SampleTable()
        self._due: list[GroupId] = []
        """The one whose turn it is last."""
        self._look_at = Instant(0.0)
        self._samples = 0
        self._sampling = GroupId(0)
        """The group of which a sample is on its way."""
        self._running: dict[GroupId, Comparison] = {}
        """Of each group the one that was asked for last: a check takes the place of a sample."""

    def counters(self) -> dict[str, int]:
        """For the picture of the node."""
        return {
            "noctule_digests_compared_total": self.compared_total,
            "noctule_replicas_differ_total": self.differ_total,
        }

    def told(self, group: GroupId, sender: int, digest: DigestTold, now: Instant) -> bool:
        """A replica of a group led here tells its digest; False when it is not by this that it was asked for one."""
        if not digest.nonce.startswith((SAMPLE, CHECK)):
            return False
        replica, last = self._led(group), self.compared.get(group)
        if replica is None or (last is not None and last.nonce == digest.nonce):
            return True
        running = self._running.get(group)
        is_new = running is None or running.nonce != digest.nonce
        if is_new and digest.nonce.startswith(CHECK) and len(self._running) < CHECKS_MAX:
            # It was ordered by another node, or this one, past this leader: it learns of it only now.
            running = self._running[group] = _begin(digest.nonce, replica, now)
        if running is not None and running.nonce == digest.nonce:
            running.tell(sender, digest.index, digest.digest)
        return True

    def tick(self, meta: MetaState, now: Instant) -> None:
        """End what is to be ended, and begin the next sample when there is none."""
        for group, running in list(self._running.items()):
            if self._led(group) is None:
                del self._running[group]
            elif (found := running.result(now)) is not None:
                del self._running[group]
                self._found(group, running, found)
        if now >= self._look_at:
            self._look_at = Instant(now + LOOK_S)
            self._look(meta, now)
        while self._due and self._sampling not in self._running:
            self._sample(meta, self._due.pop(), now)

    def _look(self, meta: MetaState, now: Instant) -> None:
        led = [group for group in self._premises.replicas if group != META_GROUP and self._led(group) is not None]
        self.compared = {group: self.compared[group] for group in led if group in self.compared}
        interval_s = meta.settings.digest_interval_s
        self._due = self._table.due(led, interval_s, now)[::-1] if interval_s else []

    def _sample(self, meta: MetaState, group: GroupId, now: Instant) -> None:
        replica = self._led(group)
        if replica is None or group in meta.busy or group in self._running:
            return  # It is still due at the next look.
        self._table.looked_at(group, now)
        if not is_worth_a_sample(self.compared.get(group), replica.raft.applied):
            return
        releases = {member.version for node in _members(replica) if (member := meta.roster.get(node)) is not None}
        if len(releases) > 1 or not is_small_enough(replica.keyspace):
            return  # Of several releases each may have its own way to write down one and the same state.
        self._samples += 1
        nonce = SAMPLE + b"%d %d" % (replica.raft.term, self._samples)
        self._running[group] = _begin(nonce, replica, now)
        self._sampling = group
        self._premises.take(group, TakeDigest(nonce))

    def _found(self, group: GroupId, comparison: Comparison, found: Compared) -> None:
        self.compared[group] = found
        self.fresh.add(group)
        if found.different:
            self.differ_total += 1
            told = {node: digest.hex() for node, digest in sorted(comparison.told_at(found.index).items())}
            fields = {"group": group, "index": found.index, "different": found.different, "digests": told}
            log.error("replicas_differ", extra={"fields": fields})
        elif not found.silent:
            self.compared_total += 1

    def _led(self, group: GroupId) -> Replica | None:
        replica = self._premises.replicas.get(group)
        return replica if replica is not None and replica.raft.is_leader() else None


def _begin(nonce: bytes, replica: Replica, now: Instant) -> Comparison:
    return Comparison(nonce, _members(replica), replica.keyspace.bytes_used, now)


def _members(replica: Replica) -> tuple[int, ...]:
    return tuple(replica.raft.log.membership.members())
