"""What an instance knows of revocations: what came before a token does not concern it, and nothing stays for ever."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from noctule.kits.jwt.claims import AccessToken
from noctule.kits.oauth2.opaque import digest_of
from noctule.kits.oauth2.revocation_state import ShardRevocations

KEEP_S = 100.0


def token(**fields: Any) -> AccessToken:
    said: dict[str, Any] = {
        "subject": "ada", "client_id": "app", "scopes": frozenset(), "audience": ("a",), "issuer": "i", "id": "j1",
        "issued_s": 0, "expires_s": 600, "family": "f1", "position": "5-0",
    }  # fmt: skip
    return AccessToken(**(said | fields))


def shard(*entries: tuple[str, str, str], now: float = 0.0) -> ShardRevocations:
    made = ShardRevocations()
    made.apply(entries, now, KEEP_S, is_reset=False)
    return made


def test_each_kind_refuses_what_it_names() -> None:
    assert not shard().refuses(token())
    assert shard(("1-0", "family", "f1")).refuses(token())
    assert shard(("1-0", "jti", "j1")).refuses(token())
    assert not shard(("6-0", "jti", "j2"), ("7-0", "family", "f2")).refuses(token())


def test_a_subject_and_all_concern_what_was_issued_before() -> None:
    ada = digest_of("subject", "ada")
    assert shard(("5-1", "subject", ada)).refuses(token())
    assert shard(("10-0", "subject", ada)).refuses(token()), "numbers, and not strings"
    assert not shard(("5-0", "subject", ada)).refuses(token())
    assert not shard(("9-0", "subject", digest_of("subject", "bob"))).refuses(token())
    assert shard(("9-0", "all", "")).refuses(token())
    assert not shard(("4-9", "all", "")).refuses(token())


def test_all_stands_for_what_came_before_it() -> None:
    known = shard(("1-0", "family", "f1"), ("2-0", "jti", "j"), ("3-0", "subject", "x"), ("4-0", "all", ""))
    assert len(known) == 0
    assert known.refuses(token(position="0-0"))


def test_a_reset_begins_the_cursor_anew_and_forgets_nothing() -> None:
    known = shard(("8-0", "family", "f1"))
    assert known.cursor == "8-0"
    known.apply([], 1.0, KEEP_S, is_reset=True)
    assert known.cursor == "0-0"
    assert known.refuses(token())


def test_entries_are_forgotten_when_no_token_can_be_alive() -> None:
    known = shard(("1-0", "family", "f1"), ("2-0", "jti", "j2"), ("3-0", "subject", "s"))
    known.apply([("4-0", "family", "f2")], KEEP_S - 1, KEEP_S, is_reset=False)
    assert len(known) == 4
    known.apply([], KEEP_S, KEEP_S, is_reset=False)
    assert len(known) == 1
    assert known.refuses(token(family="f2"))


KINDS = st.tuples(st.sampled_from(["family", "jti", "subject", "all"]), st.sampled_from(["a", "b", "c"]))


@given(st.lists(KINDS, max_size=20), st.data())
def test_reading_twice_changes_nothing_for_any_token(kinds: list[tuple[str, str]], data: st.DataObject) -> None:
    entries = [
        (f"{number + 1}-0", kind, digest_of("subject", what) if kind == "subject" else what)
        for number, (kind, what) in enumerate(kinds)
    ]
    once, again = ShardRevocations(), ShardRevocations()
    once.apply(entries, 0.0, KEEP_S, is_reset=False)
    again.apply(entries, 0.0, KEEP_S, is_reset=False)
    begin = data.draw(st.integers(0, len(entries)))
    again.apply(entries[begin:], 0.0, KEEP_S, is_reset=data.draw(st.booleans()))
    for name in "abc":
        for position in range(0, len(entries) + 1, 3):
            one = token(subject=name, family=name, id=name, position=f"{position}-0")
            assert not once.refuses(one) or again.refuses(one), "never forgotten"
            revoked = [
                number + 1 for number, (kind, what) in enumerate(kinds)
                if kind == "all" or (kind == "subject" and what == name)
            ]  # fmt: skip
            if any(number > position for number in revoked):
                assert once.refuses(one)
