"""When the ring of keys turns: one always signs, it was published first, and what it signed is verified."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.errors import ConfigError
from noctule.kits.jwt.ring_state import RING_KEYS_MAX, Algorithm, Ring, RingKey, RingPolicy, turned

POLICY = RingPolicy(rotate_every_s=1_000, publish_ahead_s=100, keep_s=300, refresh_s=30)


class Maker:
    """Makes keys with numbers for names."""

    def __init__(self, alg: Algorithm = "EdDSA") -> None:
        self.alg: Algorithm = alg
        self.made = 0

    def __call__(self, signs_from_ms: int) -> RingKey:
        self.made += 1
        return RingKey(f"k{self.made}", self.alg, {}, b"", "", signs_from_ms)


def test_a_key_is_published_signs_retires_and_leaves() -> None:
    make = Maker()
    ring = turned(Ring(), 0, POLICY, make)
    assert [key.kid for key in ring.keys] == ["k1"]
    assert turned(ring, 899_999, POLICY, make) is ring
    ring = turned(ring, 900_000, POLICY, make)
    assert [(key.kid, key.signs_from_ms, key.ends_ms) for key in ring.keys] == [
        ("k1", 0, 1_300_000),
        ("k2", 1_000_000, None),
    ]
    assert ring.signing(999_999).kid == "k1"  # type: ignore[union-attr]
    assert ring.signing(1_000_000).kid == "k2"  # type: ignore[union-attr]
    assert [key.kid for key in ring.public(1_299_999)] == ["k1", "k2"]
    assert [key.kid for key in ring.public(1_300_000)] == ["k2"]
    assert [key.kid for key in turned(ring, 1_300_000, POLICY, make).keys] == ["k2"]


def test_at_once_is_at_once() -> None:
    ring = turned(Ring(), 0, POLICY, Maker())
    ring = turned(ring, 50_000, POLICY, Maker("EdDSA"), at_once=True)
    assert ring.signing(50_000) is ring.keys[-1]
    assert ring.keys[0].ends_ms == 350_000


def test_another_algorithm_is_published_first_too() -> None:
    ring = turned(Ring(), 0, POLICY, Maker())
    policy = RingPolicy(alg="RS256", rotate_every_s=1_000, publish_ahead_s=100, keep_s=300, refresh_s=30)
    ring = turned(ring, 10_000, policy, Maker("RS256"))
    assert [(key.alg, key.signs_from_ms) for key in ring.keys] == [("EdDSA", 0), ("RS256", 110_000)]
    assert turned(ring, 20_000, policy, Maker("RS256")) is ring


@given(st.lists(st.integers(1, 2_000_000), max_size=40), st.integers(10, 5_000), st.booleans())
def test_there_is_always_one_key_that_signs_and_its_tokens_are_verified(
    pauses_ms: list[int], keep_s: int, at_once: bool
) -> None:
    policy = RingPolicy(rotate_every_s=1_000, publish_ahead_s=100, keep_s=keep_s, refresh_s=30)
    make, ring, now_ms = Maker(), Ring(), 0
    published: dict[str, int] = {}
    signed: list[tuple[str, int]] = []
    for pause in [0, *pauses_ms]:
        now_ms += pause
        ring = turned(ring, now_ms, policy, make)
        signing = ring.signing(now_ms)
        assert signing is not None
        for key in ring.keys:
            published.setdefault(key.kid, now_ms)
        if signing.kid != "k1":
            assert published[signing.kid] <= signing.signs_from_ms - 100_000
        signed.append((signing.kid, now_ms))
        known = {key.kid for key in ring.public(now_ms)}
        assert all(kid in known for kid, at in signed if now_ms < at + keep_s * 1000)
        assert len(ring.keys) <= RING_KEYS_MAX
        assert turned(ring, now_ms, policy, make) is ring


def test_policies_that_cannot_work_are_refused() -> None:
    for fields in (
        {"alg": "HS256"}, {"publish_ahead_s": 10}, {"rotate_every_s": 100}, {"keep_s": 10**9}, {"refresh_s": 0},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            RingPolicy(**fields)  # type: ignore[arg-type]
