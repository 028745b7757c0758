"""Who watches services through a follower must not wait for its next heartbeat."""

from types import SimpleNamespace
from typing import Any

from noctule.base.ids import META_GROUP
from noctule.core.registry.changes import PutNode
from noctule.core.registry.objects import RegistryNode
from noctule.core.registry.registry import Registry
from noctule.node.registry_door import RegistryDoor


class FakeNode:
    """As much of a node as the door asks."""

    def __init__(self, *, leads: bool) -> None:
        self.registry = Registry()
        self.rounds: list[Any] = []
        self.leads = leads
        self.steward = SimpleNamespace(meta=SimpleNamespace(registry=self.registry))
        raft = SimpleNamespace(is_leader=lambda: self.leads)
        self.host = SimpleNamespace(
            carrier=SimpleNamespace(replicas={META_GROUP: SimpleNamespace(raft=raft)}),
            router=SimpleNamespace(query=lambda group, args, sink: self.rounds.append((group, args))),
        )

    def change(self, door: RegistryDoor, address: str) -> int:
        """Another address of one node; how many rounds there were by then."""
        self.registry.apply([PutNode(RegistryNode("n", address))], 1_000)
        door.meta_changed()
        return len(self.rounds)


def test_a_leader_tells_its_followers_of_each_change_that_is_committed() -> None:
    """They heard of it with the next heartbeat, 50 ms later, and half a second later while another node was down."""
    node = FakeNode(leads=True)
    door = RegistryDoor(node)  # type: ignore[arg-type]
    assert [node.change(door, address) for address in ("a", "b", "b")] == [1, 2, 2]
    door.meta_changed()
    assert len(node.rounds) == 2, "what is no news of the registry costs no round"


def test_a_follower_tells_nobody() -> None:
    node = FakeNode(leads=False)
    door = RegistryDoor(node)  # type: ignore[arg-type]
    assert [node.change(door, address) for address in ("a", "b")] == [0, 0]
    node.leads = True
    door.meta_changed()
    assert node.rounds == [], "what is old is no news for a new leader"
