"""Keys over HTTP: what each route answers, and what it says to bad input."""

import base64
import math
from urllib.parse import quote

import msgspec
import pytest

from noctule.base.bounds import KEY_BYTES_MAX
from noctule.base.consistency import ConsistencyLevel
from noctule.core.keyspace.glob import PATTERN_BYTES_MAX
from noctule.servers.http_kv import STALENESS_HEADER, ttl_ms
from noctule.servers.http_parameters import PREFIX_BYTES_MAX
from noctule.servers.http_route import Answer

from .http_fakes import FakeNode, ask, error_of


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


def content(answer: Answer) -> dict[str, object]:
    assert answer.status == 200, answer.body
    decoded = msgspec.json.decode(answer.body)
    assert isinstance(decoded, dict)
    return decoded


async def test_a_written_key_is_read_and_deleted(node: FakeNode) -> None:
    assert content(await ask(node, "PUT", "/api/kv/name", b"flutter")) == {"key": "name", "ok": True}
    read = content(await ask(node, "GET", "/api/kv/name"))
    assert read == {"key": "name", "value": "flutter", "value_base64": None, "ttl_ms": None, "staleness_ms": 0}
    assert content(await ask(node, "DELETE", "/api/kv/name")) == {"key": "name", "deleted": True}
    assert content(await ask(node, "DELETE", "/api/kv/name")) == {"key": "name", "deleted": False}
    gone = await ask(node, "GET", "/api/kv/name")
    assert gone.status == 404
    assert error_of(gone).code == "not_found"
    assert '"name"' in error_of(gone).message


async def test_a_value_that_is_not_text_comes_as_base64(node: FakeNode) -> None:
    value = bytes(range(256))
    await ask(node, "PUT", "/api/kv/blob", value)
    read = content(await ask(node, "GET", "/api/kv/blob"))
    assert read["value"] is None
    assert base64.b64decode(str(read["value_base64"])) == value


async def test_an_empty_value_is_a_value(node: FakeNode) -> None:
    await ask(node, "PUT", "/api/kv/empty")
    assert content(await ask(node, "GET", "/api/kv/empty"))["value"] == ""


@pytest.mark.parametrize(
    ("accept", "is_raw"),
    [
        ("application/octet-stream", True),
        ("text/html, Application/Octet-Stream;q=0.5", True),
        ("application/octet-stream, application/json;q=0.9", True),
        ("application/json, application/octet-stream", False),
        ("application/octet-stream;q=0", False),
        ("application/octet-stream;q=many", False),
        ("*/*", False),
        ("", False),
    ],
)
async def test_accept_chooses_raw_bytes(node: FakeNode, accept: str, is_raw: bool) -> None:
    await ask(node, "PUT", "/api/kv/blob", b"\x00\xff")
    answer = await ask(node, "GET", "/api/kv/blob", accept=accept)
    assert answer.status == 200
    assert (answer.content_type, answer.body == b"\x00\xff") == (
        ("application/octet-stream", True) if is_raw else ("application/json", False)
    )


async def test_errors_are_json_even_when_raw_bytes_were_asked_for(node: FakeNode) -> None:
    answer = await ask(node, "GET", "/api/kv/none", accept="application/octet-stream")
    assert (answer.status, error_of(answer).code) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "key", "text"),
    [
        ("a/b//c/", b"a/b//c/", "a/b//c/"),
        ("a%2Fb", b"a/b", "a/b"),
        ("..%2f./../x", b".././../x", ".././../x"),
        ("%2E%2E", b"..", ".."),
        ("sp%20ace+plus", b"sp ace+plus", "sp ace+plus"),
        ("%E2%98%83", "\u2603".encode(), "\u2603"),
        ("\u2603", "\u2603".encode(), "\u2603"),
        ("%FF%00", b"\xff\x00", "\\xff\x00"),
        ("\udcff", b"\xff", "\\xff"),
        ("%25", b"%", "%"),
        ("%2525", b"%25", "%25"),
        ("a%3Fb%23c", b"a?b#c", "a?b#c"),
        (quote("k" * KEY_BYTES_MAX), b"k" * KEY_BYTES_MAX, "k" * KEY_BYTES_MAX),
    ],
    ids=range(13),
)
async def test_the_path_is_the_key_byte_for_byte(node: FakeNode, path: str, key: bytes, text: str) -> None:
    assert content(await ask(node, "PUT", f"/api/kv/{path}", b"v"))["key"] == text
    assert node.store.run(b"GET", key) == b"v"
    assert content(await ask(node, "GET", f"/api/kv/{path}"))["key"] == text


async def test_an_absolute_url_is_a_target_too(node: FakeNode) -> None:
    """RFC 9112 3.2.2: a server must accept the absolute form."""
    await ask(node, "PUT", "http://node.example:7501/api/kv/a/b", b"v")
    assert node.store.run(b"GET", b"a/b") == b"v"


