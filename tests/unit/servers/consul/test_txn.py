"""Transactions as a real Consul 1.8 does them: all or nothing, and why not."""

import base64

import msgspec
import pytest

from noctule.core.registry.changes import CheckIndex, SetKey
from tests.unit.servers.consul.face import Face

NOBODY = "11111111-1111-1111-1111-111111111111"


def kv(verb: str, key: str, value: str = "", **more: object) -> dict[str, object]:
    return {"KV": {"Verb": verb, "Key": key, "Value": base64.b64encode(value.encode()).decode(), **more}}


async def results(face: Face, *operations: object) -> list[dict[str, dict[str, object]]]:
    answer = await face.put("/v1/txn", list(operations))
    assert isinstance(answer, dict)
    assert answer["Errors"] is None
    return list(answer["Results"])


async def errors(face: Face, *operations: object) -> list[tuple[int, str]]:
    answer = await face.ask("PUT", "/v1/txn", list(operations))
    assert answer.status == 409, answer.body
    body = msgspec.json.decode(answer.body)
    assert body["Results"] is None
    return [(each["OpIndex"], each["What"]) for each in body["Errors"]]


async def value(face: Face, key: str) -> bytes | None:
    entry = face.registry.view.key(key)
    return None if entry is None else entry.value


async def test_writes_show_what_they_wrote_and_not_the_value() -> None:
    face = Face()
    (written,) = await results(face, kv("set", "t1", "x", Flags=3))
    index = written["KV"]["ModifyIndex"]
    assert written == {
        "KV": {"LockIndex": 0, "Key": "t1", "Flags": 3, "Value": None, "CreateIndex": index, "ModifyIndex": index}
    }
    assert await value(face, "t1") == b"x"


async def test_one_that_only_reads_says_how_sure_it_is() -> None:
    face = Face()
    await results(face, kv("set", "t1", "x"), kv("set", "t2", "y"))
    answer = await face.ask("PUT", "/v1/txn", [kv("get", "t1"), kv("get-tree", "t")])
    body = msgspec.json.decode(answer.body)
    assert [each["KV"]["Value"] for each in body["Results"]] == ["eA==", "eA==", "eQ=="]
    assert list(body)[2:] == ["Index", "LastContact", "KnownLeader", "ConsistencyLevel"]
    assert answer.headers == {"X-Consul-KnownLeader": "true", "X-Consul-LastContact": "0"}
    assert await results(face, kv("get-tree", "none"), kv("check-not-exists", "none"), {}) == []


async def test_all_that_keeps_a_read_from_being_is_told() -> None:
    face = Face()
    await results(face, kv("set", "t1"))
    index = face.registry.view.key("t1").modify_index  # type: ignore[union-attr]
    assert await errors(
        face,
        kv("check-index", "t1", Index=1),
        kv("check-session", "t1", Session="q"),
        kv("check-not-exists", "t1"),
        kv("get", "nope"),
    ) == [
        (0, f'failed index check for key "t1", current modify index {index} != 1'),
        (1, 'failed session check for key "t1", current session "" != "q"'),
        (2, 'key "t1" exists'),
        (3, 'key "nope" doesn\'t exist'),
    ]


@pytest.mark.parametrize(
    ("operation", "sentence"),
    [
        (kv("cas", "t1", Index=1), 'failed to set key "t1", index is stale'),
        (kv("cas", "t1", Index=0), 'failed to set key "t1", index is stale'),
        (kv("delete-cas", "t1", Index=1), 'failed to delete key "t1", index is stale'),
        (kv("lock", "t1", Session=NOBODY), f'invalid session "{NOBODY}"'),
        (kv("lock", "t1", Session=""), "missing session"),
        (kv("lock", "t1", Session="zz"), "failed session lookup: index error: UUID must be 36 characters"),
        (kv("unlock", "t1", Session="x"), 'failed to unlock key "t1", lock isn\'t held, or is held by another session'),
        (kv("check-session", "none", Session="x"), 'failed to check session, key "none" doesn\'t exist'),
        (kv("check-index", "none", Index=0), 'failed to check index, key "none" doesn\'t exist'),
        (kv("get", "none"), 'key "none" doesn\'t exist'),
        (kv("bogus", "x"), 'unknown KV verb "bogus"'),
        (kv("set", ""), "Must provide key"),
        ({"Node": {"Verb": "get", "Node": {"Node": "none"}}}, 'node "none" doesn\'t exist'),
        ({"Node": {"Verb": "set", "Node": {"Node": ""}}}, "Must provide node"),
        ({"Node": {"Verb": "bogus", "Node": {"Node": "n"}}}, 'unknown Node verb "bogus"'),
        (
            {"Node": {"Verb": "cas", "Node": {"Node": "node-1", "Address": "2.2.2.2", "ModifyIndex": 1}}},
            'failed to set node "node-1", index is stale',
        ),
        (
            {"Node": {"Verb": "delete-cas", "Node": {"Node": "node-1", "ModifyIndex": 1}}},
            'failed to delete node "node-1", index is stale',
        ),
        ({"Service": {"Verb": "set", "Node": "none", "Service": {"Service": "s"}}}, "Missing node registration"),
        (
            {"Service": {"Verb": "delete", "Node": "node-1", "Service": {"ID": "s"}}},
            "Must provide service name with ID",
        ),
        (
            {"Service": {"Verb": "cas", "Node": "node-1", "Service": {"Service": "s", "ModifyIndex": 3}}},
            'failed to set service "s" on node "node-1", index is stale',
        ),
        (
            {"Service": {"Verb": "get", "Node": "node-1", "Service": {"ID": "s"}}},
            'service "s" on node "node-1" doesn\'t exist',
        ),
        (
            {"Check": {"Verb": "set", "Check": {"Node": "node-1", "CheckID": "c", "ServiceID": "nope"}}},
            "Missing service registration",
        ),
        (
            {"Check": {"Verb": "cas", "Check": {"Node": "node-1", "CheckID": "serfHealth", "ModifyIndex": 1}}},
            'failed to set check "serfHealth" on node "node-1", index is stale',
        ),
        (
            {"Check": {"Verb": "get", "Check": {"Node": "node-1", "CheckID": "c"}}},
            'check "c" on node "node-1" doesn\'t exist',
        ),
    ],
)
async def test_one_operation_that_cannot_be_done_undoes_all(operation: object, sentence: str) -> None:
    face = Face()
    await results(face, kv("set", "t1", "before"))
    before = face.registry.view.contents()
    assert await errors(face, kv("set", "t0", "x"), operation) == [(1, sentence)]
    assert face.registry.view.contents() == before
    assert (await errors(face, operation))[0] == (0, sentence), "alone too"


