"""A node's settings: what must hold between them, and where they come from."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from noctule.base.errors import ConfigError
from noctule.node.config import CLUSTER_SETTINGS, NODE_SETTINGS, ClusterConfig, NodeConfig
from noctule.node.config_sources import SETTINGS, load_node_config
from noctule.node.settings import LABELS_MAX, PEER_NODES_MAX, read_labels, read_voters

THREE = {1: "127.0.0.1:7601", 2: "127.0.0.1:7602", 3: "127.0.0.1:7603"}


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(
    environment: dict[str, str] | None = None, *, toml: str | None = None, path: Path | None = None, **flags: Any
) -> NodeConfig:
    if toml is not None:
        Path("noctule.toml").write_text(toml, encoding="utf-8")
    return load_node_config(flags=flags, environment=environment or {}, path=path)


def complaint(*arguments: Any, **given: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*arguments, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_any_source_it_is_a_cluster_of_one_node() -> None:
    config = load()
    assert config.cluster == ClusterConfig(voters={1: "127.0.0.1:7601"})
    assert (config.node_id, config.resp_port, config.http_port, config.peer_port) == (1, 7401, 7501, 7601)
    assert config.wal_dir == config.data_dir / "wal"
    assert config.advertise_host == "127.0.0.1"
    config.validate()


def test_a_flag_wins_over_the_environment_and_that_over_the_file() -> None:
    toml = "[node]\nheartbeat_ms = 10\nsnapshot_entries = 100\nrequest_deadline_s = 3\n"
    environment = {"NOCTULE_HEARTBEAT_MS": "20", "NOCTULE_SNAPSHOT_ENTRIES": "200"}
    config = load(environment, toml=toml, heartbeat_ms="30")
    assert (config.heartbeat_ms, config.snapshot_entries, config.request_deadline_s) == (30, 200, 3.0)


def test_every_setting_can_be_given_in_every_way() -> None:
    texts: dict[str, Any] = {
        "name": "colony",
        "voters": "4@10.0.0.4:9000",
        "partition_count": "8",
        "lease_ms": "30",
        "replication_factor": "5",
        "migrations_concurrent_max": "4",
        "migration_chunk_bytes": "70000",
        "migration_timeout_s": "6.5",
        "node_id": "4",
        "host": "10.0.0.4",
        "resp_port": "1",
        "resp_cluster_port": "6",
        "resp_announce_host": "outside",
        "resp_announce_port": "17401",
        "resp_cluster_announce_port": "17801",
        "resp_strict_slots": "true",
        "sentinel_service": "mymaster",
        "http_port": "2",
        "peer_port": "3",
        "control_port": "5",
        "dns_enabled": "false",
        "dns_port": "7",
        "dns_domain": "bats",
        "dns_ttl_s": "8",
        "dns_only_passing": "true",
        "dns_prefer_local": "true",
        "labels": "zone=a,rack=r1",
        "weight": "2.5",
        "join": "bat:7701",
        "token": "secret",
        "advertise_host": "bat",
        "data_dir": "here",
        "wal_dir": "there",
        "rejoin": "true",
        "tls_ca": "ca.pem",
        "tls_cert": "node.pem",
        "tls_key": "node.key",
        "compress_snapshots": "true",
        "heartbeat_ms": "11",
        "election_timeout_ms_min": "120",
        "election_timeout_ms_max": "240",
        "snapshot_entries": "77",
        "segment_bytes_max": "100000",
        "request_deadline_s": "1.5",
        "check_update_interval_s": "60",
        "durability": "leader",
        "log_level": "debug",
        "die_with_parent": "true",
    }
    assert set(texts) == {setting.field for setting in SETTINGS}
    by_flags = load(**texts)
    assert load({setting.environment: texts[setting.field] for setting in SETTINGS}) == by_flags
    toml = ""
    for table, settings in (("cluster", CLUSTER_SETTINGS), ("node", NODE_SETTINGS)):
        lines = [
            f"{each.key} = {texts[each.field] if each.kind in (int, float, bool) else repr(texts[each.field])}"
            for each in settings
        ]
        toml += "\n".join([f"[{table}]", *lines, ""])
    assert load(toml=toml) == by_flags
    # Each value differs from its default, so each was really taken.
    for setting in SETTINGS:
        holder = by_flags.cluster if setting.table == "cluster" else by_flags
        assert getattr(holder, setting.field) != setting.default


def test_flags_and_variables_are_unique() -> None:
    assert len({setting.flag for setting in SETTINGS}) == len(SETTINGS)
    assert len({setting.environment for setting in SETTINGS}) == len(SETTINGS)


@pytest.mark.parametrize(
    ("text", "voters"),
    [
        ("1@127.0.0.1:7601,2@127.0.0.1:7602,3@127.0.0.1:7603", THREE),
        ("1:7601, 2:7602, 3:7603", THREE),
        ("127.0.0.1:7601,127.0.0.1:7602,127.0.0.1:7603", THREE),
        (["1@127.0.0.1:7601", "2:7602", "3:7603"], THREE),
        ("7@bat-1.example:1", {7: "bat-1.example:1"}),
        ("[::1]:7601,[::1]:7602", {1: "[::1]:7601", 2: "[::1]:7602"}),
    ],
)
def test_peers_can_be_written_in_three_forms(text: object, voters: dict[int, str]) -> None:
    assert read_voters(text) == voters


@pytest.mark.parametrize("raw", ["zone=a, rack=r/1", " zone = a ,rack=r/1", {"zone": "a", "rack": "r/1"}])
def test_labels_can_be_a_line_or_a_table(raw: object) -> None:
    assert read_labels(raw) == {"zone": "a", "rack": "r/1"}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("", "must be labels, as in zone=a"),
        ("zone", "must be labels, as in zone=a"),
        ("zone=a,", "must be labels, as in zone=a"),
        (7, "must be labels, as in zone=a"),
        ("zone=", "has the label zone="),
        ("=a", "has the label =a"),
        ("zone=a=b", "has the label zone=a=b"),
        ({"zone": 7}, "has the label zone=7"),
        ("zone=" + "x" * 65, "1 to 64 letters"),
        ("zone=a,zone=b", "names the label zone twice"),
        (",".join(f"l{number}=x" for number in range(LABELS_MAX + 1)), f"{LABELS_MAX} is the most"),
    ],
)
def test_what_are_no_labels_is_told(raw: object, words: str) -> None:
    """A rack that is misread puts two replicas into one."""
    with pytest.raises(ValueError, match=re.escape(words)):
        read_labels(raw)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "which is none of"),
        ("1@a:1,,2@b:2", "which is none of"),
        ("a", "which is none of"),
        ("1@a:x", "which is none of"),
        ("1@a b:1", "which is none of"),
        ("1@a:0", "port is not from 1"),
        ("1@a:70000", "port is not from 1"),
        ("0@a:1", "ids begin with 1"),
        ("1@a:1,1@b:1", "names node 1 twice"),
        ("1@a:1,2@a:1", "names the address a:1 twice"),
        ("1@a:1,b:1", "give every peer its id, or none"),
        (",".join(f"h:{port}" for port in range(1, PEER_NODES_MAX + 2)), "is the most"),
        (3, "must be a list of peers"),
        ([], "must be a list of peers"),
        ([1], "must be a list of peers"),
    ],
)
def test_wrong_peers_are_told_apart(text: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_voters(text)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"NOCTULE_RESP_PORT": "x"}, "resp_port 'x' must be a whole number (from NOCTULE_RESP_PORT)"),
        ({"NOCTULE_RESP_PORT": "70000"}, "resp_port 70000 must be from 0 to 65,535 (from NOCTULE_RESP_PORT)"),
        ({"NOCTULE_RESP_PORT": "tcp://10.0.0.1:7401"}, "must be a whole number"),
        ({"NOCTULE_REQUEST_DEADLINE_S": "nan"}, "must be from 0.1 to 600"),
        ({"NOCTULE_REQUEST_DEADLINE_S": "soon"}, "must be a number"),
        ({"NOCTULE_DIE_WITH_PARENT": "perhaps"}, "must be true or false"),
        ({"NOCTULE_DURABILITY": "disk"}, "must be 'quorum' or 'leader'"),
        ({"NOCTULE_CLUSTER": "a b"}, "1 to 64 letters"),
        ({"NOCTULE_HOST": "0.0.0.0"}, "advertise_host 0.0.0.0 is no address to connect to"),
        ({"NOCTULE_HOST": " "}, "must be text that is not empty"),
        ({"NOCTULE_HTTP_PORT": "7401"}, "must differ"),
        ({"NOCTULE_HEARTBEAT_MS": "200"}, "at least three times heartbeat_ms"),
        ({"NOCTULE_ELECTION_TIMEOUT_MS_MAX": "401"}, "at least 1.2 times"),
        ({"NOCTULE_LEASE_MS": "99"}, "lease_ms 99 must be 0, or at least two heartbeat_ms"),
        ({"NOCTULE_LEASE_MS": "401"}, "at most election_timeout_ms_min"),
        ({"NOCTULE_NODE_ID": "4", "NOCTULE_PEERS": "1:1,2:2"}, "node_id 4 is none of the peers, which are 1, 2"),
        ({"NOCTULE_PEERS": "1:1,what"}, "peers '1:1,what' has the peer 'what'"),
    ],
)
def test_a_wrong_value_is_named_with_its_source(environment: dict[str, str], words: str) -> None:
    assert words in complaint(environment)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[node]\nresp_prot = 1\n", "no setting 'resp_prot'; did you mean 'resp_port'? (from noctule.toml [node])"),
        ("[node]\nxyz = 1\n", "no setting 'xyz'; there are node_id, host"),
        ("[nodes]\n", "no table [nodes]; did you mean 'node'?"),
        ("node = 1\n", "write [node] on a line of its own"),
        ("[node]\nresp_port = true\n", "resp_port True must be a whole number (from noctule.toml [node])"),
        ("[node]\nresp_port = 1.5\n", "must be a whole number"),
        ("[node]\ndata_dir = 3\n", "must be text"),
        (f"[node]\nrequest_deadline_s = {10**400}\n", "must be a number"),
        ("[node]\nrequest_deadline_s = true\n", "request_deadline_s True must be a number"),
        ("[cluster]\npeers = { a = 1 }\n", "must be a list of peers"),
        ("[node\n", "noctule.toml is not TOML"),
    ],
)
def test_a_wrong_file_is_told_where(toml: str, words: str) -> None:
    assert words in complaint(toml=toml)


def test_all_problems_come_at_once() -> None:
    text = complaint({"NOCTULE_HTTP_PORT": "99999"}, toml="[node]\nhots = 'x'\n", resp_port="y", voters="q")
    for words in ("'hots'; did you mean 'host'?", "http_port 99999", "resp_port 'y'", "peers 'q'"):
        assert words in text
    assert text.count(";") == 4, "four problems, one with a hint of its own, and none that only follows from another"


def test_a_named_file_must_be_there() -> None:
    assert "cannot read the settings file other.toml: No such file" in complaint(path=Path("other.toml"))
    Path("other.toml").write_bytes(b"\xff")
    assert "other.toml is not TOML" in complaint(path=Path("other.toml"))
    Path("other.toml").write_text("[node]\nnode_id = 0\n", encoding="utf-8")
    assert "node_id 0 must be from 1 to 65,535 (from other.toml [node])" in complaint(path=Path("other.toml"))


def test_variables_of_others_are_left_alone() -> None:
    environment = {"NOCTULE_SERVICE_HOST": "x", "NOCTULE_NODE": "http://x", "NOCTULE_RESP_PORT": ""}
    assert load(environment) == load()


def test_the_peer_port_is_taken_from_the_peers_unless_it_is_given() -> None:
    assert load(voters="1:9001,2:9002", node_id="2").peer_port == 9002
    assert load(voters="1:9001,2:9002", node_id="2", peer_port="9009").peer_port == 9009


def test_an_address_of_ipv6_is_told_in_brackets() -> None:
    config = load(host="::1")
    assert (config.advertise_host, config.resp_announce_host) == ("[::1]", "[::1]")
    assert config.cluster.voters == {1: "[::1]:7601"}


def test_the_port_of_the_cluster_face_is_beside_that_of_resp_unless_it_is_given() -> None:
    assert load().resp_cluster_port == 7801
    assert load(resp_port="17401").resp_cluster_port == 17801
    assert load(resp_port="0").resp_cluster_port == 0
    assert load(resp_port="65500").resp_cluster_port == 0, "there is no port 400 above"
    assert load(resp_port="7401", resp_cluster_port="9").resp_cluster_port == 9
    assert "resp_cluster_port 7401, http_port 7501" in complaint(resp_cluster_port="7401")


def test_dns_is_beside_http_unless_its_port_is_given() -> None:
    assert load().dns_port == 7553
    assert load(http_port="0").dns_port == load(http_port="65500").dns_port == 0
    assert load(dns_port="53").dns_port == 53
    assert "and dns_port 7501 must differ" in complaint(dns_port="7501")
    assert not load(dns_port="7501", dns_enabled="false").dns_enabled, "the port is not wanted"


@pytest.mark.parametrize("domain", ["-x", "a..b", "under_score", "x" * 64, ".".join(["xx"] * 40)])
def test_a_domain_that_cannot_be_one_is_refused(domain: str) -> None:
    assert "dns_domain" in complaint(dns_domain=domain)
    assert load(dns_domain="svc.Example.com.").dns_domain == "svc.Example.com."


def test_clients_are_told_another_host_than_peers_where_that_is_wanted() -> None:
    assert load(advertise_host="inside").resp_announce_host == "inside"
    config = load(advertise_host="inside", resp_announce_host="2001:db8::1")
    assert (config.advertise_host, config.resp_announce_host) == ("inside", "[2001:db8::1]")
    assert "resp_announce_host 0.0.0.0 is no address" in complaint(resp_announce_host="0.0.0.0")
    assert complaint(host="0.0.0.0").count("is no address") == 1, "what follows from another is not told"


def test_the_fingerprint_changes_with_whatever_must_be_equal() -> None:
    config = ClusterConfig(voters=THREE)
    others = [
        dataclasses.replace(config, name="other"),
        dataclasses.replace(config, voters={1: THREE[1], 2: THREE[2]}),
        dataclasses.replace(config, partition_count=8),
        dataclasses.replace(config, lease_ms=100),
        dataclasses.replace(config, protocol=config.protocol + 1),
    ]
    assert len({each.fingerprint() for each in [config, *others]}) == 6
    renamed = dataclasses.replace(config, voters=dict.fromkeys(THREE, "elsewhere:1"))
    assert renamed.fingerprint() == config.fingerprint()
    reordered = dataclasses.replace(config, voters=dict(reversed(THREE.items())))
    assert reordered.fingerprint() == config.fingerprint()


def test_validate_reports_every_problem() -> None:
    config = NodeConfig(cluster=ClusterConfig(partition_count=0), node_id=0, heartbeat_ms=0)
    with pytest.raises(ConfigError) as caught:
        config.validate()
    for words in ("partitions 0", "peers must name", "node_id 0", "heartbeat_ms 0"):
        assert words in str(caught.value)


def test_the_tiny_preset_is_valid_and_smaller() -> None:
    tiny = NodeConfig.tiny(Path("data"), ClusterConfig(voters=THREE, partition_count=2), node_id=3)
    tiny.validate()
    usual = NodeConfig(cluster=tiny.cluster)
    assert tiny.snapshot_entries < usual.snapshot_entries
    assert tiny.segment_bytes_max < usual.segment_bytes_max
    assert (tiny.resp_port, tiny.http_port, tiny.peer_port) == (0, 0, 0)


@pytest.mark.parametrize("missing", ["tls_ca", "tls_cert", "tls_key"])
def test_two_of_the_three_files_of_tls_are_refused(tmp_path: Path, missing: str) -> None:
    """Taken for no TLS at all, a forgotten key would open the ports to everybody."""
    files = {name: tmp_path / name for name in ("tls_ca", "tls_cert", "tls_key") if name != missing}
    config = NodeConfig(cluster=ClusterConfig(voters={1: "h:1"}), **files)
    (problem,) = [each for each in config.problems() if "tls" in each.field]
    assert "belong together" in problem.sentence
    whole = NodeConfig(cluster=ClusterConfig(voters={1: "h:1"}), **files, **{missing: tmp_path / missing})
    assert whole.problems() == []
