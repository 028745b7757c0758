"""Values by id against a plain dict."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from noctule.core.keyspace.id_map import IdMap

IDS = st.integers(0, 400)


class IdMapMachine(RuleBasedStateMachine):
    """Few ids, so that they come again, and long runs of removals, so that holes are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.map: IdMap[str] = IdMap()
        self.model: dict[int, str] = {}

    @rule(id_=IDS, value=st.text(max_size=2))
    def put(self, id_: int, value: str) -> None:
        self.map.put(id_, value)
        self.model[id_] = value

    @rule(first=IDS, count=st.integers(1, 300), step=st.integers(1, 3))
    def put_many(self, first: int, count: int, step: int) -> None:
        for id_ in range(first, first + count * step, step):
            self.put(id_, "many")

    @rule(first=IDS, count=st.integers(1, 300))
    def pop(self, first: int, count: int) -> None:
        for id_ in range(first, first + count):
            assert self.map.pop(id_) == self.model.pop(id_, None)

    @rule(start=IDS, end=IDS)
    def between(self, start: int, end: int) -> None:
        wanted = [(id_, self.model[id_]) for id_ in sorted(self.model) if start <= id_ <= end]
        assert list(self.map.between(start, end)) == wanted
        assert list(self.map.between_reversed(start, end)) == wanted[::-1]

    @rule(id_=IDS)
    def get(self, id_: int) -> None:
        assert self.map.get(id_) == self.model.get(id_)
        assert (id_ in self.map) == (id_ in self.model)

    @rule()
    def copy(self) -> None:
        former, self.map = self.map, self.map.copy()
        former.put(-1, "not in the copy")
        assert -1 not in self.map

    @invariant()
    def ends_are_known(self) -> None:
        assert len(self.map) == len(self.model)
        assert self.map.first_id == min(self.model, default=None)
        assert self.map.last_id == max(self.model, default=None)
        # Whatever was removed, and in whichever order, does not stay.
        assert len(self.map._ids) <= 2 * len(self.model) + 64 + 300


TestIdMap = IdMapMachine.TestCase
TestIdMap.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.lists(st.integers(0, 1_000), unique=True, min_size=1))
def test_removing_in_any_order_leaves_nothing(ids: list[int]) -> None:
    values: IdMap[int] = IdMap()
    for id_ in sorted(ids):
        values.put(id_, id_)
    for id_ in ids:
        assert values.pop(id_) == id_
    assert not values._ids
    assert list(values.between(0, 1_000)) == []
