"""The decision of a rate limit as one atomic script, for any store that runs Redis' Lua.

The arithmetic is that of `core/limits`; the time is the store's own, so no instance's clock counts. All keys of a call
are those of one subject and share its hash tag. Run by EVALSHA, with EVAL as the answer to NOSCRIPT.
"""

from dataclasses import dataclass
from typing import TypeAlias

from noctule.core.limits.abuse import AbuseRules, Conduct
from noctule.core.limits.policy import Algorithm, Policy
from noctule.core.limits.take import StoredCount

NONCE_BYTES = 6
"""Of a decision's name: of the 64 that are remembered two are equal in one of 10^11 cases."""
NONCES_MAX = 64
"""Decisions remembered for each subject and policy. One that is asked again within the next 64 is told the same and not
counted twice, which is what a client needs whose answer was lost with the store's leader."""

_LETTERS = {Algorithm.FIXED_WINDOW: b"f", Algorithm.SLIDING_WINDOW: b"s", Algorithm.GCRA: b"g"}

SCRIPT = """
-- KEYS[1]: the subject's conduct; KEYS[2..]: its counts. ARGV: mode, cost, nonce, half_life_us, strict_score,
-- block_score, block_us_first, block_us_max, calm_us, then algorithm, limit, strict limit, window_us of each policy.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local mode, cost, nonce = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local half_life, strict_score, block_score = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local block_first, block_max, calm = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])

local function whole(number) return string.format('%.0f', number) end

-- The first words and the rest. By plain search: the rest is binary and long, which no pattern should wade through.
local function words(text, count)
  local found, from = {}, 1
  for i = 1, count do
    local at = string.find(text, ' ', from, true)
    found[i] = string.sub(text, from, at - 1)
    from = at + 1
  end
  found[count + 1] = string.sub(text, from)
  return found
end

local function turned(n, c, b, number)
  if n >= number then return n, c, b end
  if n == number - 1 then return number, 0, c end
  return number, 0, 0
end

local function fixed(n, c, b, limit, window)
  local number
  number, c, b = turned(n, c, b, math.floor(now / window))
  local rest = window - now % window
  if c + cost > limit then return false, math.max(limit - c, 0), rest, rest, number, c, 0 end
  return true, limit - c - cost, rest, 0, number, c + cost, 0
end

local function sliding(n, c, b, limit, window)
  local number
  number, c, b = turned(n, c, b, math.floor(now / window))
  local into = now % window
  local used = c + math.ceil(b * ((window - into) / window))
  local admitted = used + cost <= limit
  if admitted then c = c + cost end
  local reset = window - into
  if c > 0 then reset = reset + window end
  if admitted then return true, limit - used - cost, reset, 0, number, c, b end
  local retry = window
  if cost <= limit then
    local room = limit - cost - c
    if room >= 0 then
      retry = math.max(window - into - math.floor(room * (window / b)), 1)
    else
      retry = window - into + window - math.floor((limit - cost) * (window / c))
    end
  end
  return false, math.max(limit - used, 0), reset, retry, number, c, b
end

local function gcra(n, c, b, limit, window)
  local step = math.floor(window / limit)
  local arrival = math.max(n, now)
  local after = arrival + cost * step
  local over = after - now - limit * step
  if over > 0 then
    local ahead = arrival - now
    local retry = over
    if cost > limit then retry = window end
    return false, math.max(math.floor((limit * step - ahead) / step), 0), ahead, retry, n, 0, 0
  end
  return true, math.floor(-over / step), after - now, 0, after, 0, 0
end

local deciders = {f = fixed, s = sliding, g = gcra}
local score, scored, blocks, blocked = 0, 0, 0, 0
local conduct = half_life > 0 and redis.call('GET', KEYS[1])
if conduct then
  local word = words(conduct, 3)
  score, scored, blocks, blocked = tonumber(word[1]), tonumber(word[2]), tonumber(word[3]), tonumber(word[4])
  score = score * 0.5 ^ (math.max(now - scored, 0) / half_life)
end
local is_strict = half_life > 0 and score >= strict_score
local is_blocked = blocked > now and mode == 'take'

local all = not is_blocked
local answers, writes = {}, {}
for i = 2, #KEYS do
  local at = 10 + (i - 2) * 4
  local algorithm = ARGV[at]
  local limit, strict, window = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  if is_strict and strict > 0 then limit = strict end
  local n, c, b, seen = 0, 0, 0, ''
  local kept = redis.call('GET', KEYS[i])
  if kept then
    local word = words(kept, 6)
    if word[1] == algorithm and tonumber(word[3]) == window then
      n, c, b, seen = tonumber(word[4]), tonumber(word[5]), tonumber(word[6]), word[7]
    end
  end
  if mode == 'take' then
    local known = false
    if nonce ~= '' then
      for from = 1, #seen, #nonce do
        if string.sub(seen, from, from + #nonce - 1) == nonce then known = true end
      end
    end
    local asked = cost
    if known then cost = 0 end
    local ok, remaining, reset, retry, n2, c2, b2 = deciders[algorithm](n, c, b, limit, window)
    cost = asked
    if known then ok, retry = true, 0 end
    all = all and ok
    answers[#answers + 1] = {ok and 1 or 0, limit, remaining, reset, retry}
    seen = string.sub(nonce .. seen, 1, SEEN_BYTES)
    if not known then writes[#writes + 1] = {KEYS[i], n2, c2, b2, seen, window, algorithm, limit} end
  else
    if algorithm == 'g' then
      local step = math.floor(window / limit)
      if mode == 'give' then n = math.max(n - cost * step, 0) else n = math.max(n, now) + cost * step end
    else
      n, c, b = turned(n, c, b, math.floor(now / window))
      if mode == 'give' then c = math.max(c - cost, 0) else c = c + cost end
    end
    writes[#writes + 1] = {KEYS[i], n, c, b, seen, window, algorithm, limit}
  end
end
if all then
  for _, w in ipairs(writes) do
    local head = w[7] .. ' ' .. whole(w[8]) .. ' ' .. whole(w[6]) .. ' '
    local value = head .. whole(w[2]) .. ' ' .. whole(w[3]) .. ' ' .. whole(w[4]) .. ' ' .. w[5]
    redis.call('SET', w[1], value, 'PX', whole(math.ceil(w[6] * 2 / 1000)))
  end
elseif mode == 'take' and half_life > 0 and not is_blocked then
  score, scored = score + 1, now
  if score >= block_score then
    if now >= blocked + calm then blocks = 0 end
    blocked = now + math.floor(math.min(block_first * 2 ^ math.min(blocks, 30), block_max) + 0.5)
    blocks = blocks + 1
    score, scored = (strict_score + block_score) / 2, blocked
  end
  local value = string.format('%.17g', score) .. ' ' .. whole(scored) .. ' ' .. whole(blocks) .. ' ' .. whole(blocked)
  redis.call('SET', KEYS[1], value, 'PX', whole(math.ceil((calm + math.max(blocked - now, 0)) / 1000)))
end
return {all and 1 or 0, is_strict and 1 or 0, math.max(blocked - now, 0), blocks, answers}
""".replace("SEEN_BYTES", str(NONCE_BYTES * NONCES_MAX))


