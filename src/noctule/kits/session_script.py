"""The scripts of the session kit, each one decision in one slot, by the store's own clock.

Of a session, ``<prefix>{<handle>}``, a hash with a field for each key of the session, in JSON unless it is sealed.
Fields of ours begin with two underscores:

- ``__born__``: when it began, in ms of the store's clock. A hash without it is no session.
- ``__dead__``: the tombstone of logout. Nothing creates a session where it stands, however late it arrives.
- ``__id__``: the SHA-256 of the one id that opens it. Exchanging it is what `regenerate` does.
- ``__touched__``: when its life was last renewed.
- ``__done__``: the names of the saves of the last seconds, so that one that is asked again changes nothing.
- ``__user__``, ``__owner__``, ``__epoch__``: who is signed in, the SHA-256 of that, and the user's epoch at sign-in.

Of a user, ``<prefix>user:{<SHA-256 of the user>}``, a hash with a field for each signed-in session by its handle, and
``__epoch__``: sessions of an older epoch are signed out, whether or not they are listed.
"""

BORN, DEAD, ID, TOUCHED, DONE = "__born__", "__dead__", "__id__", "__touched__", "__done__"
USER, OWNER, EPOCH = "__user__", "__owner__", "__epoch__"
OURS = frozenset((BORN, DEAD, ID, TOUCHED, DONE, USER, OWNER, EPOCH))

NONCE_CHARACTERS = 11
"""64 random bits in base64url."""

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function digits(number) return string.format('%013.0f', number) end
"""

SAVE = (
    _NOW
    + """
local key, op, id, nonce, new_id = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local idle_ms, absolute_ms, touch_ms = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local fields_max, remember_ms, remember_max = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local ours = redis.call('HMGET', key, '__born__', '__dead__', '__id__', '__touched__', '__done__')
local born, done, renews = tonumber(ours[1] or ''), ours[5] or '', false
if ours[2] then return {'gone'} end
if born then
  for at = 1, #done, 24 do
    if string.sub(done, at, at + 10) == nonce then
      return {'saved', math.max(1, math.min(idle_ms, born + absolute_ms - now)), 1, 0}
    end
  end
  if op == 'create' or ours[3] ~= id or now >= born + absolute_ms then return {'gone'} end
elseif op == 'create' then
  born, renews, new_id = now, true, id
else
  return {'gone'}
end

