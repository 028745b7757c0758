"""What is kept of grants, as atomic scripts, for any store that runs Redis' Lua.

The keys of a shard share the hash tag ``{<prefix>:<shard>}``, so everything of one subject is in one place, and with it
the log of revocations: a family ends, and the log says so, in one step.

    …log            stream: what was revoked, in order; its ids are the positions that tokens carry
    …position       the last id of the log, for as long as there is a deployment
    …floor          the position of the last "revoke all"
    …family:<id>    hash: one sign-in of one client; its fields are below
    …user:<digest>  sorted set: the families of a subject by the time they began
    …code:<family>  hash: an authorization code
    …dead:<what>    the position at which an access token or a subject was revoked, for who asks the store at each check

Times are the store's, in milliseconds. Each script begins with its own checks and writes after the last of them.
Strings that clients chose are compared and stored, never searched.
"""

from noctule.kits.scripts import Script

_PRELUDE = """
local base, keep, log_max = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local log = base .. 'log'

local function whole(number) return string.format('%.0f', number) end

local function position() return redis.call('GET', base .. 'position') or '0-0' end

-- Whether one id of the log is behind another.
local function behind(one, other)
  local a, b = string.find(one, '-', 1, true), string.find(other, '-', 1, true)
  local one_ms, other_ms = tonumber(string.sub(one, 1, a - 1)), tonumber(string.sub(other, 1, b - 1))
  if one_ms ~= other_ms then return one_ms > other_ms end
  return tonumber(string.sub(one, a + 1)) > tonumber(string.sub(other, b + 1))
end

local function append(kind, id)
  local at = redis.call('XADD', log, '*', 'kind', kind, 'id', id)
  redis.call('SET', base .. 'position', at)
  redis.call('PEXPIRE', log, whole(2 * keep))
  return at
end

-- A log that is full becomes one entry that refuses every access token there is: clients refresh, nobody slips through.
local function note(kind, id)
  redis.call('XTRIM', log, 'MINID', whole(now - keep))
  if redis.call('XLEN', log) >= log_max then
    redis.call('XTRIM', log, 'MAXLEN', 0)
    redis.call('SET', base .. 'dead:all', append('all', ''), 'PX', whole(keep))
  end
  return append(kind, id)
end

-- Whether a family is not there, or began before all were revoked.
local function is_over(family)
  local floor, begun = redis.call('GET', base .. 'floor'), redis.call('HGET', family, 'position')
  return not begun or (floor and behind(floor, begun)) or false
end

local function end_family(id)
  local family = base .. 'family:' .. id
  local user, was_over = redis.call('HGET', family, 'user'), is_over(family)
  if not user then return 0 end
  redis.call('DEL', family)
  redis.call('ZREM', base .. 'user:' .. user, id)
  note('family', id)
  if was_over then return 0 end
  return 1
end
"""

SAVE_CODE = Script(
    _PRELUDE
    + """
local id, life = ARGV[4], ARGV[5]
local code = base .. 'code:' .. id
if redis.call('EXISTS', code) == 0 then
  redis.call('HSET', code, 'secret', ARGV[6], 'client', ARGV[7], 'redirect', ARGV[8], 'challenge', ARGV[9],
    'user', ARGV[10], 'meta', ARGV[11], 'position', position())
  redis.call('PEXPIRE', code, life)
end
return 1
"""
)
"""Keep a code. The id is random, so asking again finds what the first time wrote."""

EXCHANGE = Script(
    _PRELUDE
    + """
-- With an empty nonce it only looks, which is enough to notice a code that comes twice.
local id, secret, client, redirect, challenge, nonce = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local code = base .. 'code:' .. id
local kept = redis.call('HMGET', code, 'secret', 'client', 'redirect', 'challenge', 'user', 'meta', 'used', 'position')
if not kept[1] or kept[1] ~= secret then return {'unknown'} end
if kept[7] and kept[7] == nonce then return {'done'} end
if kept[7] then
  end_family(id)
  return {'replayed'}
end
if kept[2] ~= client or kept[3] ~= redirect or kept[4] ~= challenge then return {'unknown'} end
-- Who was signed out everywhere after the code was made is not signed in by it.
for _, key in ipairs({base .. 'dead:subject:' .. kept[5], base .. 'floor'}) do
  local at = redis.call('GET', key)
  if at and behind(at, kept[8]) then return {'unknown'} end
end
if nonce == '' then return {'live', whole(now), position(), kept[6]} end

local current, idle, absolute, families_max = ARGV[10], tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
redis.call('HSET', code, 'used', nonce)
redis.call('PEXPIRE', code, ARGV[14])
local user, family = base .. 'user:' .. kept[5], base .. 'family:' .. id
redis.call('HSET', family, 'user', kept[5], 'client', client, 'meta', kept[6], 'current', current, 'begun', whole(now),
  'used', whole(now), 'address', ARGV[15], 'ends', whole(now + absolute), 'position', position())
redis.call('PEXPIRE', family, whole(math.min(idle, absolute)))
redis.call('ZADD', user, whole(now), id)
redis.call('PEXPIRE', user, whole(absolute))
if redis.call('ZCARD', user) > families_max then
  for _, each in ipairs(redis.call('ZRANGE', user, 0, -1)) do
    if redis.call('EXISTS', base .. 'family:' .. each) == 0 then redis.call('ZREM', user, each) end
  end
  local over = redis.call('ZCARD', user) - families_max
  if over > 0 then
    for _, each in ipairs(redis.call('ZRANGE', user, 0, over - 1)) do end_family(each) end
  end
end
return {'done'}
"""
)
"""Use a code once and begin its family; the second time ends the family."""

