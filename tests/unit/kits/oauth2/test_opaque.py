"""Codes and refresh tokens: what the store learns of them is not enough to use one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.errors import StorageError
from noctule.kits.oauth2.opaque import new_code, parse_opaque, shard_of


def test_tokens_of_a_family_share_its_id_and_nothing_else() -> None:
    code = new_code(3)
    first = code.successor()
    second = first.successor()
    assert code.family == first.family == second.family
    assert len({code.digest, first.digest, second.digest}) == 3
    assert code.handle not in code.family
    assert parse_opaque(first.text, "nrt", 4) == first
    assert parse_opaque(code.text, "nac", 4) == code
    for kind, text in (("nac", first.text), ("nrt", first.text[:-1]), ("nrt", first.text + "x"), ("nrt", "")):
        assert parse_opaque(text, kind, 4) is None  # type: ignore[arg-type]
    assert parse_opaque(first.text, "nrt", 3) is None, "of another deployment"
    assert first.secret not in repr(first)
    assert first.handle not in repr(first)


@given(st.binary(max_size=300))
def test_an_answer_opens_with_its_own_token_only(answer: bytes) -> None:
    token = new_code(0).successor()
    sealed = token.seal(answer)
    assert token.open(sealed) == answer
    assert len(answer) < 8 or answer not in sealed
    for other in (token.successor(), new_code(0).successor()):
        with pytest.raises(StorageError):
            other.open(sealed)
    with pytest.raises(StorageError):
        token.open(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    with pytest.raises(StorageError):
        token.open(b"")


@given(st.text(st.characters(codec="utf-8")), st.integers(1, 256))
def test_a_subject_has_one_shard(subject: str, shards: int) -> None:
    assert 0 <= shard_of(subject, shards) < shards
