"""Who is let in, changed and taken out, and why not."""

import math

import msgspec
import pytest

from noctule.core.meta.operations import (
    Admit,
    BeginMigration,
    ChangeSettings,
    CreateToken,
    Form,
    OpenFeature,
    RevokeToken,
    SetMemberState,
    UpdateMember,
)
from noctule.core.meta.state import MetaState
from noctule.core.meta.tokens import hash_token
from noctule.core.placement.partition_map import PartitionState
from noctule.core.roster.features import FEATURES
from noctule.core.roster.members import Member, MemberState
from tests.unit.core.meta.formed import FORM, NEWER, NOW_MS, ask, formed, part, refusal, reloaded

ACTIVE, DRAINING, LEFT, REMOVED = MemberState
TOKEN = hash_token("noctule-x")
NEW = Member(0, "new:7601", features=NEWER)


def with_token(*, reusable: bool = False, expires_ms: int = 0) -> MetaState:
    state = formed()
    ask(state, CreateToken(TOKEN, reusable, expires_ms))
    return state


# Form -----------------------------------------------------------------------------------------------------------------


def test_a_formed_cluster_has_its_partitions_and_members() -> None:
    state = MetaState()
    assert ask(state, FORM, 7) == "bats"
    assert (state.cluster_id, state.version, state.map.epoch, len(state.map)) == ("bats", 1, 1, 4)
    assert part(state, 1).initial == part(state, 1).replicas == (1, 2, 3)
    assert (part(state, 4).first_slot, part(state, 4).last_slot) == (12_288, 16_383)
    assert state.roster[5].joined_ms == 7
    state.check()


def test_a_cluster_is_formed_once_and_answers_the_same_for_ever() -> None:
    """All first members ask for it, each with an id it drew; the one whose entry is first names the cluster."""
    state = formed()
    before = state.map.partitions.copy()
    assert ask(state, Form("other", [Member(9, "x:1")], [(9,)], 1)) == "bats"
    assert (state.map.partitions, set(state.roster)) == (before, {1, 2, 3, 4, 5})


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster_id": ""},
        {"members": []},
        {"members": [Member(1, "a:1"), Member(1, "b:1")]},
        {"members": [Member(1, "a:1"), Member(2, "a:1"), *FORM.members[2:]]},
        {"members": [Member(0, "a:1"), *FORM.members]},
        {"members": [Member(9, ""), *FORM.members]},
        {"members": [Member(9, "a:1", weight=math.nan), *FORM.members]},
        {"replicas": []},
        {"replicas": [()]},
        {"replicas": [(1, 1)]},
        {"replicas": [(1, 6)]},
        {"replication_factor": 0},
        {"settings": {"nope": 1}},
    ],
)
def test_a_cluster_that_makes_no_sense_is_not_formed(changes: dict[str, object]) -> None:
    assert refusal(MetaState(), msgspec.structs.replace(FORM, **changes))


def test_nothing_is_done_before_there_is_a_cluster() -> None:
    state = MetaState()
    for operation in (CreateToken(TOKEN), Admit(NEW, TOKEN, "n"), ChangeSettings({}), OpenFeature("new")):
        assert refusal(state, operation) == "the cluster is not formed yet"


# Tokens and admission -------------------------------------------------------------------------------------------------


def test_a_one_time_token_lets_one_node_in() -> None:
    state = with_token()
    assert ask(state, Admit(NEW, TOKEN, "n1"), 9) == 6
    assert (state.roster[6].peer, state.roster[6].joined_ms, state.roster[6].state) == ("new:7601", 9, ACTIVE)
    assert state.tokens == {}
    state.take_changes()
    other = msgspec.structs.replace(NEW, peer="other:1")
    assert "not valid" in refusal(state, Admit(other, TOKEN, "n2"))


def test_the_same_node_is_told_the_same_id_when_it_asks_again() -> None:
    """Its first answer was lost; the token it used up does not stand in its way, before and after a snapshot."""
    state = with_token()
    assert [ask(state, Admit(NEW, TOKEN, "n1")) for _ in range(2)] == [6, 6]
    assert ask(reloaded(state), Admit(NEW, TOKEN, "n1")) == 6
    assert len(state.roster) == 6
    state.take_changes()
    assert "first try" in refusal(state, Admit(NEW, hash_token("guess"), "n1"))


def test_a_reusable_token_lets_many_in_until_it_is_revoked() -> None:
    state = with_token(reusable=True)
    peers = [msgspec.structs.replace(NEW, peer=f"new{number}:1") for number in range(3)]
    assert [ask(state, Admit(peer, TOKEN, peer.peer)) for peer in peers[:2]] == [6, 7]
    ask(state, RevokeToken(TOKEN))
    state.take_changes()
    assert "not valid" in refusal(state, Admit(peers[2], TOKEN, "n"))
    assert refusal(state, RevokeToken(TOKEN)) == "there is no such token"


def test_a_token_is_void_from_its_time_on_and_forgotten_when_the_next_is_made() -> None:
    state = with_token(reusable=True, expires_ms=NOW_MS + 10)
    assert ask(state, Admit(NEW, TOKEN, "n1"), NOW_MS + 9) == 6
    state.take_changes()
    late = msgspec.structs.replace(NEW, peer="late:1")
    assert "too old" in refusal(state, Admit(late, TOKEN, "n2"), NOW_MS + 10)
    ask(state, CreateToken(hash_token("y")), NOW_MS + 10)
    assert list(state.tokens) == [hash_token("y")]