local sets, drops, clashes, overwritten, grows = {}, {}, {}, 0, 0
for at = 11, #ARGV, 4 do
  local name, kind, mark, value = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local here = redis.call('HGET', key, name)
  if kind ~= 'own' and (here and redis.sha1hex(here) or '') ~= mark then
    local is_checked = kind == 'checked' or kind == 'checked-drop'
    if is_checked then clashes[#clashes + 1] = name else overwritten = overwritten + 1 end
  end
  if kind == 'drop' or kind == 'checked-drop' then
    drops[#drops + 1] = name
  else
    if kind ~= 'own' and not here then grows = grows + 1 end
    sets[#sets + 1] = name
    sets[#sets + 1] = value
  end
end
if #clashes > 0 then return {'clash', unpack(clashes)} end
if grows > 0 and redis.call('HLEN', key) + grows > fields_max then return {'full'} end

renews = renews or new_id ~= '' or now - tonumber(ours[4] or '0') >= touch_ms
if #sets > 0 or #drops > 0 or new_id ~= '' then
  local recent, first = {}, math.max(1, #done - 24 * (remember_max - 1) + 1)
  for at = first, #done, 24 do
    if now - tonumber(string.sub(done, at + 11, at + 23)) < remember_ms then
      recent[#recent + 1] = string.sub(done, at, at + 23)
    end
  end
  recent[#recent + 1] = nonce .. digits(now)
  sets[#sets + 1] = '__done__'
  sets[#sets + 1] = table.concat(recent)
end
if op == 'create' then
  sets[#sets + 1] = '__born__'
  sets[#sets + 1] = digits(born)
end
if new_id ~= '' then
  sets[#sets + 1] = '__id__'
  sets[#sets + 1] = new_id
end
if renews then
  sets[#sets + 1] = '__touched__'
  sets[#sets + 1] = digits(now)
end
if #sets > 0 then redis.call('HSET', key, unpack(sets)) end
if #drops > 0 then redis.call('HDEL', key, unpack(drops)) end
local left_ms = math.min(idle_ms, born + absolute_ms - now)
if renews then redis.call('PEXPIRE', key, left_ms) end
return {'saved', left_ms, renews and 1 or 0, overwritten}
"""
)
"""One save: all of it, or nothing. KEYS: the session. ARGV: ``create`` or ``save``, the digest of the id it is made
under, a nonce, the digest of a new id or nothing, idle, absolute and touch times in ms, the most fields, how long and
how many nonces are kept; then for each field its name, ``set``, ``drop``, ``checked``, ``checked-drop`` or ``own``, the
SHA-1 of what it held when it was loaded (empty: it was not there), its value.

Answers ``saved`` with the ms it has to live, whether that was renewed, and how many fields another save had changed
meanwhile; ``gone`` when there is no such session any more; ``clash`` with the names of checked fields that another
changed; ``full``. Only the first has written anything."""

END = """
local key, owner, tombstone_ms = KEYS[1], ARGV[1], ARGV[2]
local ours = redis.call('HMGET', key, '__born__', '__owner__')
if ours[1] and owner ~= '' and ours[2] ~= owner then return 0 end
redis.call('DEL', key)
redis.call('HSET', key, '__dead__', '1')
redis.call('PEXPIRE', key, tombstone_ms)
return 1
"""
"""Delete a session and leave a tombstone. ARGV: nothing, or the digest of the user whose session it must be; for how
many ms the tombstone stays. Answers whether it was done."""

ENROL = (
    _NOW
    + """
local key, handle, about = KEYS[1], ARGV[1], ARGV[2]
local idle_ms, keep_ms, most = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local epoch = tonumber(redis.call('HGET', key, '__epoch__') or '') or now
local listed, left = {}, {}
local fields = redis.call('HGETALL', key)
for at = 1, #fields, 2 do
  local name, entry = fields[at], fields[at + 1]
  if name ~= '__epoch__' and name ~= '__raised__' and name ~= handle then
    local seen = tonumber(string.sub(entry, 14, 26))
    if seen + idle_ms <= now then redis.call('HDEL', key, name) else listed[#listed + 1] = {seen, name} end
  end
end
table.sort(listed, function(one, other) return one[1] < other[1] end)
for at = 1, #listed - most + 1 do
  redis.call('HDEL', key, listed[at][2])
  left[#left + 1] = listed[at][2]
end
redis.call('HSET', key, '__epoch__', digits(epoch), handle, digits(now) .. digits(now) .. digits(epoch) .. about)
redis.call('PEXPIRE', key, keep_ms)
return {digits(epoch), unpack(left)}
"""
)
"""Note that a session signs in. ARGV: its handle, what is known of the device, idle time, for how long the user is
remembered (longer than any session), the most sessions. Answers the user's epoch and the handles of sessions that are
one too many, those unseen for the longest; they are no longer listed."""

SEEN = (
    _NOW
    + """
local key, handle, about, keep_ms = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local entry = redis.call('HGET', key, handle)
if not entry then return 0 end
redis.call('HSET', key, handle, string.sub(entry, 1, 13) .. digits(now) .. string.sub(entry, 27, 39) .. about)
redis.call('PEXPIRE', key, keep_ms)
return 1
"""
)
"""Note that a listed session was just used. ARGV: its handle, what is known of the device, as in `ENROL`."""

RAISE = (
    _NOW
    + """
local key, nonce, keep_ms = KEYS[1], ARGV[1], ARGV[2]
local epoch = tonumber(redis.call('HGET', key, '__epoch__') or '0')
if redis.call('HGET', key, '__raised__') ~= nonce then
  epoch = math.max(epoch + 1, now)
  redis.call('HSET', key, '__epoch__', digits(epoch), '__raised__', nonce)
  redis.call('PEXPIRE', key, keep_ms)
end
local older, fields = {}, redis.call('HGETALL', key)
for at = 1, #fields, 2 do
  local name = fields[at]
  if name ~= '__epoch__' and name ~= '__raised__' and tonumber(string.sub(fields[at + 1], 27, 39)) < epoch then
    older[#older + 1] = name
  end
end
return {digits(epoch), unpack(older)}
"""
)
"""Sign a user out everywhere: from here on no session of an older epoch is one. ARGV: a nonce, for how long the user is
remembered. Answers the new epoch and the handles of the sessions that are signed out by it."""
