"""What a request says: queries with Consul's refusals, bodies with names in any case."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from noctule.servers.consul.bodies import (
    CheckBody,
    DeregisterBody,
    RegisterBody,
    ServiceBody,
    SessionBody,
    TxnOp,
)
from noctule.servers.consul.errors import ConsulError
from noctule.servers.consul.requests import WAIT_S, WAIT_S_MAX, Query, load_body, load_read_options

BODIES = (CheckBody, DeregisterBody, RegisterBody, ServiceBody, SessionBody, TxnOp)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ("index=x", "Invalid index"),
        ("index=-1", "Invalid index"),
        ("index=1.5", "Invalid index"),
        ("index=99999999999999999999", "Invalid index"),
        ("wait=x", "Invalid wait time"),
        ("wait=5", "Invalid wait time"),
        ("wait=+1s", "Invalid wait time"),
        ("stale&consistent", "Cannot specify ?stale with ?consistent, conflicting semantics."),
        ("cached&consistent", "Cannot specify ?cached with ?consistent, conflicting semantics."),
        ("stale&max_stale=x", 'Invalid max_stale value "x"'),
    ],
)
def test_what_cannot_be_meant_is_refused_in_consuls_words(raw: str, sentence: str) -> None:
    with pytest.raises(ConsulError) as refused:
        load_read_options(Query(raw))
    assert (refused.value.status, str(refused.value)) == (400, sentence)


@pytest.mark.parametrize(
    ("raw", "wait_s"),
    [
        ("", WAIT_S),
        ("wait=", WAIT_S),
        ("wait=0", WAIT_S),
        ("wait=-1s", WAIT_S),
        ("wait=1m30s", 90),
        ("wait=999h", WAIT_S_MAX),
    ],
)
def test_a_wait_is_bounded(raw: str, wait_s: float) -> None:
    assert load_read_options(Query(raw)).wait_s == wait_s


def test_numbers_are_refused_as_go_refuses_them() -> None:
    assert Query("flags=18446744073709551615").number("flags") == 2**64 - 1
    assert Query("").number("flags") is None
    for text, why in (("", "invalid syntax"), ("-1", "invalid syntax"), ("18446744073709551616", "value out of range")):
        with pytest.raises(ConsulError, match=why) as refused:
            Query(f"flags={text}").number("flags")
        assert refused.value.status == 500


def test_too_many_parameters_are_refused() -> None:
    with pytest.raises(ConsulError, match="256 parameters"):
        Query("&".join("a=1" for _ in range(300)))


@given(kind=st.sampled_from(BODIES), data=st.data())
def test_names_are_read_in_any_case(kind: type[Struct], data: st.DataObject) -> None:
    """Patroni writes them in lower case, Consul's own tools as documented, and some with underscores."""
    values: dict[str, object] = {}
    expected: dict[str, object] = {}
    fields = {field.name: field for field in msgspec.structs.fields(kind) if field.type in (str, int, bool)}
    for name in data.draw(st.sets(st.sampled_from(sorted(fields)))) if fields else ():
        value = data.draw({str: st.text(max_size=4), int: st.integers(0, 9), bool: st.booleans()}[fields[name].type])
        cases = [fields[name].encode_name, fields[name].encode_name.lower(), fields[name].encode_name.upper(), name]
        values[data.draw(st.sampled_from(cases))] = value
        expected[name] = value
    assert load_body(msgspec.json.encode(values), kind) == kind(**expected)


def test_null_is_as_if_it_were_not_there() -> None:
    body = b'{"name":"x","tags":null,"meta":null,"check":null,"weights":null}'
    assert load_body(body, ServiceBody) == ServiceBody(name="x")
    assert load_body(b"null", ServiceBody) == ServiceBody()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "Request decode failed: EOF"),
        (b"  ", "Request decode failed: EOF"),
        (b"x", "Request decode failed: "),
        (b'{"foo":1}', 'json: unknown field "foo"'),
        (b'{"check":{"foo":1}}', 'json: unknown field "foo"'),
        (b'{"port":"80"}', "Port"),
        (b"[]", "Expected `object`, got `array`"),
        (b"[" * 100_000, "Request decode failed: "),
        (b'{"name":"\xff"}', "Request decode failed: "),
    ],
)
def test_a_body_that_is_none_is_refused_with_the_reason(body: bytes, why: str) -> None:
    with pytest.raises(ConsulError) as refused:
        load_body(body, ServiceBody)
    assert refused.value.status == 400
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.sampled_from(BODIES), st.binary(max_size=60))
def test_whatever_comes_is_read_or_refused(kind: type[Struct], body: bytes) -> None:
    with suppress(ConsulError):
        load_body(body, kind)