def test_tokens_that_make_no_sense_are_refused() -> None:
    state = formed()
    assert "none" in refusal(state, CreateToken("noctule-1234"))
    assert "void" in refusal(state, CreateToken(TOKEN, expires_ms=NOW_MS))
    ask(state, CreateToken(TOKEN))
    state.take_changes()
    assert "already" in refusal(state, CreateToken(TOKEN))


def test_a_node_that_was_taken_out_is_not_let_in_by_its_old_nonce() -> None:
    """It would come back under its old id, and replicas that were made elsewhere would be doubted."""
    state = with_token()
    ask(state, Admit(NEW, TOKEN, "n1"))
    ask(state, SetMemberState(6, REMOVED))
    state.take_changes()
    assert "another id" in refusal(state, Admit(NEW, TOKEN, "n1"))


@pytest.mark.parametrize(
    ("member", "nonce", "sentence"),
    [
        (NEW, "", "draws a nonce"),
        (Member(0, ""), "n", "needs the address"),
        (Member(0, "host3:7601"), "n", "node 3 is at host3:7601"),
        (Member(0, "a:1", weight=-1.0), "n", "a weight is"),
    ],
)
def test_a_node_that_does_not_fit_is_not_let_in(member: Member, nonce: str, sentence: str) -> None:
    state = with_token()
    state.take_changes()
    assert sentence in refusal(state, Admit(member, TOKEN, nonce))
    assert TOKEN in state.tokens


# Members --------------------------------------------------------------------------------------------------------------


def test_a_member_changes_what_it_names_and_nothing_else() -> None:
    state = formed()
    before = state.roster[2]
    ask(state, UpdateMember(2, http="h:1", labels={"zone": "b"}, weight=0.0))
    assert state.roster[2] == msgspec.structs.replace(before, http="h:1", labels={"zone": "b"}, weight=0.0)
    state.take_changes()
    assert "nothing" in refusal(state, UpdateMember(2, http="h:1"))
    assert "node 3 is at" in refusal(state, UpdateMember(2, peer="host3:7601"))
    assert "no node 9" in refusal(state, UpdateMember(9, http="h:1"))


WAYS = [
    (ACTIVE, DRAINING, True),
    (ACTIVE, REMOVED, True),
    (ACTIVE, LEFT, False),
    (ACTIVE, ACTIVE, False),
    (DRAINING, ACTIVE, True),
    (DRAINING, REMOVED, True),
    (DRAINING, DRAINING, False),
    (REMOVED, ACTIVE, False),
    (REMOVED, DRAINING, False),
    (REMOVED, LEFT, False),
]


@pytest.mark.parametrize(("begin", "wanted", "may"), WAYS)
def test_a_member_goes_only_the_ways_there_are(begin: MemberState, wanted: MemberState, *, may: bool) -> None:
    state = formed()
    if begin is not ACTIVE:
        ask(state, SetMemberState(2, begin))
    state.take_changes()
    if may:
        ask(state, SetMemberState(2, wanted))
        assert state.roster[2].state is wanted
    else:
        assert f"node 2 {'has been taken' if begin is REMOVED else 'is'}" in refusal(state, SetMemberState(2, wanted))


def test_a_node_leaves_once_nothing_is_on_it() -> None:
    state = with_token()
    ask(state, Admit(NEW, TOKEN, "n1"))
    ask(state, SetMemberState(2, DRAINING))
    ask(state, SetMemberState(6, DRAINING))
    state.take_changes()
    assert "still holds 2 partitions" in refusal(state, SetMemberState(2, LEFT))
    ask(state, SetMemberState(6, LEFT))
    state.take_changes()
    assert "taken out" in refusal(state, SetMemberState(6, ACTIVE))
    assert "taken out" in refusal(state, UpdateMember(6, http="h:1"))


def test_the_last_node_cannot_be_taken_out() -> None:
    state = MetaState()
    ask(state, Form("one", [Member(1, "a:1")], [(1,)], 1))
    state.take_changes()
    assert "the last one" in refusal(state, SetMemberState(1, REMOVED))


def test_a_partition_is_offline_once_no_majority_of_it_belongs_to_the_cluster() -> None:
    state = formed()
    ask(state, SetMemberState(2, REMOVED))
    assert [partition.state for partition in state.map] == [PartitionState.ACTIVE] * 4
    epoch = state.map.epoch
    ask(state, SetMemberState(3, REMOVED))
    offline = [partition.id for partition in state.map if partition.state is PartitionState.OFFLINE]
    assert (offline, part(state, 1).epoch, part(state, 3).epoch) == ([1, 2], epoch + 1, 1)
    state.check()


def test_a_learner_on_its_way_makes_no_majority() -> None:
    state = formed()
    ask(state, SetMemberState(2, REMOVED))
    ask(state, BeginMigration(1, 2, 4))
    ask(state, SetMemberState(3, REMOVED))
    assert part(state, 1).state is PartitionState.OFFLINE


# Features -------------------------------------------------------------------------------------------------------------


def test_a_feature_is_opened_once_every_present_member_has_it() -> None:
    state = formed()
    assert refusal(state, OpenFeature("new")) == "nodes [5] do not have the feature 'new' yet"
    ask(state, SetMemberState(5, REMOVED))
    ask(state, OpenFeature("new"))
    assert state.features == reloaded(state).features == {*NEWER}
    state.take_changes()
    assert "already" in refusal(state, OpenFeature("new"))


def test_what_lacks_an_open_feature_stays_outside() -> None:
    state = with_token()
    ask(state, SetMemberState(5, REMOVED))
    ask(state, OpenFeature("new"))
    state.take_changes()
    assert "upgrade it" in refusal(state, Admit(Member(0, "a:1", features=FEATURES), TOKEN, "n"))
    assert "upgrade it" in refusal(state, UpdateMember(2, features=FEATURES))
