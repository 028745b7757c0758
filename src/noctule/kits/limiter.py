"""One rate limit for all instances: each decision is one atomic script in the store, by the store's own clock.

    limiter = Limiter("redis://127.0.0.1:7401,127.0.0.1:7402/0")
    decision = await limiter.hit([AUTHENTICATION], ["ip:192.0.2.7", "user:ada"])

A decision whose answer was lost is asked again under the same name and counted once. While the store is away each
policy says what happens (`OnStoreLoss`); what was admitted meanwhile is added to the count once the store is back.
`ratelimit.py` is the middleware over this.
"""

import asyncio
import logging
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, NoctuleError
from noctule.core.limits.abuse import AbuseRules, Conduct
from noctule.core.limits.picture import SubjectPicture, picture_of
from noctule.core.limits.policy import OnStoreLoss, Policy
from noctule.core.limits.take import Count, Taken, take
from noctule.kits.ratelimit_script import (
    NONCE_BYTES,
    SCRIPT,
    PolicyAnswer,
    SubjectAnswer,
    read_conduct,
    read_count,
    read_reply,
    script_arguments,
)
from noctule.kits.scripts import Script
from noctule.kits.store import connect, retrying_idempotent

ANSWER_TIMEOUT_S = 0.5
"""For one command, when the limiter makes the client itself."""
PATIENCE_S = 1.0
"""For one decision: a leader is replaced in some 0.1 s, and who waits for a limiter waits for the app."""
AWAY_S = 1.0
"""A store that did not answer is not asked again for so long, so that it holds up one request and not each."""
ROLL_CALL_S = 5.0
"""How often a busy instance says that it is there."""
ABSENT_S = 30.0
"""An instance that said nothing for so long is not counted."""
SUBJECTS_MAX = 10_000
"""Counts kept by this instance while the store is away; the oldest goes first."""
SUBJECT_CHARACTERS_MAX = 256
POLICIES_MAX = 8
"""Of one decision."""

CONDUCT = "abuse"
"""Where the name of a policy stands in other keys."""

_DECIDE = Script(SCRIPT)
_TIME = Script("return redis.call('TIME')")
_ROLL_CALL = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
""")

log = logging.getLogger("noctule.kits.limits")


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a request may pass, and why."""

    is_admitted: bool
    policy: Policy
    """The one that is closest to its limit, or that refused for longest."""
    subject: str
    """Whose count that is."""
    limit: int
    remaining: int
    reset_s: float
    """In how long the whole limit is there again."""
    retry_after_s: float
    """0 when it is admitted."""
    is_strict: bool = False
    """The subject's strict limits hold."""
    is_blocked: bool = False
    """The subject is blocked for repeated breaches, whatever its counts are."""
    is_local: bool = False
    """The store is away: this instance decided by itself."""

    @property
    def why(self) -> str:
        """A sentence for whoever was refused, or asks."""
        if self.is_blocked:
            return f"blocked after repeated breaches of limits; try again in {math.ceil(self.retry_after_s)} s"
        window = f"{self.limit} in {self.policy.window_s:g} s"
        mode = " in strict mode" if self.is_strict else ""
        where = ", counted by this instance alone while the store is away" if self.is_local else ""
        if self.is_admitted:
            return f"{self.policy.name}: {self.remaining} of {window} left{mode}{where}"
        if self.is_local and not self.limit:
            return f"{self.policy.name}: nothing is admitted while the store is away"
        return f"{self.policy.name}: the limit of {window} is reached{mode}{where}"


@dataclass(frozen=True, slots=True)
class LimiterPicture:
    """The limiter, for metrics and status pages."""

    is_away: bool
    """The store did not answer last time."""
    instances: int
    """Among which limits are divided then."""
    admitted: int
    refused: int
    local: int
    """Of both, those decided without the store."""


