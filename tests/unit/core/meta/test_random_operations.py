"""The laws of *meta* under operations of any kind in any order, most of which fit and many of which do not."""

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from noctule.base.errors import RequestError
from noctule.core.meta import operations as ops
from noctule.core.meta.state import MetaState
from noctule.core.meta.tokens import hash_token
from noctule.core.migration.merges import MERGE_ENDED, MERGE_NEXT, MergeStage
from noctule.core.migration.stages import ENDED, NEXT, Stage
from noctule.core.placement.slots import SLOT_COUNT
from noctule.core.registry.changes import Change
from noctule.core.roster.features import FEATURES
from noctule.core.roster.members import Member, MemberState
from tests.unit.core.meta.formed import FORM, NEWER, ask, reloaded
from tests.unit.core.registry.strategies import ANY, BASICS

NODES = st.integers(0, 9)
GROUPS = st.integers(0, 12)
IDS = st.integers(1, 9)
SLOTS = st.integers(-1, SLOT_COUNT)
TOKENS = st.sampled_from([hash_token(text) for text in "abc"])
NAMES = st.sampled_from(["split", "new", "x", ""])
PEERS = st.sampled_from([f"host{number}:7601" for number in range(12)])
TOLD = st.sampled_from([(), FEATURES, NEWER])

ANYTHING = st.one_of(
    st.builds(ops.Admit, st.builds(Member, NODES, PEERS, features=TOLD), TOKENS, st.sampled_from("pqrs")),
    st.builds(ops.UpdateMember, NODES, PEERS | st.just(""), features=TOLD, weight=st.floats(-1, 3)),
    st.builds(ops.SetMemberState, NODES, st.sampled_from(MemberState)),
    st.builds(ops.CreateToken, TOKENS, st.booleans(), st.integers(0, 100)),
    st.builds(ops.RevokeToken, TOKENS),
    st.builds(
        ops.ChangeSettings,
        st.dictionaries(st.sampled_from(["replication_factor", "migrations_concurrent_max"]), st.integers(0, 9)),
    ),
    st.builds(ops.OpenFeature, NAMES),
    st.builds(ops.BeginMigration, GROUPS, NODES, NODES),
    st.builds(ops.AdvanceMigration, IDS, st.sampled_from(Stage), st.sampled_from(Stage)),
    st.builds(ops.BeginSplit, GROUPS, SLOTS),
    st.builds(ops.FinishSplit, GROUPS),
    st.builds(ops.AbortSplit, GROUPS),
    st.builds(ops.BeginMerge, GROUPS, GROUPS),
    st.builds(ops.AdvanceMerge, IDS, st.sampled_from(MergeStage), st.sampled_from(MergeStage)),
    st.builds(ops.PreferLeader, GROUPS, NODES),
    st.builds(ops.ChangeRegistry, st.lists(ANY, min_size=1, max_size=3), st.booleans()),
)


