"""What the cache does in the store: a value, and beside it the claim of whoever is loading it.

A value that was loaded is kept only while its claim still stands. Whoever deletes the value deletes the claim, so that
what was loaded before a change is never kept after it.
"""

from noctule.kits.scripts import Script

READ_OR_CLAIM = Script("""
-- KEYS: value, claim. ARGV: claimant, claim_ms. Answers {1, value, ttl_ms}, {2}: yours to load, or {0}: another's.
local value = redis.call('GET', KEYS[1])
if value then return {1, value, redis.call('PTTL', KEYS[1])} end
if redis.call('GET', KEYS[2]) == ARGV[1] then return {2} end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return {2} end
return {0}
""")

FILL = Script("""
-- KEYS: value, claim. ARGV: claimant, value, ttl_ms. Answers whether it was kept. Asked again, it is kept again.
local claim = redis.call('GET', KEYS[2])
if claim ~= ARGV[1] then
  if not claim and redis.call('GET', KEYS[1]) == ARGV[2] then return 1 end
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2])
return 1
""")

GIVE_UP = Script("""
-- KEYS: claim. ARGV: claimant. Whoever failed to load lets the next one try.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
""")
