"""What the doors answer for that are stricter than the router behind them: the cluster face, and `resp_strict_slots`.

Both stand between a connection's `Conversation` and the router, so the plain face pays nothing for them.
"""

from typing import Protocol

from noctule.base.consistency import ConsistencyLevel
from noctule.core.keyspace.failures import CROSS_SLOT
from noctule.core.keyspace.reply import Failure
from noctule.core.keyspace.spec import CommandSpec
from noctule.core.placement.slots import key_slot
from noctule.node.api import ReplySink
from noctule.node.conversation import Conversation, Routes
from noctule.node.router import Router
from noctule.node.slots_led import SlotsLed
from noctule.node.waiting_room import WaitingRoom

ABOUT_OWN_KEYS = frozenset({b"DBSIZE", b"FLUSHALL", b"FLUSHDB", b"KEYS", b"RANDOMKEY", b"SCAN"})
"""Commands in scope ALL that a cluster's client sends to every primary, to add up what they answer."""


class SlotDirectory(Protocol):
    """Who tells where a slot is."""

    def redirect(self, slot: int) -> Failure:
        """MOVED, or CLUSTERDOWN while that is not known."""
        ...


class StrictRoutes:
    """A router that refuses what Redis Cluster would: one command on keys of several slots."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.read_keys = router.read_keys
        """As the router: one key is in one slot."""

    def route(
        self,
        spec: CommandSpec,
        args: list[bytes],
        sink: ReplySink,
        *,
        logged: bool,
        lease: bool = False,
        conversation: Conversation,
    ) -> None:
        """As `Router.route`, or CROSSSLOT."""
        if one_slot(spec, args) is CROSS_SLOT:
            _refuse(CROSS_SLOT, sink, conversation, logged=logged)
        else:
            self._router.route(spec, args, sink, logged=logged, lease=lease, conversation=conversation)

    @property
    def waiting_room(self) -> WaitingRoom:
        """The node's."""
        return self._router.waiting_room

    def refusal(self, spec: CommandSpec, args: list[bytes]) -> Failure | None:
        """CROSSSLOT, for whatever `route` would answer so."""
        return CROSS_SLOT if one_slot(spec, args) is CROSS_SLOT else self._router.refusal(spec, args)

    def read_eventually(self, spec: CommandSpec, args: list[bytes], sink: ReplySink) -> bool:
        """As the router, which is not asked about several slots."""
        return one_slot(spec, args) is not CROSS_SLOT and self._router.read_eventually(spec, args, sink)


class ClusterRoutes:
    """A router that answers for the slots this node leads, and tells where the others are."""

    def __init__(self, router: Router, led: SlotsLed, directory: SlotDirectory) -> None:
        self._router = router
        self._led = led
        self._flags = led.flags
        self._directory = directory
        self.read_keys = router.read_keys
        """From the copy held here, as `read_eventually`."""

    def route(
        self,
        spec: CommandSpec,
        args: list[bytes],
        sink: ReplySink,
        *,
        logged: bool,
        lease: bool = False,
        conversation: Conversation,
    ) -> None:
        """As `Router.route` if the slot is led here or there is none; MOVED, CLUSTERDOWN or CROSSSLOT otherwise."""
        if spec.name in ABOUT_OWN_KEYS:
            runs = self._led.runs()
            self._router.route_over(runs, spec, args, sink, logged=logged, lease=lease, conversation=conversation)
            return
        slot = one_slot(spec, args)
        if isinstance(slot, Failure):
            _refuse(slot, sink, conversation, logged=logged)
        elif slot is None or self._flags[slot]:
            self._router.route(spec, args, sink, logged=logged, lease=lease, conversation=conversation)
        else:
            _refuse(self._directory.redirect(slot), sink, conversation, logged=logged)

    @property
    def waiting_room(self) -> WaitingRoom:
        """The node's: who waits goes on doing so when the slot is led elsewhere meanwhile."""
        return self._router.waiting_room

    def refusal(self, spec: CommandSpec, args: list[bytes]) -> Failure | None:
        """As `route`."""
        slot = one_slot(spec, args)
        if isinstance(slot, Failure):
            return slot
        if slot is None or self._flags[slot]:
            return self._router.refusal(spec, args)
        return self._directory.redirect(slot)

    def read_eventually(self, spec: CommandSpec, args: list[bytes], sink: ReplySink) -> bool:
        """From the copy held here, if there is one; after READONLY, as from a replica of Redis Cluster."""
        if spec.name in ABOUT_OWN_KEYS or one_slot(spec, args) is CROSS_SLOT:
            return False
        return self._router.read_eventually(spec, args, sink)


class Face:
    """A `Store` whose conversations go by these routes."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    def conversation(self) -> Conversation:
        """A door for one connection."""
        return Conversation(self._routes)

    def submit(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        """In no order with other commands."""
        self.conversation().submit(args, sink, consistency)


def one_slot(spec: CommandSpec, args: list[bytes]) -> int | Failure | None:
    """The slot of a checked command's keys; CROSS_SLOT when there are several, None when it has no keys."""
    if spec.has_one_key:
        return key_slot(args[1])
    found: int | None = None
    for key in spec.keys(args):
        slot = key_slot(key)
        if found is None:
            found = slot
        elif slot != found:
            return CROSS_SLOT
    return found


def _refuse(failure: Failure, sink: ReplySink, conversation: Conversation, *, logged: bool) -> None:
    sink.deliver(failure)
    conversation.finished(logged=logged)
