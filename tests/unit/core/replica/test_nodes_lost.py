"""A node that is lost costs what it led, and those who are left share it without a word."""

import pytest

from noctule.base.ids import GroupId, Instant
from noctule.core.raft import events as raft
from noctule.core.raft.messages import Append, Entry
from noctule.core.replica.carry_out import CAMPAIGN_PACE_S, ELECTION_S, FIRST_WAIT_S, RANK_S, first_wait_s

from .colony import Colony

GROUPS = tuple(GroupId(number) for number in range(1, 21))
LOST = 1


def colony_led_by_the_lost() -> Colony:
    """Nodes 2 and 3 follow node 1 in all groups but the last, which node 2 leads."""
    colony = Colony(3, groups=GROUPS)
    for node in (2, 3):
        machine = colony.machines[node]
        for group in GROUPS:
            leader = LOST if group != GROUPS[-1] else 5 - node
            machine.take(raft.Received(leader, Append(1, 0, 0, 0, [Entry(1, b"")])), group=group)
        machine.turn()
        machine.sync()
    return colony


def waits_after_the_loss(colony: Colony, node: int) -> dict[GroupId, float]:
    """For each group how long this node waits before it campaigns."""
    machine = colony.machines[node]
    before = {group: replica.next_deadline() for group, replica in machine.replicas.items()}
    machine.carrier.suspect(LOST, colony.now)
    machine.turn()
    after = {group: replica.next_deadline() for group, replica in machine.replicas.items()}
    return {group: after[group] - colony.now for group in GROUPS if after[group] != before[group]}


def test_only_groups_that_it_led_campaign_one_after_the_other_and_voters_take_turns() -> None:
    colony = colony_led_by_the_lost()
    waits = {node: waits_after_the_loss(colony, node) for node in (2, 3)}
    jitter = colony.config.suspicion_s_max
    for node in (2, 3):
        assert set(waits[node]) == set(GROUPS[:-1])
    first = [min((2, 3), key=lambda node: waits[node][group]) for group in GROUPS[:-1]]
    assert 9 <= first.count(2) <= 10, "each takes half of what was lost"
    for place, group in enumerate(GROUPS[:-1]):
        early, late = sorted((waits[2][group], waits[3][group]))
        assert place * CAMPAIGN_PACE_S <= early <= place * CAMPAIGN_PACE_S + jitter
        rank_s = RANK_S + len(GROUPS[:-1]) * ELECTION_S
        assert rank_s - jitter <= late - early <= rank_s + jitter


def test_who_follows_a_lost_node_anew_is_told_again() -> None:
    """What the lost node said last may come late; nobody must sleep under it for ever."""
    colony = Colony(3, groups=GROUPS)
    machine = colony.machines[2]
    machine.carrier.suspect(LOST, colony.now)
    machine.turn()
    machine.take(raft.Received(LOST, Append(1, 0, 0, 0, [])), group=GROUPS[0])
    machine.turn()
    assert machine.replicas[GROUPS[0]].next_deadline() <= Instant(colony.now + 2 * RANK_S)
    machine.carrier.check()


def test_at_the_beginning_whoever_should_lead_campaigns_and_the_others_wait_until_all_are_elected() -> None:
    """Recovery of ten thousand groups took longer than every wait: all nodes asked for all votes at once, for 20 s."""
    colony = Colony(3, groups=GROUPS)
    colony.now = Instant(colony.now + 60.0)
    for node, machine in colony.machines.items():
        machine.carrier.begin(colony.now, lambda group: group % 3 + 1)
        waits = {group: replica.next_deadline() - colony.now for group, replica in machine.replicas.items()}
        led = [group for group in GROUPS if group % 3 + 1 == node]
        assert [waits[group] for group in led] == [
            pytest.approx(FIRST_WAIT_S + place * CAMPAIGN_PACE_S) for place in range(len(led))
        ]
        others = [waits[group] for group in GROUPS if group not in led]
        assert min(others) >= 2 * FIRST_WAIT_S + len(GROUPS) * ELECTION_S - 1e-9
        assert max(others) <= min(others) + 2 * RANK_S + 1e-9


def test_meta_waits_for_no_other_group() -> None:
    first, other = (first_wait_s(is_first=each, rank=0, place=0, count=1) for each in (True, False))
    assert first == FIRST_WAIT_S < other < 3 * FIRST_WAIT_S


def test_at_the_beginning_nobody_misses_a_leader_that_was_heard_already() -> None:
    """Peers dial a node as soon as it listens, a while before its time begins. It campaigned a quarter of a second
    after that, against leaders it knew, forgot them, and had to be told again; what it had answered was lost."""
    colony = Colony(3, groups=GROUPS)
    machine = colony.machines[2]
    machine.take(raft.Received(3, Append(1, 0, 0, 0, [])), group=GROUPS[0])
    machine.turn()
    machine.carrier.begin(colony.now, lambda _group: 2)
    wait_s = machine.replicas[GROUPS[0]].next_deadline() - colony.now
    assert wait_s >= colony.config.election_timeout_s_min > FIRST_WAIT_S