@pytest.mark.parametrize(
    ("method", "target", "status", "words"),
    [
        ("GET", "/api/kv/", 400, "the key is empty"),
        ("PUT", "/api/kv/?ttl=5", 400, "the key is empty"),
        ("GET", "/api/kv/a%zz", 400, '"%zz" is not a percent-encoded byte'),
        ("GET", "/api/kv/a%4", 400, '"%4" is not a percent-encoded byte'),
        ("GET", "/api/kv/a#b", 400, 'write it as "%23"'),
        ("GET", "/api/kv/" + "k" * (KEY_BYTES_MAX + 1), 413, f"the limit is {KEY_BYTES_MAX}"),
        ("GET", "/api/kv/k?consistency=fast", 400, 'linearizable, strong, eventual, not "fast"'),
        ("GET", "/api/kv/k?consistency=", 400, "must be one of"),
        ("GET", "/api/kv/k?consistency=%FF", 400, "must be one of"),
        ("GET", "/api/kv/k?consistancy=strong", 400, "it takes consistency"),
        ("GET", "/api/kv/k?consistency=strong&consistency=strong", 400, "more than once"),
        ("DELETE", "/api/kv/k?ttl=5", 400, "it takes none"),
        ("PUT", "/api/kv/k?ttl=0", 400, 'above 0 and at most 3153600000, not "0"'),
        ("PUT", "/api/kv/k?ttl=-1", 400, 'not "-1"'),
        ("PUT", "/api/kv/k?ttl=soon", 400, 'query parameter "ttl"'),
        ("PUT", "/api/kv/k?ttl=", 400, 'not ""'),
        ("PUT", "/api/kv/k?ttl=nan", 400, "a number of seconds"),
        ("PUT", "/api/kv/k?ttl=inf", 400, "a number of seconds"),
        ("PUT", "/api/kv/k?ttl=1e999", 400, "a number of seconds"),
        ("PUT", "/api/kv/k?ttl=1_000", 400, "a number of seconds"),
        ("PUT", "/api/kv/k?ttl=" + "9" * 5000, 400, "a number of seconds"),
        ("PUT", "/api/kv/k?ttl=%0A5", 400, "a number of seconds"),
        ("PUT", "/api/kv/k?ttl=%D9%A3", 400, "a number of seconds"),
        ("GET", "/api/kv?count=0", 400, "a whole number from 1 to 10000"),
        ("GET", "/api/kv?count=10001", 400, 'not "10001"'),
        ("GET", "/api/kv?count=1.5", 400, "a whole number"),
        ("GET", "/api/kv?count=" + "1" * 5000, 400, "a whole number"),
        ("GET", "/api/kv?cursor=x", 400, "the cursor of the answer before"),
        ("GET", "/api/kv?cursor=-1", 400, "the cursor of the answer before"),
        ("GET", f"/api/kv?cursor={2**64}", 400, "the cursor of the answer before"),
        ("GET", "/api/kv?prefix=" + "p" * (PREFIX_BYTES_MAX + 1), 413, f"the limit is {PREFIX_BYTES_MAX}"),
        ("GET", "/api/kv?prefix=%", 400, "percent-encoded"),
    ],
)
async def test_bad_input_is_told_where_and_why(
    node: FakeNode, method: str, target: str, status: int, words: str
) -> None:
    answer = await ask(node, method, target, b"value")
    facts = error_of(answer)
    assert (answer.status, facts.code) == (status, "bad_request" if status == 400 else "too_large")
    assert words in facts.message
    assert len(facts.message) < 300
    assert (facts.retryable, facts.outcome) == (False, "not_applied")
    assert node.store.submitted == []


async def test_a_compressed_body_is_refused_not_stored(node: FakeNode) -> None:
    answer = await ask(node, "PUT", "/api/kv/k", b"\x1f\x8b", content_encoding="gzip")
    assert answer.status == 400
    assert "Content-Encoding" in error_of(answer).message
    assert (await ask(node, "PUT", "/api/kv/k", b"v", content_encoding="identity")).status == 200


async def test_reading_a_hash_is_a_bad_request(node: FakeNode) -> None:
    node.store.run(b"HSET", b"h", b"field", b"1")
    for accept in ("", "application/octet-stream"):
        answer = await ask(node, "GET", "/api/kv/h", accept=accept)
        assert (answer.status, error_of(answer).code) == (400, "bad_request")
    assert content(await ask(node, "DELETE", "/api/kv/h"))["deleted"] is True


@pytest.mark.parametrize("level", list(ConsistencyLevel))
async def test_consistency_reaches_the_store(node: FakeNode, level: ConsistencyLevel) -> None:
    node.store.run(b"SET", b"k", b"v")
    await ask(node, "GET", f"/api/kv/k?consistency={level}")
    assert {consistency for _, consistency in node.store.submitted} == {level}


async def test_a_read_is_linearizable_unless_asked_otherwise(node: FakeNode) -> None:
    await ask(node, "GET", "/api/kv/k")
    assert {consistency for _, consistency in node.store.submitted} == {ConsistencyLevel.LINEARIZABLE}


async def test_a_ttl_ends_the_key(node: FakeNode) -> None:
    await ask(node, "PUT", "/api/kv/k?ttl=1.5", b"v")
    assert content(await ask(node, "GET", "/api/kv/k"))["ttl_ms"] == 1500
    node.store.now_ms += 1499
    assert content(await ask(node, "GET", "/api/kv/k"))["ttl_ms"] == 1
    node.store.now_ms += 1
    assert (await ask(node, "GET", "/api/kv/k")).status == 404


