-- For wrk: one request after the other to etcd's JSON gateway, VERB being put or range; one of KEYS keys, values of
-- VALUE_BYTES bytes, both in base64 as it wants them.
local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function base64(text)
  local out = {}
  for at = 1, #text, 3 do
    local a, b, c = text:byte(at, at + 2)
    local bits = a * 65536 + (b or 0) * 256 + (c or 0)
    for shift = 3, 0, -1 do
      local index = math.floor(bits / 64 ^ shift) % 64
      out[#out + 1] = (shift == 1 and not b or shift == 0 and not c) and "=" or alphabet:sub(index + 1, index + 1)
    end
  end
  return table.concat(out)
end

local keys = tonumber(os.getenv("KEYS"))
local value = base64(string.rep("x", tonumber(os.getenv("VALUE_BYTES"))))
local path = "/v3/kv/" .. os.getenv("VERB")
local headers = { ["Content-Type"] = "application/json" }
local threads = 0

-- In each thread another order of keys.
function setup(thread)
  threads = threads + 1
  thread:set("seed", threads)
end

function init()
  math.randomseed(seed)
end

function request()
  local key = base64(string.format("key:%012d", math.random(0, keys - 1)))
  local body = path == "/v3/kv/put" and '{"key":"' .. key .. '","value":"' .. value .. '"}' or '{"key":"' .. key .. '"}'
  return wrk.format("POST", path, headers, body)
end

-- One line of numbers behind wrk's own: requests, seconds, p50 and p99 in ms, errors of any kind.
function done(summary, latency, _)
  local failed = summary.errors
  local count = failed.connect + failed.read + failed.write + failed.status + failed.timeout
  io.write(string.format("numbers %d %.3f %.3f %.3f %d\n", summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, count))
end
