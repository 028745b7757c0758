"""Join tokens."""

import random

from noctule.core.meta.tokens import Token, hash_token, is_token_hash, new_token


def test_tokens_differ_and_are_known_by_their_hash() -> None:
    chance = random.Random(1)
    one, other = new_token(chance), new_token(chance)
    assert one != other
    assert len(one) == len("noctule-") + 40
    assert hash_token(one) == hash_token(f" {one}\n") != hash_token(other)
    assert is_token_hash(hash_token(one))
    assert not is_token_hash(one)


def test_a_token_is_void_from_its_time_on() -> None:
    token = Token(hash_token("x"), expires_ms=10)
    assert [token.is_void(now_ms) for now_ms in (9, 10, 11)] == [False, True, True]
    assert not Token(hash_token("x")).is_void(1 << 60)
