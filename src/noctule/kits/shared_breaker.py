"""The state of a circuit breaker in the store, which all instances share: one hash, changed by one script.

The rules are those of core/balance/breaker.py, and a test holds the two to each other. Here they are a script because
each step reads, decides and writes as one; time is the store's, so instances' clocks do not matter. Each change of
state gives a greater epoch, at least the store's time in ms: it grows even when the store has lost what it had. A
verdict and counts of another epoch change nothing.
"""

from collections.abc import Sequence
from random import Random
from typing import assert_never

from redis.asyncio import Redis

from noctule.base.errors import ProtocolError
from noctule.core.balance.breaker import BreakerPolicy, BreakerState
from noctule.core.balance.window import SLOTS
from noctule.kits.breaker_standing import AskProbe, Exchange, Question, SharedView, Verdict
from noctule.kits.scripts import Script

KEY_PREFIX = "breaker:"

IDLE_TTL_S = 3600
"""A breaker that nobody has used for so long beside its longest time is forgotten, and closed."""

SCRIPT = """
local key, op, epoch_asked = KEYS[1], ARGV[1], tonumber(ARGV[2])
local slot_ms, calls_min = tonumber(ARGV[3]), tonumber(ARGV[4])
local failure_rate, slow_rate = tonumber(ARGV[5]), tonumber(ARGV[6])
local open_ms, open_ms_max, stretch = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local probes_max, probes_good, lease_ms, ttl_ms = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]), ARGV[13]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local slot, slots = math.floor(now / slot_ms), 10
local state, epoch, until_ms, rounds, good = 'closed', 0, 0, 0, 0
local probes, probe_free, counts, has_changed = 0, 0, {0, 0, 0}, false

local fields = redis.call('HGETALL', key)
for i = 1, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  local kind = string.sub(name, 1, 2)
  if name == 'state' then state = value
  elseif name == 'epoch' then epoch = tonumber(value)
  elseif name == 'until' then until_ms = tonumber(value)
  elseif name == 'rounds' then rounds = tonumber(value)
  elseif name == 'good' then good = tonumber(value)
  elseif kind == 'w:' then
    if tonumber(string.sub(name, 3)) <= slot - slots then
      redis.call('HDEL', key, name)
    else
      local n = 0
      for count in string.gmatch(value, '%d+') do n = n + 1; counts[n] = counts[n] + tonumber(count) end
    end
  elseif kind == 'p:' then
    local free = tonumber(value)
    if free <= now then
      redis.call('HDEL', key, name)
    else
      probes = probes + 1
      if probe_free == 0 or free < probe_free then probe_free = free end
    end
  end
end

local function become(another)
  state, epoch, good, probes, counts, has_changed = another, math.max(epoch + 1, now), 0, 0, {0, 0, 0}, true
  if another == 'closed' then rounds = 0 end
  if another == 'open' then
    until_ms = now + math.floor(math.min(open_ms_max, open_ms * 2 ^ math.min(rounds, 32)) * stretch)
  end
  redis.call('DEL', key)
  redis.call('HSET', key, 'state', state, 'epoch', string.format('%.0f', epoch),
    'until', string.format('%.0f', until_ms), 'rounds', rounds, 'good', 0)
end

local granted = 0
if op == 'exchange' then
  local calls = tonumber(ARGV[14])
  if state == 'closed' and calls > 0 and (epoch_asked == epoch or epoch_asked == 0) then
    local name, here, n = 'w:' .. string.format('%.0f', slot), {0, 0, 0}, 0
    for count in string.gmatch(redis.call('HGET', key, name) or '', '%d+') do n = n + 1; here[n] = tonumber(count) end
    for i = 1, 3 do
      here[i] = here[i] + tonumber(ARGV[13 + i])
      counts[i] = counts[i] + tonumber(ARGV[13 + i])
    end
    redis.call('HSET', key, name, string.format('%.0f %.0f %.0f', here[1], here[2], here[3]))
    has_changed = true
    if counts[1] >= calls_min and (counts[2] >= failure_rate * counts[1]
        or (slow_rate > 0 and counts[3] >= slow_rate * counts[1])) then
      become('open')
    end
  end
elseif op == 'probe' then
  if state == 'open' and now >= until_ms then become('half_open') end
  if state == 'half_open' and probes < probes_max then
    redis.call('HSET', key, 'p:' .. ARGV[14], string.format('%.0f', now + lease_ms))
    probes, granted, has_changed = probes + 1, 1, true
  end
elseif state == 'half_open' and epoch_asked == epoch then
  probes = probes - redis.call('HDEL', key, 'p:' .. ARGV[14])
  if op == 'failed' then
    rounds = rounds + 1
    become('open')
  elseif op == 'succeeded' then
    good = good + 1
    redis.call('HSET', key, 'good', good)
    if good >= probes_good then become('closed') end
  end
end
if has_changed then redis.call('PEXPIRE', key, ttl_ms) end

local wait_ms = 0
if state == 'open' then wait_ms = math.max(0, until_ms - now) end
if state == 'half_open' and probes >= probes_max and probe_free > 0 then wait_ms = probe_free - now end
return {state, string.format('%.0f', epoch), wait_ms, granted, counts[1], counts[2], counts[3], probes}
"""

_STEP = Script(SCRIPT)

# The script cannot see the constant of the machine that it follows.
assert SLOTS == 10


class SharedBreaker:
    """One breaker in one store; every method is one round trip, and raises what the client raises."""

    def __init__(self, client: Redis, name: str, policy: BreakerPolicy, chance: Random) -> None:
        self._key = f"{KEY_PREFIX}{{{name}}}"
        self._chance = chance
        self._policy = policy
        self._client = client
        ttl_s = IDLE_TTL_S + max(policy.window_s, 2 * policy.open_s_max, policy.probe_lease_s)
        self._before: Sequence[float] = (
            max(1, round(policy.window_s * 1000 / SLOTS)),
            policy.calls_min,
            policy.failure_rate,
            policy.slow_rate if policy.slow_call_s else 0,
            policy.open_s * 1000,
            policy.open_s_max * 1000,
        )
        self._after: Sequence[float] = (
            policy.probes_max,
            policy.probes_good,
            round(policy.probe_lease_s * 1000),
            round(ttl_s * 1000),
        )

    async def ask(self, question: Question) -> SharedView:
        """Put a question to the store."""
        match question:
            case Exchange(epoch, calls, failures, slow):
                return await self._run("exchange", epoch, calls, failures, slow)
            case AskProbe(token):
                return await self._run("probe", 0, token)
            case Verdict(token, epoch, None):
                return await self._run("given_up", epoch, token)
            case Verdict(token, epoch, is_ok):
                return await self._run("succeeded" if is_ok else "failed", epoch, token)
            case _:
                assert_never(question)

    async def _run(self, operation: str, epoch: int, *arguments: str | int) -> SharedView:
        stretch = 1 + self._policy.jitter * self._chance.random()
        values = [operation, epoch, *self._before, stretch, *self._after, *arguments]
        reply = await _STEP.run(self._client, [self._key], [str(value) for value in values])
        try:
            state, number, wait_ms, granted, calls, failures, slow, probes = reply
            text = state.decode() if isinstance(state, bytes) else state
            return SharedView(
                BreakerState(text), int(number), wait_ms / 1000, granted == 1, calls, failures, slow, probes
            )
        except (ValueError, TypeError) as error:
            raise ProtocolError(f"the store's answer about the breaker {self._key!r} is none: {error}") from error