async def test_a_write_without_a_ttl_takes_the_old_one_away(node: FakeNode) -> None:
    await ask(node, "PUT", "/api/kv/k?ttl=5", b"v")
    await ask(node, "PUT", "/api/kv/k", b"w")
    assert content(await ask(node, "GET", "/api/kv/k"))["ttl_ms"] is None


@pytest.mark.parametrize(
    ("ttl_s", "milliseconds"), [(1e-9, 1), (0.001, 1), (0.0011, 2), (1.001, 1001), (0.29, 290), (15.0, 15_000)]
)
def test_a_ttl_is_rounded_up_to_a_millisecond(ttl_s: float, milliseconds: int) -> None:
    """1.001 * 1000 is 1000.9999999999999 in binary, and 0.29 * 1000 is 290.00000000000006 in some orders."""
    assert ttl_ms(ttl_s) == milliseconds


async def test_a_key_that_vanishes_between_value_and_ttl_is_read_again(node: FakeNode) -> None:
    node.store.replies = {b"GET": [b"old"], b"PTTL": [-2]}
    assert (await ask(node, "GET", "/api/kv/k")).status == 404
    node.store.replies = {b"GET": [b"old"] * 3, b"PTTL": [-2] * 3}
    torn = await ask(node, "GET", "/api/kv/k")
    assert (torn.status, error_of(torn).code) == (503, "unavailable")


async def scan(node: FakeNode, query: str, *, count: int = 3) -> list[str]:
    cursor, found = "0", []
    for _ in range(1000):
        page = content(await ask(node, "GET", f"/api/kv?{query}&cursor={cursor}&count={count}"))
        assert page.keys() == {"keys", "cursor"}
        assert isinstance(page["keys"], list)
        found += page["keys"]
        cursor = str(page["cursor"])
        if cursor == "0":
            return found
    raise AssertionError("the scan does not end")


async def test_every_key_is_listed_page_by_page(node: FakeNode) -> None:
    for number in range(20):
        node.store.run(b"SET", b"user:%d" % number, b"")
    node.store.run(b"SET", b"other", b"")
    assert sorted(set(await scan(node, "prefix=user:"))) == sorted(f"user:{number}" for number in range(20))
    assert "other" in await scan(node, "")


@pytest.mark.parametrize("prefix", [b"a*", b"a?", b"[ab]", b"a\\", b"^", b"a b+", b"\xff", b"*" * PREFIX_BYTES_MAX])
async def test_a_prefix_is_taken_literally(node: FakeNode, prefix: bytes) -> None:
    for key in (prefix + b"1", b"axx", b"b1", b"a", b"ab"):
        node.store.run(b"SET", key, b"")
    assert await scan(node, f"prefix={quote(prefix)}") == [(prefix + b"1").decode("utf-8", "backslashreplace")]


async def test_a_plus_in_a_query_is_a_space(node: FakeNode) -> None:
    node.store.run(b"SET", b"a b", b"")
    assert await scan(node, "prefix=a+b") == ["a b"]


def test_the_longest_prefix_fits_a_pattern() -> None:
    assert 2 * PREFIX_BYTES_MAX + 1 <= PATTERN_BYTES_MAX


async def test_counts_default_to_a_hundred(node: FakeNode) -> None:
    await ask(node, "GET", "/api/kv")
    assert node.store.submitted[0][0] == [b"SCAN", b"0", b"MATCH", b"*", b"COUNT", b"100"]


async def test_the_longest_ttl_is_one_the_store_takes(node: FakeNode) -> None:
    assert (await ask(node, "PUT", "/api/kv/k?ttl=3153600000", b"v")).status == 200
    assert math.isclose(float(str(content(await ask(node, "GET", "/api/kv/k"))["ttl_ms"])), 3.1536e12)


@pytest.mark.parametrize(("known", "told", "header"), [({b"k": 17}, 17, "17"), ({}, None, "unknown")])
async def test_an_eventual_read_says_how_old_it_may_be(
    node: FakeNode, known: dict[bytes, int], told: int | None, header: str
) -> None:
    node.store.run(b"SET", b"k", b"v")
    node.stale_ms = known
    answer = await ask(node, "GET", "/api/kv/k?consistency=eventual")
    assert (content(answer)["staleness_ms"], answer.headers[STALENESS_HEADER]) == (told, header)
    raw = await ask(node, "GET", "/api/kv/k?consistency=eventual", accept="application/octet-stream")
    assert (raw.body, raw.headers[STALENESS_HEADER]) == (b"v", header)


@pytest.mark.parametrize("level", ["linearizable", "strong"])
async def test_other_reads_are_not_old(node: FakeNode, level: str) -> None:
    node.store.run(b"SET", b"k", b"v")
    node.stale_ms = {b"k": 17}
    answer = await ask(node, "GET", f"/api/kv/k?consistency={level}")
    assert content(answer)["staleness_ms"] == 0
    assert STALENESS_HEADER not in answer.headers