class Meta(RuleBasedStateMachine):
    """One replica under test, the operations it has applied, and the numbers that may never come again."""

    def __init__(self) -> None:
        super().__init__()
        self.state = MetaState()
        self.log: list[tuple[ops.Operation, int]] = []
        self.now_ms = 0
        self.seen: dict[str, set[int]] = {"members": set(), "partitions": set(), "migrations": set(), "merges": set()}

    @initialize(count=st.integers(1, 6))
    def form(self, count: int) -> None:
        replicas = [(1 + at % 5, 1 + (at + 1) % 5, 1 + (at + 2) % 5) for at in range(count)]
        self.apply(ops.Form("bats", FORM.members, replicas, 3))

    def apply(self, operation: ops.Operation) -> None:
        """Apply it, and see that it did all or nothing, and what it may never do."""
        state = self.state
        before, version, epoch = state.digest(), state.version, state.map.epoch
        map_before = dict(state.map.partitions)
        assert not state.take_changes()
        self.log.append((operation, self.now_ms))
        try:
            answer = ask(state, operation, self.now_ms)
        except RequestError:
            assert (state.digest(), state.version) == (before, version)
            assert not state.take_changes()
            return
        assert state.version == version + 1
        changed = {
            group
            for group in map_before.keys() | state.map.partitions.keys()
            if map_before.get(group) != state.map.partitions.get(group)
        }
        assert state.take_changes().partitions >= changed
        assert (state.map.epoch > epoch) == bool(changed)
        for group in changed & state.map.partitions.keys():
            assert state.map.partitions[group].epoch == state.map.epoch
        self.note_numbers(operation, answer)

    def note_numbers(self, operation: ops.Operation, answer: ops.Answer) -> None:
        """An id that is given was never given before."""
        given = {
            ops.Admit: "members",
            ops.BeginSplit: "partitions",
            ops.BeginMigration: "migrations",
            ops.BeginMerge: "merges",
        }
        kind = given.get(type(operation))
        if kind is not None:
            assert isinstance(answer, int)
            is_again = isinstance(operation, ops.Admit) and answer in self.seen[kind]
            assert is_again or answer not in self.seen[kind]
        self.seen["members"] |= self.state.roster.keys()
        self.seen["partitions"] |= set(self.state.map.partitions)
        self.seen["migrations"] |= self.state.migrations.keys()
        self.seen["merges"] |= self.state.merges.keys()
        assert max(self.seen["partitions"]) < self.state.counters.partition_id_next
        assert max(self.seen["members"]) < self.state.counters.member_id_next

    @rule(operation=ANYTHING, passes_ms=st.integers(0, 20))
    def anything(self, operation: ops.Operation, passes_ms: int) -> None:
        self.now_ms += passes_ms
        self.apply(operation)

    @rule(changes=st.lists(ANY, max_size=2))
    def something_is_registered(self, changes: list[Change]) -> None:
        self.apply(ops.ChangeRegistry([*BASICS, *changes]))

    @rule(seed=st.integers(0, 1 << 16))
    def something_that_fits(self, seed: int) -> None:
        """Operations drawn from what there is, so that runs get somewhere."""
        chance, state = random.Random(seed), self.state
        group = chance.choice(list(state.map))
        others = [node for node in state.roster if node not in group.replicas]
        kind = chance.randrange(4)
        if kind == 0 and others:
            self.apply(ops.BeginMigration(group.id, chance.choice([0, *group.replicas]), chance.choice([0, *others])))
        elif kind == 1:
            self.apply(ops.BeginSplit(group.id, chance.randint(group.first_slot, group.last_slot + 1)))
        elif kind == 2:
            right = [each for each in state.map if each.first_slot == group.last_slot + 1]
            self.apply(ops.BeginMerge(group.id, right[0].id if right else 0))
        else:
            self.apply(ops.PreferLeader(group.id, chance.choice(group.replicas)))

    @precondition(lambda self: self.state.busy)
    @rule(seed=st.integers(0, 1 << 16))
    def work_goes_on(self, seed: int) -> None:
        chance, state = random.Random(seed), self.state
        steps: list[ops.Operation] = []
        for migration in state.migrations.values():
            steps += [ops.AdvanceMigration(migration.id, migration.stage, to) for to in NEXT[migration.stage]]
        for merge in state.merges.values():
            steps += [ops.AdvanceMerge(merge.id, merge.stage, to) for to in MERGE_NEXT[merge.stage]]
        for child in state.splits:
            steps += [ops.FinishSplit(child), ops.AbortSplit(child)]
        version = state.version
        self.apply(chance.choice(steps))
        assert state.version == version + 1, "what the tables allow is never refused"

    @rule()
    def restart_from_a_snapshot(self) -> None:
        """From here on the replica that loaded a snapshot is under test, and must not be told from the old one."""
        loaded = reloaded(self.state)
        assert loaded.digest() == self.state.digest()
        assert loaded.take_changes().everything
        self.state = loaded

    @invariant()
    def everything_fits(self) -> None:
        state = self.state
        state.check()
        running = [each for each in state.migrations.values() if each.stage not in ENDED]
        merging = [each for each in state.merges.values() if each.stage not in MERGE_ENDED]
        works = [each.partition for each in running]
        works += [group for each in merging for group in (each.left, each.right)]
        works += [group for each in state.splits.values() for group in (each.child, each.parent)]
        assert len(works) == len(set(works)), "one operation for each partition"
        assert set(works) == state.busy.keys()

    def teardown(self) -> None:
        """Another replica that applies the same log holds the same."""
        twin = MetaState()
        for operation, now_ms in self.log:
            twin.execute(ops.encode_operation(operation), now_ms)
        assert twin.digest() == self.state.digest()


TestMeta = Meta.TestCase
TestMeta.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