class Limiter:
    """Decides for all instances. `store`: a client that gives bytes (the caller closes it), a URL, or None for the
    environment's, as everywhere. `abuse` None: no strict mode and no blocks. `instances`: how many share the limits
    while the store is away; None counts those that used this limiter within `ABSENT_S`. The store is away when one
    decision takes longer than `patience_s`.
    """

    def __init__(
        self,
        store: Redis | str | None = None,
        *,
        abuse: AbuseRules | None = AbuseRules(),  # noqa: B008 - it is frozen
        prefix: str = "rate-limit:",
        instances: int | None = None,
        patience_s: float = PATIENCE_S,
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
        new_nonce: Callable[[], bytes] = lambda: secrets.token_bytes(NONCE_BYTES),
    ) -> None:
        if instances is not None and instances < 1:
            raise ConfigError(f"rate limits: instances is {instances}; it must be 1 or more")
        self._owns_store = store is None or isinstance(store, str)
        if store is None or isinstance(store, str):
            store = connect(store, answer_timeout_s=ANSWER_TIMEOUT_S)
        if store.get_encoder().decode_responses:  # type: ignore[no-untyped-call]
            raise ConfigError("the store client handed to a Limiter must give bytes: decode_responses=False")
        self._store = store
        self._abuse = abuse
        self._prefix = prefix
        self._fixed_instances = instances
        self._patience_s = patience_s
        self._instances = instances or 1
        self._name = secrets.token_hex(8)
        self._clock = clock
        self._new_nonce = new_nonce
        self._away_until = float("-inf")
        self._roll_call_at = float("-inf")
        self._is_away = False
        self._local: dict[tuple[str, str], _LocalCount] = {}
        self._admitted = self._refused = self._decided_locally = 0

    async def hit(self, policies: Sequence[Policy], subjects: Sequence[str], *, cost: int = 1) -> Decision:
        """Count one request of all these subjects under all these policies, if each admits it; else none counts it.

        Each subject is one atomic decision; between those of two subjects others may come, and one that was counted for
        the first is given back when the second refuses. Raises `RequestError` never for a store that is away.
        """
        _check(policies, subjects, cost)
        if len(subjects) == 1:  # Nothing to do side by side, which costs a task.
            decisions = [await self._decide(tuple(policies), subjects[0], cost)]
        else:
            decisions = await asyncio.gather(*(self._decide(tuple(policies), each, cost) for each in subjects))
        decision = _tightest(decisions)
        if not decision.is_admitted:
            passed = [each.subject for each in decisions if each.is_admitted and not each.is_local]
            await asyncio.gather(*(self._give_back(tuple(policies), subject, cost) for subject in passed))
        self._admitted += decision.is_admitted
        self._refused += not decision.is_admitted
        self._decided_locally += decision.is_local
        return decision

    async def show(self, subject: str) -> SubjectPicture:
        """All that is kept of a subject. Looks through all keys, so it is for people. Raises `UnavailableError` or
        `RequestError`."""
        conduct, counts = Conduct(), {}
        keys = await self._keys_of(subject)
        values = await retrying_idempotent(lambda: cast("Any", self._store.mget(keys)), writes=False) if keys else []
        for key, value in zip(keys, values, strict=True):
            policy = key.removeprefix(self._prefix.encode()).partition(b":")[0].decode()
            if policy == CONDUCT and value is not None:
                conduct = read_conduct(value)
            elif value is not None:
                counts[policy] = read_count(value)
        seconds, micros = await retrying_idempotent(
            lambda: _TIME.run(self._store, [self._key(CONDUCT, subject)], []), writes=False
        )
        return picture_of(subject, int(seconds) * 1_000_000 + int(micros), conduct, counts, self._abuse)

    async def reset(self, subject: str) -> int:
        """Forget all of a subject, its blocks too; tells how many keys that were. Looks through all keys. Raises
        `OutcomeUnknownError`, `UnavailableError` or `RequestError`."""
        for local in [key for key in self._local if key[1] == subject]:
            del self._local[local]
        keys = await self._keys_of(subject)
        if keys:
            await retrying_idempotent(lambda: cast("Any", self._store.delete(*keys)), writes=True)
        return len(keys)

    async def _keys_of(self, subject: str) -> list[bytes]:
        _check_subject(subject)
        tail = f":{{{subject}}}".encode()

        async def scan() -> list[bytes]:
            # The pattern cannot quote a subject with an asterisk in it, so the end is compared here.
            found = self._store.scan_iter(match=f"{self._prefix}*", count=1_000)
            return sorted({key async for key in found if key.endswith(tail)})

        return await retrying_idempotent(scan, writes=False)

    def describe(self) -> LimiterPicture:
        """A frozen picture."""
        return LimiterPicture(self._is_away, self._instances, self._admitted, self._refused, self._decided_locally)

    async def aclose(self) -> None:
        """Close the store's client if this limiter made it."""
        if self._owns_store:
            await self._store.aclose()

    # Inside -----------------------------------------------------------------------------------------------------------

    async def _decide(self, policies: tuple[Policy, ...], subject: str, cost: int) -> Decision:
        if self._clock.now() >= self._away_until:
            try:
                # Each within the patience: the first two are rarely due, and end the wait if the store is away.
                await self._roll_call()
                await self._report(policies, subject)
                answer = await self._run(b"take", policies, subject, cost, self._new_nonce())
            except NoctuleError as error:
                self._lose(error)
            else:
                self._find()
                return _decision(policies, subject, answer)
        return _tightest([self._decide_locally(policy, subject, cost) for policy in policies])

    async def _run(
        self, mode: bytes, policies: tuple[Policy, ...], subject: str, cost: int, nonce: bytes
    ) -> SubjectAnswer:
        keys = [self._key(name, subject) for name in (CONDUCT, *(policy.name for policy in policies))]
        arguments = script_arguments(mode, cost, nonce, self._abuse, policies)

        reply = await retrying_idempotent(
            lambda: _DECIDE.run(self._store, keys, arguments), writes=True, budget_s=self._patience_s
        )
        return read_reply(reply)

    async def _give_back(self, policies: tuple[Policy, ...], subject: str, cost: int) -> None:
        try:
            await self._run(b"give", policies, subject, cost, b"")
        except NoctuleError as error:
            # Too much is counted then, never too little.
            log.info("limit_not_given_back", extra={"reason": str(error)})

    async def _roll_call(self) -> None:
        now = self._clock.now()
        if self._fixed_instances is not None or now < self._roll_call_at:
            return
        self._roll_call_at = now + ROLL_CALL_S
        keys, arguments = [f"{self._prefix}{{instances}}"], [self._name, str(int(ABSENT_S * 1000))]
        count = await retrying_idempotent(
            lambda: _ROLL_CALL.run(self._store, keys, arguments), writes=True, budget_s=self._patience_s
        )
        self._instances = max(int(count), 1)

    async def _report(self, policies: tuple[Policy, ...], subject: str) -> None:
        """Tell the store what this instance admitted of the subject while it was away."""
        for policy in policies:
            local = self._local.pop((self._key(policy.name, subject), subject), None)
            if local is not None and local.admitted and local.since_us + policy.window_us > self._now_us():
                await self._run(b"add", (policy,), subject, local.admitted, b"")

    def _decide_locally(self, policy: Policy, subject: str, cost: int) -> Decision:
        if policy.on_store_loss is OnStoreLoss.CLOSED:
            return Decision(False, policy, subject, 0, 0, AWAY_S, AWAY_S, is_local=True)
        if policy.on_store_loss is OnStoreLoss.OPEN:
            return Decision(True, policy, subject, policy.limit, policy.limit, 0.0, 0.0, is_local=True)
        share = -(-policy.limit // self._instances)
        key = (self._key(policy.name, subject), subject)
        now_us = self._now_us()
        local = self._local.pop(key, None) or _LocalCount((0, 0, 0), 0, now_us)
        taken = take(policy.algorithm, local.count, now_us, limit=share, window_us=policy.window_us, cost=cost)
        admitted = local.admitted + (cost if taken.is_admitted else 0)
        self._local[key] = _LocalCount(taken.count, admitted, local.since_us)
        if len(self._local) > SUBJECTS_MAX:
            del self._local[next(iter(self._local))]
        return _local_decision(policy, subject, share, taken)

    def _lose(self, error: Exception) -> None:
        self._away_until = self._clock.now() + AWAY_S
        if not self._is_away:
            fields = {"instances": self._instances, "reason": str(error) or type(error).__name__}
            log.warning("limits_divided", extra=fields)
        self._is_away = True

    def _find(self) -> None:
        if self._is_away:
            log.info("limits_shared_again")
        self._is_away = False

    def _key(self, policy: str, subject: str) -> str:
        return f"{self._prefix}{policy}:{{{subject}}}"

    def _now_us(self) -> int:
        return self._clock.wall_ms() * 1000


@dataclass(frozen=True, slots=True)
class _LocalCount:
    count: Count
    admitted: int
    """Since the store is away."""
    since_us: int


def _check(policies: Sequence[Policy], subjects: Sequence[str], cost: int) -> None:
    if not 1 <= len(policies) <= POLICIES_MAX or len({policy.name for policy in policies}) != len(policies):
        raise ConfigError(f"rate limits: a decision takes 1 to {POLICIES_MAX} policies of different names")
    if not subjects or cost < 1:
        raise ConfigError("rate limits: a decision needs a subject, and a cost of 1 or more")
    for subject in subjects:
        _check_subject(subject)


def _check_subject(subject: str) -> None:
    if not 0 < len(subject) <= SUBJECT_CHARACTERS_MAX or set("{}") & set(subject):
        raise ConfigError(
            f"rate limits: a subject is 1 to {SUBJECT_CHARACTERS_MAX} characters without braces, as in user:ada"
        )


def _decision(policies: tuple[Policy, ...], subject: str, answer: SubjectAnswer) -> Decision:
    def of(policy: Policy, said: PolicyAnswer) -> Decision:
        blocked_s = answer.blocked_us / 1e6
        return Decision(
            said.is_admitted and answer.is_admitted,
            policy,
            subject,
            said.limit,
            said.remaining,
            said.reset_us / 1e6,
            max(said.retry_us / 1e6, blocked_s),
            is_strict=answer.is_strict,
            is_blocked=blocked_s > 0,
        )

    decisions = [of(policy, said) for policy, said in zip(policies, answer.policies, strict=True)]
    if answer.is_admitted or answer.blocked_us:
        return _tightest(decisions)
    # Those that would have admitted it are not the reason.
    return _tightest([each for each, said in zip(decisions, answer.policies, strict=True) if not said.is_admitted])


def _local_decision(policy: Policy, subject: str, share: int, taken: Taken) -> Decision:
    return Decision(
        taken.is_admitted,
        policy,
        subject,
        share,
        taken.remaining,
        taken.reset_us / 1e6,
        taken.retry_us / 1e6,
        is_local=True,
    )


def _tightest(decisions: Sequence[Decision]) -> Decision:
    """Of refusals the one that lasts longest, else the one with the least left."""
    refused = [each for each in decisions if not each.is_admitted]
    if refused:
        return max(refused, key=lambda each: each.retry_after_s)
    return min(decisions, key=lambda each: each.remaining / max(each.limit, 1))
