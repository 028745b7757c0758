"""A node joins: let in once however often it is killed, refused with a sentence, never in another node's folder."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from noctule.adapters.control import JoinAnswer, JoinRequest, MemberFacts
from noctule.adapters.files import load_json
from noctule.base.errors import ConfigError, NoctuleError, OutcomeUnknownError, UnavailableError
from noctule.core.roster.members import Member
from noctule.node import joining
from noctule.node.address_book import load_address_book
from noctule.node.config import ClusterConfig, NodeConfig
from noctule.node.data_folder import OWNER_FILE, claim_data_folder
from noctule.node.joining import NONCE_FILE, join_cluster, with_stored_identity

FACTS = MemberFacts(peer="me:7604")
AGREED = {"partitions": "32", "lease_ms": "9", "durability": "leader"}
MEMBERS = (Member(1, "a:7601"), Member(4, "me:7604"))


class Cluster:
    """Lets nodes in as *meta* does: the same id for the same nonce. What it answers first is a test's to set."""

    def __init__(self, *first: JoinAnswer | NoctuleError) -> None:
        self.asked: list[tuple[str, JoinRequest]] = []
        self.first = list(first)
        self.given: dict[str, int] = {}

    async def ask(self, address: str, request: JoinRequest) -> JoinAnswer:
        self.asked.append((address, request))
        given = self.given.setdefault(request.nonce, 4 + len(self.given))
        if self.first:
            first = self.first.pop(0)
            if isinstance(first, NoctuleError):
                raise first
            return first
        return JoinAnswer(node_id=given, cluster_id="c1", cluster="bats", members=MEMBERS, settings=AGREED)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "AGAIN_S", 0.0)


def config_of(folder: Path, join: str = "a:7701") -> NodeConfig:
    return NodeConfig(cluster=ClusterConfig(name="", voters={}), node_id=1, data_dir=folder, join=join, token="secret")


def claim(folder: Path, node_id: int, cluster: ClusterConfig) -> None:
    """What a start leaves in the folder."""
    claim_data_folder(NodeConfig(cluster=cluster, node_id=node_id, data_dir=folder), random.Random(1))


async def test_it_takes_the_id_and_what_all_must_agree_on_and_remembers_whom_to_find(tmp_path: Path) -> None:
    cluster = Cluster()
    config = await join_cluster(config_of(tmp_path), FACTS, cluster.ask)
    assert (config.node_id, config.cluster.name, config.cluster.voters) == (4, "bats", {})
    assert config.cluster.agreed() == AGREED
    ((address, request),) = cluster.asked
    assert (address, request.token, request.facts) == ("a:7701", "secret", FACTS)
    book = load_address_book(tmp_path)
    assert (book.cluster_id, book.members) == ("c1", MEMBERS)


async def test_killed_after_it_asked_it_asks_with_the_same_nonce_and_is_the_same_node(tmp_path: Path) -> None:
    """The cluster has let it in, and the answer came to a process that is dead."""
    cluster = Cluster()
    for _ in range(3):
        assert (await join_cluster(config_of(tmp_path), FACTS, cluster.ask)).node_id == 4
    assert len({request.nonce for _, request in cluster.asked}) == 1
    assert load_json(tmp_path / NONCE_FILE) in cluster.given


async def test_two_folders_are_two_nodes(tmp_path: Path) -> None:
    cluster = Cluster()
    ids = [(await join_cluster(config_of(tmp_path / name), FACTS, cluster.ask)).node_id for name in ("x", "y")]
    assert ids == [4, 5]


async def test_the_nonce_is_durable_before_anybody_is_asked(tmp_path: Path) -> None:
    async def ask(_: str, request: JoinRequest) -> JoinAnswer:
        assert load_json(tmp_path / NONCE_FILE) == request.nonce
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        await join_cluster(config_of(tmp_path), FACTS, ask)


async def test_a_refusal_is_final_and_says_why(tmp_path: Path) -> None:
    cluster = Cluster(JoinAnswer(refusal="the join token is not valid"))
    with pytest.raises(ConfigError, match="a:7701 does not let this node in: the join token is not valid"):
        await join_cluster(config_of(tmp_path), FACTS, cluster.ask)
    assert load_address_book(tmp_path).members == ()


async def test_while_nobody_can_say_yes_or_no_it_asks_again(tmp_path: Path) -> None:
    cluster = Cluster(UnavailableError("no leader"), OutcomeUnknownError("no answer"))
    assert (await join_cluster(config_of(tmp_path), FACTS, cluster.ask)).node_id == 4
    assert len(cluster.asked) == 3


async def test_it_does_not_ask_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "JOIN_S_MAX", -1.0)
    cluster = Cluster(UnavailableError("no leader"))
    with pytest.raises(UnavailableError, match="no node at a:7701 could let this one in: no leader"):
        await join_cluster(config_of(tmp_path), FACTS, cluster.ask)


@pytest.mark.parametrize("join", ["a:7701", ""])
async def test_a_node_that_has_joined_asks_nobody_however_it_is_started(tmp_path: Path, join: str) -> None:
    claim(tmp_path, 4, ClusterConfig.joined("bats", AGREED))
    cluster = Cluster()
    config = await join_cluster(config_of(tmp_path, join), FACTS, cluster.ask)
    assert (config.node_id, config.cluster.name, config.cluster.agreed()) == (4, "bats", AGREED)
    assert cluster.asked == []


async def test_the_folder_of_a_first_member_does_not_join(tmp_path: Path) -> None:
    claim(tmp_path, 1, ClusterConfig(name="bats", voters={1: "a:7601", 2: "b:7601"}))
    with pytest.raises(ConfigError, match="belongs to a node that did not join"):
        await join_cluster(config_of(tmp_path), FACTS, Cluster().ask)


async def test_without_join_and_without_a_folder_the_settings_are_what_they_are(tmp_path: Path) -> None:
    config = config_of(tmp_path, join="")
    assert await join_cluster(config, FACTS, Cluster().ask) is config
    assert not (tmp_path / NONCE_FILE).exists()


@pytest.mark.parametrize("content", ["not json", '{"cluster": 7}'])
def test_a_folder_that_cannot_be_read_changes_nothing(tmp_path: Path, content: str) -> None:
    """Whoever claims it will say what is wrong."""
    (tmp_path / OWNER_FILE).write_text(content)
    config = replace(config_of(tmp_path), node_id=9)
    assert with_stored_identity(config) is config
