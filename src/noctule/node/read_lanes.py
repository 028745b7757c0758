"""Linearizable reads on their way to the nodes that lead: one request for each node, whatever their groups.

It is the fast way, and nothing but that. What it cannot have answered soon goes into the lane of its group, where it is
sent, and sent again, until its deadline (`node.router`). A group's reads take effect in the order in which they came,
so one that goes into its lane takes all behind it along, and while reads are in a lane no other takes this way.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from noctule.base.ids import GroupId
from noctule.core.wire.messages import ReadsAnswered
from noctule.node.lanes import Command

READS_MAX: Final = 2_048
"""In one request; they are answered in one go, in 5 to 8 ms if they are small."""
REQUEST_BYTES_TARGET: Final = 1 << 20
ANSWER_TIMEOUT_S: Final = 0.2
"""A request without an answer for so long goes into the lanes: well above a turn of a busy node."""


class ReadDispatch(Protocol):
    """How requests reach the nodes that lead."""

    def leader_of(self, group: GroupId) -> tuple[int, int]:
        """The node that leads the group as far as known here, and its term; node 0 when there is none."""
        ...

    def dispatch_reads(self, to: int, number: int, groups: list[int], commands: list[list[bytes]]) -> bool:
        """Hand reads to that node, each of the group at its place, under a number; False when they cannot leave."""
        ...

    def schedule_turn(self) -> None:
        """See to it that `ReadLanes.flush` is called soon."""


class _NodeLane:
    """What is asked of one node: one request on its way, and what gathers meanwhile."""

    __slots__ = ("commands", "groups", "number", "open_commands", "open_groups", "sent_at")

    def __init__(self) -> None:
        self.number = 0
        """Of the request on its way; 0 while there is none."""
        self.groups: list[GroupId] = []
        self.commands: list[Command] = []
        self.sent_at = 0.0
        self.open_groups: list[GroupId] = []
        self.open_commands: list[Command] = []

    def holds(self, group: GroupId) -> bool:
        """Whether a read of that group is in it."""
        return group in self.open_groups or (self.number > 0 and group in self.groups)


class ReadLanes:
    """One node's."""

    def __init__(self, dispatch: ReadDispatch, drawn: int, to_lane: Callable[[GroupId, Command], None]) -> None:
        """Requests are numbered from `drawn` on, so that no answer to an earlier life of this node is taken for one to
        this; `to_lane` puts a command into the lane of its group."""
        self._dispatch = dispatch
        self._to_lane = to_lane
        self._number = drawn
        self._lanes: dict[int, _NodeLane] = {}
        self._leaders: dict[GroupId, int] = {}
        """Where reads of a group go: all of them to the same node, until that is told to have changed."""
        self._touched: dict[int, _NodeLane] = {}

    def holds(self, group: GroupId) -> bool:
        """Whether a read of that group is here, on its way or not."""
        lane = self._lanes.get(self._leaders.get(group, 0))
        return lane is not None and lane.holds(group)

    def enter(self, group: GroupId, command: Command) -> bool:
        """Take a read along in this turn's request; False, and nothing has happened, when no leader is known."""
        node = self._leaders.get(group, 0)
        if not node:
            node = self._dispatch.leader_of(group)[0]
            if not node:
                return False
            self._leaders[group] = node
        lane = self._lanes.get(node)
        if lane is None:
            lane = self._lanes[node] = _NodeLane()
        lane.open_groups.append(group)
        lane.open_commands.append(command)
        if not lane.number and node not in self._touched:
            self._touch(node, lane)
        return True

    def _touch(self, node: int, lane: _NodeLane) -> None:
        if not self._touched:
            self._dispatch.schedule_turn()
        self._touched[node] = lane

    def flush(self, now: float) -> None:
        """Send what came in this turn."""
        touched, self._touched = self._touched, {}
        for node, lane in touched.items():
            if not lane.number and lane.open_commands:
                self._send(node, lane, now)

    def _send(self, node: int, lane: _NodeLane, now: float) -> None:
        end = _end_of_request(lane.open_commands)
        lane.groups, lane.open_groups = lane.open_groups[:end], lane.open_groups[end:]
        lane.commands, lane.open_commands = lane.open_commands[:end], lane.open_commands[end:]
        self._number += 1
        lane.number, lane.sent_at = self._number, now
        commands = [command.args for command in lane.commands]
        if not self._dispatch.dispatch_reads(node, lane.number, [*lane.groups], commands):
            self._give_up(lane)

    def answered(self, node: int, answer: ReadsAnswered) -> list[Command]:
        """The commands that have their results, in the places that are not `left`; the others are in their lanes by
        now. Empty when nobody waits for this answer any more, or it is none: then all of it is given up in time."""
        lane = self._lanes.get(node)
        if lane is None or lane.number != answer.number or len(answer.results) != len(lane.commands):
            return []
        commands, groups = lane.commands, lane.groups
        lane.number, lane.commands, lane.groups = 0, [], []
        if answer.left:
            self._leave(
                lane, {groups[at]: None for at in answer.left}, [(groups[at], commands[at]) for at in answer.left]
            )
        if lane.open_commands:
            self._touch(node, lane)
        return commands

    def _leave(self, lane: _NodeLane, left: dict[GroupId, None], reads: list[tuple[GroupId, Command]]) -> None:
        """These reads, and those of the same groups that wait behind them, go into the lanes."""
        waiting = list(zip(lane.open_groups, lane.open_commands, strict=True))
        staying = [(group, command) for group, command in waiting if group not in left]
        reads += [(group, command) for group, command in waiting if group in left]
        lane.open_groups = [group for group, _ in staying]
        lane.open_commands = [command for _, command in staying]
        for group in left:
            self._leaders.pop(group, None)
        for group, command in reads:
            self._to_lane(group, command)

    def _give_up(self, lane: _NodeLane) -> None:
        """All of it goes into the lanes; should an answer come yet, nobody waits for it."""
        reads = [*zip(lane.groups, lane.commands, strict=True), *zip(lane.open_groups, lane.open_commands, strict=True)]
        lane.number = 0
        lane.groups, lane.commands, lane.open_groups, lane.open_commands = [], [], [], []
        for group, command in reads:
            self._leaders.pop(group, None)
            self._to_lane(group, command)

    def leader_changed(self, group: GroupId) -> None:
        """Another node leads, or the same in another term: what was asked of the former is asked by the lanes."""
        node = self._leaders.pop(group, 0)
        lane = self._lanes.get(node)
        if lane is not None and lane.holds(group):
            self._give_up(lane)

    def peer_lost(self, node: int) -> None:
        """What was sent to that node may be lost with it."""
        lane = self._lanes.pop(node, None)
        self._touched.pop(node, None)
        self._leaders = {group: leader for group, leader in self._leaders.items() if leader != node}
        if lane is not None:
            self._give_up(lane)

    def give_up_all(self) -> None:
        """Whatever is here goes into the lanes, and every leader is looked for anew."""
        self._leaders.clear()
        for lane in self._lanes.values():
            self._give_up(lane)

    def tick(self, now: float) -> None:
        """Give up requests without an answer."""
        for lane in self._lanes.values():
            if lane.number and now - lane.sent_at > ANSWER_TIMEOUT_S:
                self._give_up(lane)

    def withdraw(self, group: GroupId, command: Command) -> bool:
        """Take back a read that has not left yet; False when it is not here, or on its way."""
        lane = self._lanes.get(self._leaders.get(group, 0))
        if lane is None or command not in lane.open_commands:
            return False
        at = lane.open_commands.index(command)
        del lane.open_groups[at], lane.open_commands[at]
        return True


def _end_of_request(commands: Iterable[Command]) -> int:
    """Where a request ends, exclusive: at the target size, after one command at least."""
    size = end = 0
    for command in commands:
        if end == READS_MAX or (end and size >= REQUEST_BYTES_TARGET):
            break
        size += sum(map(len, command.args))
        end += 1
    return end
