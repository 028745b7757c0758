"""What a lock is in the store: one hash with a field for each holder, changed by these scripts only.

A mutex has one permit, a semaphore several. A fencing token is the store's time in µs, or one more than the last if
that is later: it grows from holder to holder, also when a lock was forgotten, and also when a server whose clock is up
to `REMEMBERED_MS` behind has taken over. Whoever asks again under the same name, because an answer was lost, is told
the same and holds one permit.
"""

from noctule.kits.scripts import Script

REMEMBERED_MS = 24 * 3600 * 1000
"""How long the last token of a lock is kept when nobody holds it."""

WAKE_MS = 10_000
"""How long a released lock is offered to whoever waits; after that they look by themselves."""

_READ = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function whole(number) return string.format('%.0f', number) end
local fields = redis.call('HGETALL', KEYS[1])
local last, mine, mine_until, count, first = 0, nil, nil, 0, nil
for i = 1, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  if name == '#' then
    last = tonumber(value)
  else
    local space = string.find(value, ' ', 1, true)
    local till, token = tonumber(string.sub(value, 1, space - 1)), string.sub(value, space + 1)
    if till <= now then
      redis.call('HDEL', KEYS[1], name)
    elseif name == '@' .. ARGV[1] then
      mine, mine_until = token, till
    else
      count = count + 1
      if not first or till < first then first = till end
    end
  end
end
"""

ACQUIRE = Script(
    _READ
    + """
-- KEYS: lock. ARGV: owner, ttl_ms, remembered_ms, permits. Answers {token, ms}: held for so long, or {'', ms}: nobody
-- else gets it before that unless somebody lets it go.
if not mine and count >= tonumber(ARGV[4]) then return {'', first - now} end
local ttl = tonumber(ARGV[2])
local token = mine
if not token then
  token = whole(math.max(last + 1, time[1] * 1000000 + time[2]))
  redis.call('HSET', KEYS[1], '#', token)
end
redis.call('HSET', KEYS[1], '@' .. ARGV[1], whole(now + ttl) .. ' ' .. token)
redis.call('PEXPIRE', KEYS[1], whole(ttl + tonumber(ARGV[3])))
return {token, ttl}
"""
)

RENEW = Script(
    _READ
    + """
-- KEYS: lock. ARGV: owner, ttl_ms, remembered_ms. Answers whether it is still the owner's.
if not mine then return 0 end
redis.call('HSET', KEYS[1], '@' .. ARGV[1], whole(now + tonumber(ARGV[2])) .. ' ' .. mine)
redis.call('PEXPIRE', KEYS[1], whole(tonumber(ARGV[2]) + tonumber(ARGV[3])))
return 1
"""
)

RELEASE = Script(
    _READ
    + """
-- KEYS: lock, wake. ARGV: owner, wake_ms. Answers whether it was the owner's. Whoever waits is woken by an element of a
-- list, of which there is one at most.
if not mine then return 0 end
redis.call('HDEL', KEYS[1], '@' .. ARGV[1])
if redis.call('LLEN', KEYS[2]) == 0 then redis.call('RPUSH', KEYS[2], '1') end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
"""
)

HOLDERS = Script(
    _READ
    + """
-- KEYS: lock. ARGV: ''. Answers how many hold it, and the last token.
return {count, whole(last)}
"""
)
