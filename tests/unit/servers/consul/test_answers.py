"""Large answers are made once for all who ask for the same, and anew as soon as they would be others."""

import msgspec
import pytest

from noctule.core.registry.registry import Registry
from noctule.servers.consul import health
from noctule.servers.consul.answers import BODY_BYTES_MIN, Answers
from noctule.servers.http_route import Answer
from tests.unit.servers.consul.face import Face

BIG = b"x" * BODY_BYTES_MIN


async def face_with_many() -> Face:
    face = Face()
    for number in range(60):
        service = {"Service": "web", "ID": f"web{number}", "Tags": ["even" if number % 2 == 0 else "odd"]}
        await face.put("/v1/catalog/register", {"Node": f"n{number}", "Address": "10.0.0.1", "Service": service})
    return face


async def test_one_change_is_rendered_once_for_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    face, rendered = await face_with_many(), []
    original = health.find_instances

    def count(*args: object) -> object:
        rendered.append(args)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(health, "find_instances", count)
    answers = [await face.ask("GET", f"/v1/health/service/web?{query}") for query in ("", "stale", "index=1&wait=5s")]
    assert len({answer.body for answer in answers}) == 1
    assert len(rendered) == 1
    assert [answer.headers["X-Consul-Effective-Consistency"] for answer in answers] == ["leader", "stale", "leader"]
    for query in ("tag=odd", "tag=even", "passing", "near=n7", "filter=Node.Node==n1", "pretty"):
        other = await face.ask("GET", f"/v1/health/service/web?{query}")
        assert query == "passing" or other.body != answers[0].body
    assert len(rendered) == 7


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/catalog/register", {"Node": "n3", "Address": "10.9.9.9"}),
        ("/v1/catalog/register", {"Node": "n3", "SkipNodeUpdate": True, "Check": {"Name": "sick"}}),
        ("/v1/catalog/deregister", {"Node": "n3", "ServiceID": "web3"}),
        ("/v1/catalog/deregister", {"Node": "n3"}),
    ],
)
async def test_whatever_changes_it_makes_it_anew(path: str, body: object) -> None:
    face = await face_with_many()

    async def shown() -> Answer:
        return await face.ask("GET", "/v1/health/service/web")

    before = await shown()
    await face.put(path, body)
    after = await shown()
    assert after.body != before.body
    assert msgspec.json.decode(after.body) == await face.get("/v1/health/service/web?filter=Service.Service==web")


def test_what_is_kept_is_bounded() -> None:
    view, answers = Registry(), Answers(bytes_max=3 * len(BIG))
    for name in "abc":
        assert answers.get(view, (name,), 1) is None
        answers.put((name,), 1, BIG)
    assert answers.get(view, ("a",), 1) == BIG
    answers.put(("d",), 1, BIG)
    assert answers.get(view, ("b",), 1) is None, "the one used longest ago"
    assert answers.get(view, ("a",), 1) == BIG
    assert answers.get(view, ("a",), 2) is None, "of another index"
    answers.put(("a",), 2, BIG)
    assert answers.bytes_used == 3 * len(BIG)
    answers.put(("small",), 1, b"x")
    answers.put(("huge",), 1, 2 * BIG)
    assert answers.get(view, ("small",), 1) is answers.get(view, ("huge",), 1) is None
    assert answers.get(Registry(), ("a",), 2) is None, "another registry"
    assert answers.bytes_used == 0