ROTATE = Script(
    _PRELUDE
    + """
-- With an empty successor it only looks, which is enough for a retry and for a replay.
local id, presented, client, grace = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local successor, sealed, idle, address = ARGV[8], ARGV[9], tonumber(ARGV[10]), ARGV[11]
local family = base .. 'family:' .. id
local kept = redis.call('HMGET', family, 'client', 'current', 'previous', 'sealed', 'rotated', 'ends', 'meta')
if kept[1] ~= client or is_over(family) then return {'unknown'} end
if presented == kept[2] then
  if successor == '' then return {'live', whole(now), position(), kept[7]} end
  redis.call('HSET', family, 'current', successor, 'previous', presented, 'sealed', sealed, 'rotated', whole(now),
    'used', whole(now), 'address', address)
  redis.call('PEXPIRE', family, whole(math.max(math.min(idle, tonumber(kept[6]) - now), 1)))
  return {'done', sealed}
end
if kept[3] and presented == kept[3] and now - tonumber(kept[5]) <= grace then return {'done', kept[4]} end
end_family(id)
return {'replayed'}
"""
)
"""Replace the present refresh token by its successor; within the grace time tell the answer again; else end all."""

REVOKE = Script(
    _PRELUDE
    + """
local kind, id, client = ARGV[4], ARGV[5], ARGV[6]
if kind == 'family' then
  local owner = redis.call('HGET', base .. 'family:' .. id, 'client')
  if owner and owner ~= client then return -1 end
  return end_family(id)
end
if kind == 'device' then
  local owner = redis.call('HGET', base .. 'family:' .. id, 'user')
  if not owner or owner ~= client then return 0 end
  return end_family(id)
end
local count = 0
if kind == 'subject' then
  local user = base .. 'user:' .. id
  local families = redis.call('ZRANGE', user, 0, -1)
  for _, each in ipairs(families) do
    if not is_over(base .. 'family:' .. each) then count = count + 1 end
    redis.call('DEL', base .. 'family:' .. each)
  end
  redis.call('DEL', user)
end
local at = note(kind, id)
if kind == 'all' then
  redis.call('SET', base .. 'floor', at)
  redis.call('SET', base .. 'dead:all', at, 'PX', whole(keep))
else
  redis.call('SET', base .. 'dead:' .. kind .. ':' .. id, at, 'PX', whole(keep))
end
return count
"""
)
"""End a family, one of a user's devices, an access token, all of a subject, or all there is in the shard: how many
families ended, those of "all" not counted, or -1 for another client's."""

LOOK = Script(
    _PRELUDE
    + """
return {whole(now), position()}
"""
)
"""The time, and the position of the log."""

DEVICES = Script(
    _PRELUDE
    + """
local found = {}
for _, id in ipairs(redis.call('ZREVRANGE', base .. 'user:' .. ARGV[4], 0, -1)) do
  local family = base .. 'family:' .. id
  local kept = redis.call('HMGET', family, 'client', 'meta', 'begun', 'used', 'address')
  if not is_over(family) then table.insert(found, {id, kept[1], kept[2], kept[3], kept[4], kept[5]}) end
end
return found
"""
)
"""The families of a subject that are alive, the newest first."""

FAMILY = Script(
    _PRELUDE
    + """
local family = base .. 'family:' .. ARGV[4]
local kept = redis.call('HMGET', family, 'client', 'current', 'meta', 'begun')
if kept[2] ~= ARGV[5] or is_over(family) then return {} end
return {kept[1], kept[3], kept[4], whole(now + redis.call('PTTL', family))}
"""
)
"""What a refresh token stands for, if it is the present one."""
