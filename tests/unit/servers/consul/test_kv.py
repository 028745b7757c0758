"""/v1/kv as a real Consul 1.8 answers it, call for call."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.core.registry.bounds import VALUE_BYTES_MAX
from tests.unit.servers.consul.face import Face

NOBODY = "11111111-1111-1111-1111-111111111111"


async def session(face: Face, **asked: object) -> str:
    created = await face.put("/v1/session/create", asked)
    assert isinstance(created, dict)
    return str(created["ID"])


async def one(face: Face, key: str) -> dict[str, object]:
    found = await face.get(f"/v1/kv/{key}")
    assert isinstance(found, list)
    assert len(found) == 1
    return dict(found[0])


async def test_a_key_is_written_and_read() -> None:
    face = Face()
    assert await face.put("/v1/kv/a?flags=42", b"v1") is True
    entry = await one(face, "a")
    assert list(entry) == ["LockIndex", "Key", "Flags", "Value", "CreateIndex", "ModifyIndex"]
    assert (entry["Key"], entry["Flags"], entry["Value"], entry["LockIndex"]) == ("a", 42, "djE=", 0)
    raw = await face.ask("GET", "/v1/kv/a?raw")
    assert (raw.body, raw.content_type, raw.headers["Content-Security-Policy"]) == (b"v1", "text/plain", "sandbox")
    await face.put("/v1/kv/e")
    assert (await one(face, "e"))["Value"] is None


async def test_what_is_not_there_is_404_with_an_index() -> None:
    for query in ("", "?raw", "?recurse", "?keys"):
        answer = await Face().ask("GET", f"/v1/kv/nope{query}")
        assert (answer.status, answer.body) == (404, b"")
        assert int(answer.headers["X-Consul-Index"]) > 0


async def test_keys_below_a_prefix() -> None:
    face = Face()
    for key in ("a", "d/", "d/x/1", "d/x/2", "d/y"):
        await face.put(f"/v1/kv/{key}", b"1")
    found = await face.get("/v1/kv/d?recurse")
    assert isinstance(found, list)
    assert [each["Key"] for each in found] == ["d/", "d/x/1", "d/x/2", "d/y"]
    assert await face.get("/v1/kv/d/?keys") == ["d/", "d/x/1", "d/x/2", "d/y"]
    assert await face.get("/v1/kv/d/?keys&separator=/") == ["d/", "d/x/", "d/y"]
    assert await face.get("/v1/kv/?keys&separator=/") == ["a", "d/"]
    assert await face.get("/v1/kv/?recurse&keys") == ["a", "d/", "d/x/1", "d/x/2", "d/y"]
    assert msgspec.json.decode((await face.ask("DELETE", "/v1/kv/d/x?recurse")).body) is True
    assert await face.get("/v1/kv/?keys") == ["a", "d/", "d/y"]


@pytest.mark.parametrize("path", ["p/q%20r%25+s", "p%2Fq%20r%25+s"])
async def test_a_path_is_decoded_once(path: str) -> None:
    face = Face()
    await face.put("/v1/kv/p%2Fq%20r%25+s", b"1")
    assert (await one(face, path))["Key"] == "p/q r%+s"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_key_must_be_named(method: str) -> None:
    assert await Face().sentence(method, "/v1/kv/") == (400, "Missing key name")


@pytest.mark.parametrize("name", ["flags", "cas"])
async def test_numbers_are_numbers(name: str) -> None:
    assert await Face().sentence("PUT", f"/v1/kv/a?{name}=x") == (
        500,
        'strconv.ParseUint: parsing "x": invalid syntax',
    )


async def test_cas() -> None:
    face = Face()
    assert await face.put("/v1/kv/a?cas=0", b"1") is True
    assert await face.put("/v1/kv/a?cas=0", b"2") is False
    index = (await one(face, "a"))["ModifyIndex"]
    assert await face.put(f"/v1/kv/a?cas={index}", b"3") is True
    assert (await one(face, "a"))["Value"] == "Mw=="
    assert msgspec.json.decode((await face.ask("DELETE", f"/v1/kv/a?cas={index}")).body) is False
    assert msgspec.json.decode((await face.ask("DELETE", "/v1/kv/nope?cas=5")).body) is True
    index = (await one(face, "a"))["ModifyIndex"]
    assert msgspec.json.decode((await face.ask("DELETE", f"/v1/kv/a?cas={index}")).body) is True


async def test_one_session_holds_a_key() -> None:
    face = Face()
    mine, other = await session(face), await session(face)
    assert await face.put(f"/v1/kv/l?acquire={mine}", b"1") is True
    assert await face.put(f"/v1/kv/l?acquire={other}", b"2") is False
    assert await face.put(f"/v1/kv/l?acquire={mine}", b"3") is True
    entry = await one(face, "l")
    assert (entry["LockIndex"], entry["Session"], entry["Value"]) == (1, mine, "Mw==")
    assert await face.put(f"/v1/kv/l?release={other}", b"4") is False
    assert await face.put(f"/v1/kv/l?release={mine}", b"5") is True
    assert "Session" not in await one(face, "l")


@pytest.mark.parametrize(
    ("holder", "sentence"),
    [
        ("", "missing session"),
        ("none", "failed session lookup: index error: UUID must be 36 characters"),
        (NOBODY, f'invalid session "{NOBODY}"'),
    ],
)
async def test_only_a_session_acquires(holder: str, sentence: str) -> None:
    assert await Face().sentence("PUT", f"/v1/kv/a?acquire={holder}", b"v") == (500, sentence)


async def test_what_contradicts_itself_is_refused_in_order() -> None:
    face = Face()
    for method, query in (("PUT", "cas=0&acquire=x"), ("PUT", "release=x&acquire=x"), ("DELETE", "recurse&cas=1")):
        status, sentence = await face.sentence(method, f"/v1/kv/a?{query}")
        assert status == 400
        assert sentence.startswith("Conflicting flags: ")
    assert await face.sentence("PUT", "/v1/kv/a?cas=0&acquire=x") == (400, "Conflicting flags: acquire=x&cas=0")


async def test_a_value_has_consuls_limit() -> None:
    face = Face()
    assert await face.put("/v1/kv/big", b"v" * VALUE_BYTES_MAX) is True
    status, sentence = await face.sentence("PUT", "/v1/kv/big", b"v" * (VALUE_BYTES_MAX + 1))
    assert status == 413
    assert sentence.startswith("Request body(524289 bytes) too large, max size: 524288 bytes.")


@given(
    st.lists(
        st.tuples(st.sampled_from(("PUT", "DELETE")), st.sampled_from("ab"), st.sampled_from(("", "0", "now"))),
        max_size=12,
    )
)
async def test_indexes_only_rise_and_cas_means_the_last_one(steps: list[tuple[str, str, str]]) -> None:
    """Against a dictionary that knows nothing of indexes but their order."""
    face, values, seen = Face(), dict[str, int](), 0
    for number, (method, key, cas) in enumerate(steps):
        now = values.get(key, 0)
        wanted = now if cas == "now" else 0
        query = f"?cas={wanted}" if cas else ""
        # A key that is not there is deleted, whatever index was expected of it.
        is_done = not cas or wanted == now or (method == "DELETE" and not now)
        answer = await face.ask(method, f"/v1/kv/{key}{query}", b"%d" % number)
        assert msgspec.json.decode(answer.body) is is_done
        read = await face.ask("GET", f"/v1/kv/{key}")
        index = int(read.headers["X-Consul-Index"])
        if is_done and method == "PUT":
            assert index > seen
            values[key] = index
        elif is_done:
            values.pop(key, None)
        assert read.status == (200 if key in values else 404)
        seen = max(seen, index)