@dataclass(frozen=True, slots=True)
class PolicyAnswer:
    """What one policy said of a request; times in µs."""

    is_admitted: bool
    limit: int
    remaining: int
    reset_us: int
    retry_us: int


@dataclass(frozen=True, slots=True)
class SubjectAnswer:
    """What all policies said of a request of one subject."""

    is_admitted: bool
    is_strict: bool
    blocked_us: int
    """For how long it is blocked; 0 when it is not."""
    blocks: int
    """How many blocks it has had in the present series."""
    policies: tuple[PolicyAnswer, ...]
    """In the order asked for."""


Reply: TypeAlias = tuple[int, int, int, int, list[tuple[int, int, int, int, int]]]


def script_arguments(
    mode: bytes, cost: int, nonce: bytes, rules: AbuseRules | None, policies: tuple[Policy, ...]
) -> list[bytes]:
    """ARGV of the script. `rules` None: no conduct is kept, nobody is strict or blocked."""
    arguments = [mode, b"%d" % cost, nonce]
    if rules is None:
        arguments += [b"0"] * 6
    else:
        arguments += [
            _number(rules.half_life_s * 1e6),
            _number(rules.strict_score),
            _number(rules.block_score),
            _number(rules.block_s_first * 1e6),
            _number(rules.block_s_max * 1e6),
            _number(rules.calm_s * 1e6),
        ]
    for policy in policies:
        arguments += [
            _LETTERS[policy.algorithm],
            b"%d" % policy.limit,
            b"%d" % policy.strict_limit,
            b"%d" % policy.window_us,
        ]
    return arguments


def read_reply(reply: Reply) -> SubjectAnswer:
    """What the script answered."""
    admitted, strict, blocked_us, blocks, answers = reply
    policies = tuple(
        PolicyAnswer(bool(ok), limit, remaining, reset, retry) for ok, limit, remaining, reset, retry in answers
    )
    return SubjectAnswer(bool(admitted), bool(strict), blocked_us, blocks, policies)


def read_count(value: bytes) -> StoredCount:
    """A key of counts as the script wrote it."""
    letter, limit, window_us, number, current, before, _ = value.split(b" ", 6)
    algorithm = next(each for each, known in _LETTERS.items() if known == letter)
    return StoredCount(algorithm, int(limit), int(window_us), (int(number), int(current), int(before)))


def read_conduct(value: bytes) -> Conduct:
    """The key of a subject's conduct as the script wrote it."""
    score, scored_us, blocks, blocked_until_us = value.split(b" ")
    return Conduct(float(score), int(scored_us), int(blocks), int(blocked_until_us))


def _number(value: float) -> bytes:
    return repr(float(value)).encode()
