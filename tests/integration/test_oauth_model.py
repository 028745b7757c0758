"""The scripts of grants against a model, over any order of refreshes, replays, lost answers and revocations."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis import Redis

from noctule.kits.jwt.claims import position_number
from noctule.kits.oauth2 import grants_script as scripts
from noctule.kits.oauth2.revocation_state import ShardRevocations
from noctule.kits.scripts import Script

if TYPE_CHECKING:
    from engines import RedisServer

pytest_plugins = ("engines",)
pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]

CLOCK = "local time = redis.call('TIME')\nlocal now = time[1] * 1000 + math.floor(time[2] / 1000)"
BASE = "{model:0}"
GRACE_MS = 30_000
KEEP_MS = 10**9
LIFE_MS = 10**11
USERS = ("ada", "bob")


@dataclass
class Family:
    """What a family is by the promises of the kit."""

    name: str
    user: str
    tokens: list[str] = field(default_factory=list)
    """All that were ever handed out, the present one last."""
    answers: dict[str, bytes] = field(default_factory=dict)
    """By token: what it was answered."""
    rotated_ms: int = 0
    is_alive: bool = True


class Grants(RuleBasedStateMachine):
    """One client of the store; several instances are several orders of the same scripts."""

    client: Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.now_ms = 1_700_000_000_000
        self.families: list[Family] = []
        self.made = 0
        self.dead_access: set[str] = set()
        """Families whose access tokens were to be refused."""

    def run_script(self, script: Script, *arguments: Any) -> Any:
        assert CLOCK in script.source
        text = script.source.replace(CLOCK, f"local now = {self.now_ms}")
        return self.client.eval(text, 1, f"{BASE}log", BASE, KEEP_MS, 10_000, *arguments)  # type: ignore[arg-type]

    def fresh(self, what: str) -> str:
        self.made += 1
        return f"{what}{self.made}"

    def end(self, family: Family) -> None:
        family.is_alive = False

    @rule(ms=st.sampled_from([1, 1_000, GRACE_MS - 1, GRACE_MS, GRACE_MS + 1, 10 * GRACE_MS]))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @rule(user=st.sampled_from(USERS), again=st.booleans())
    def sign_in(self, user: str, again: bool) -> None:
        family = Family(self.fresh("family"), user)
        self.run_script(scripts.SAVE_CODE, family.name, 60_000, "secret", "app", "uri", "challenge", user, b"meta")
        asked = (family.name, "secret", "app", "uri", "challenge")
        assert self.run_script(scripts.EXCHANGE, *asked, "")[0] == b"live"
        first = self.fresh("token")
        use = (*asked, "nonce", first, LIFE_MS, LIFE_MS, 100, 600_000, "")
        for _ in range(1 + again):  # The answer was lost: the same operation again.
            assert self.run_script(scripts.EXCHANGE, *use) == [b"done"]
        family.tokens.append(first)
        self.families.append(family)

    @rule(data=st.data(), is_retried=st.booleans())
    def refresh(self, data: st.DataObject, is_retried: bool) -> None:
        """Any token that was ever handed out, by any of many clients at once."""
        if not self.families:
            return
        family = data.draw(st.sampled_from(self.families))
        token = data.draw(st.sampled_from(family.tokens))
        asked = (family.name, token, "app", GRACE_MS)
        successor = self.fresh("token")
        sealed = f"answer of {successor}".encode()
        reply = self.run_script(scripts.ROTATE, *asked, successor, sealed, LIFE_MS, "")
        if is_retried:
            assert self.run_script(scripts.ROTATE, *asked, successor, sealed, LIFE_MS, "")[0] == (
                b"unknown" if reply[0] == b"replayed" else reply[0]
            )
        if not family.is_alive:
            assert reply == [b"unknown"]
        elif token == family.tokens[-1]:
            assert reply == [b"done", sealed]
            family.tokens.append(successor)
            family.answers[token] = sealed
            family.rotated_ms = self.now_ms
        elif token == family.tokens[-2] and self.now_ms - family.rotated_ms <= GRACE_MS:
            assert reply == [b"done", family.answers[token]], "the same bytes again"
        else:
            assert reply == [b"replayed"]
            self.end(family)

    @rule(data=st.data())
    def use_a_code_again(self, data: st.DataObject) -> None:
        if self.families:
            family = data.draw(st.sampled_from(self.families))
            reply = self.run_script(
                scripts.EXCHANGE, family.name, "secret", "app", "uri", "challenge", "another nonce", *([""] * 6)
            )
            assert reply == [b"replayed"]
            self.end(family)

    @rule(data=st.data(), client=st.sampled_from(["app", "other"]))
    def revoke(self, data: st.DataObject, client: str) -> None:
        if self.families:
            family = data.draw(st.sampled_from(self.families))
            is_kept = self.client.exists(f"{BASE}family:{family.name}")
            count = self.run_script(scripts.REVOKE, "family", family.name, client)
            assert count == (-1 if is_kept and client == "other" else family.is_alive)
            if client == "app":
                self.end(family)

    @rule(user=st.sampled_from(USERS))
    def sign_out_everywhere(self, user: str) -> None:
        alive = [family for family in self.families if family.user == user and family.is_alive]
        assert self.run_script(scripts.REVOKE, "subject", user, "") == len(alive)
        for family in alive:
            self.end(family)

    @rule()
    def revoke_all(self) -> None:
        self.run_script(scripts.REVOKE, "all", "", "")
        for family in self.families:
            self.end(family)

    @invariant()
    def a_family_has_at_most_one_live_token_and_a_dead_one_none(self) -> None:
        floor = self.client.get(f"{BASE}floor")
        for user in USERS:
            listed = {each[0].decode() for each in self.run_script(scripts.DEVICES, user)}
            assert listed == {each.name for each in self.families if each.user == user and each.is_alive}
        for family in self.families:
            kept = self.client.hgetall(f"{BASE}family:{family.name}")
            if family.is_alive:
                assert kept[b"current"].decode() == family.tokens[-1]  # type: ignore[index,union-attr]
            elif kept:
                assert floor is not None
                position, end = kept[b"position"].decode(), floor.decode()  # type: ignore[index,union-attr]
                assert position_number(end) > position_number(position)

    @invariant()
    def whoever_reads_the_log_knows_of_every_end(self) -> None:
        shard = ShardRevocations()
        found: Any = self.client.xrange(f"{BASE}log")
        entries = [(at.decode(), entry[b"kind"].decode(), entry[b"id"].decode()) for at, entry in found]
        shard.apply(entries, 0.0, 1e9, is_reset=False)
        for family in self.families:
            known = family.name in shard._families
            kept = any(kind in ("subject", "all") for _, kind, _ in entries)
            assert family.is_alive <= (not known)
            assert family.is_alive or known or kept


def test_rotation_is_what_the_model_says(redis_server: "RedisServer") -> None:
    with Redis(port=redis_server.port) as client:
        machine = type("Grants", (Grants,), {"client": client})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=200,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