async def test_a_lock_in_a_transaction() -> None:
    face = Face()
    session = (await face.put("/v1/session/create"))["ID"]  # type: ignore[index]
    other = (await face.put("/v1/session/create"))["ID"]  # type: ignore[index]
    (locked,) = await results(face, kv("lock", "tl", "c", Session=session))
    assert (locked["KV"]["LockIndex"], locked["KV"]["Session"]) == (1, session)
    assert await errors(face, kv("lock", "tl", Session=other)) == [(0, 'failed to lock key "tl", lock is already held')]
    assert len(await results(face, kv("check-session", "tl", Session=session), kv("set", "t", "x"))) == 2
    (freed,) = await results(face, kv("unlock", "tl", "d", Session=session))
    assert "Session" not in freed["KV"]


async def test_it_reads_what_it_has_written_before_and_what_was_there_before_it_writes() -> None:
    face = Face()
    await results(face, kv("set", "t1", "old"))
    shown = await results(face, kv("get", "t1"), kv("set", "t1", "new"), kv("get", "t1"), kv("get-tree", "t"))
    assert [each["KV"]["Value"] for each in shown] == ["b2xk", None, "bmV3", "bmV3"]
    assert await results(face, kv("delete", "t1"), kv("delete-tree", "t"), kv("delete", "none")) == []
    assert await value(face, "t1") is None


async def test_an_empty_tree_stays_empty_though_it_is_filled_behind_it() -> None:
    shown = await results(Face(), kv("get-tree", "p"), kv("check-not-exists", "p1"), kv("set", "p1", "x"))
    assert [each["KV"]["Key"] for each in shown] == ["p1"]


async def test_what_it_reads_is_as_it_was_when_it_wrote() -> None:
    """Somebody writes the key between the look at it and the list: the guard refuses the list, and it looks again."""
    face = Face()
    await results(face, kv("set", "t1", "old"))
    change, lists = face.registry.change, []

    async def meddle(changes: object, *, all_done: bool = False) -> object:
        lists.append(changes)
        if len(lists) == 1:
            await change([SetKey("t1", b"theirs")])
        return await change(changes, all_done=all_done)  # type: ignore[arg-type]

    face.registry.change = meddle  # type: ignore[method-assign,assignment]
    shown = await results(face, kv("get", "t1"), kv("set", "t2", "mine"))
    assert shown[0]["KV"]["Value"] == base64.b64encode(b"theirs").decode()
    assert len(lists) == 2
    assert isinstance(lists[0][0], CheckIndex)


async def test_nodes_services_and_checks_together() -> None:
    face = Face()
    shown = await results(
        face,
        {"Node": {"Verb": "set", "Node": {"Node": "n", "Address": "1.1.1.1"}}},
        {"Service": {"Verb": "set", "Node": "n", "Service": {"Service": "s", "Port": 9}}},
        {"Check": {"Verb": "set", "Check": {"Node": "n", "CheckID": "c", "ServiceID": "s", "Status": "passing"}}},
        {"Check": {"Verb": "get", "Check": {"Node": "n", "CheckID": "c"}}},
    )
    assert [next(iter(each)) for each in shown] == ["Node", "Service", "Check", "Check"]
    assert shown[3]["Check"]["ServiceName"] == "s"
    index = shown[1]["Service"]["ModifyIndex"]
    cas = {"Service": {"Verb": "cas", "Node": "n", "Service": {"Service": "s", "Port": 10, "ModifyIndex": index}}}
    (moved,) = await results(face, cas)
    assert moved["Service"]["Port"] == 10
    assert await errors(face, cas) == [(0, 'failed to set service "s" on node "n", index is stale')]
    assert await results(face, {"Node": {"Verb": "delete", "Node": {"Node": "n"}}}) == []
    assert await face.get("/v1/catalog/service/s") == []


async def test_its_size_is_bounded() -> None:
    face = Face()
    assert len(await results(face, *(kv("set", f"m{number}", "v") for number in range(64)))) == 64
    too_many = [kv("set", f"m{number}", "v") for number in range(65)]
    sentence = "Transaction contains too many operations (65 > 64)"
    assert await face.sentence("PUT", "/v1/txn", too_many) == (413, sentence)
    assert (await face.sentence("PUT", "/v1/txn", b"x" * 600_000))[0] == 413


@pytest.mark.parametrize("body", [b"", b"{}", b"zz", [{"foo": 1}], [{"KV": {"Value": "!!"}}], [1]])
async def test_what_is_none_is_refused(body: object) -> None:
    status, sentence = await Face().sentence("PUT", "/v1/txn", body)
    assert status == 400
    assert sentence.startswith("Failed to parse body: ")
