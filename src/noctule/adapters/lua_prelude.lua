-- What stands around every script: the only names it can reach, its budget, and the ways to commands and back.
--
-- This chunk is run once for each Lua state, by lua_engine.py, which hands in the functions of the host. They stay
-- local: a script never holds a value of the host, so there is none whose attributes it could ask for. Each run gets
-- globals and library tables of its own, empty ones that read from those below, so nothing stays behind for the next.
local host_call, host_overrun, host_sha1, host_decode,
  host_seed, instructions_max, command_cost, cpu_s_max, source_max, pattern_max, steps_max, depth_max = ...

local sethook, getinfo, clock = debug.sethook, debug.getinfo, os.clock
local loadstring, setfenv, setmetatable, type, error, pcall, xpcall, select, tostring, unpack =
  loadstring, setfenv, setmetatable, type, error, pcall, xpcall, select, tostring, unpack
local rawget, next, pairs, floor, ceil, huge = rawget, next, pairs, math.floor, math.ceil, math.huge
local format, sub, concat, rep, byte = string.format, string.sub, table.concat, string.rep, string.byte
local collect = collectgarbage

-- The budget ---------------------------------------------------------------------------------------------------------

local HOOK_EVERY = 100 -- Few, since one instruction may copy megabytes.
local left, clock_end, is_over = 0, 0, false

local function stop()
  if not is_over then
    is_over = true
    host_overrun()
  end
  -- From now on every instruction fails, so a script that catches this gets no further than to its next one.
  sethook(stop, "", 1)
  error("the script is over its budget", 0)
end

local function charge(instructions)
  left = left - instructions
  if left < 0 or clock() > clock_end then stop() end
end

local function on_count() charge(HOOK_EVERY) end

-- Globals -------------------------------------------------------------------------------------------------------------

local function refuse_write() error("Attempt to modify a readonly table", 2) end

local absent = {__index = function(_, name)
  error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
end}

local function reading(of) return {__index = of, __newindex = refuse_write, __metatable = false} end

local env

local function load_text(text, name)
  if type(text) ~= "string" then
    error("bad argument #1 to 'loadstring' (string expected, got " .. type(text) .. ")", 2)
  end
  if byte(text) == 27 then return nil, "bytecode is not loaded" end
  if #text > source_max then return nil, "source is too long" end
  charge(#text)
  local chunk, problem = loadstring(text, name or text)
  if not chunk then return nil, problem end
  return setfenv(chunk, env)
end

-- What is over its budget is not caught: neither here nor, where C calls nest so deeply that hooks fail, by the hook.
local function unless_over(...)
  if is_over then stop() end
  return ...
end

local function protected_call(...)
  charge(HOOK_EVERY)
  return unless_over(pcall(...))
end

-- As Redis' own pcall: of an error that is a reply the text is given.
local function text_of_error(ok, ...)
  if ok then return ok, ... end
  local problem = ...
  local text = type(problem) == "table" and rawget(problem, "err")
  return false, type(text) == "string" and text or problem
end

local function guarded_call(...) return text_of_error(protected_call(...)) end

local base = {
  _VERSION = _VERSION, assert = assert, error = error, getmetatable = getmetatable, ipairs = ipairs, next = next,
  pairs = pairs, pcall = guarded_call, rawequal = rawequal, rawget = rawget, rawset = rawset, select = select,
  setmetatable = setmetatable, tonumber = tonumber, tostring = tostring, type = type, unpack = unpack,
  loadstring = load_text,
  load = function(piece, name)
    local pieces, size = {}, 0
    while true do
      local text = piece()
      if text == nil or text == "" then break end
      pieces[#pieces + 1] = text
      size = size + #text
      if size > source_max then return nil, "source is too long" end
    end
    return load_text(concat(pieces), name or "=(load)")
  end,
  -- Not Lua's own: that calls the handler while hooks are off, so a handler could run for ever.
  xpcall = function(body, handler)
    local function rest(ok, ...)
      if ok then return true, ... end
      return false, handler(...)
    end
    return rest(protected_call(body))
  end,
  collectgarbage = function(what) return what == "count" and collect("count") or 0 end,
  gcinfo = function() return floor(collect("count")) end,
}
setmetatable(base, absent)
local env_reading = {__index = base, __newindex = refuse_write, __metatable = false}

-- Strings and tables: what may take long for few instructions is bounded --------------------------------------------

local function copy(of, without)
  local own = {}
  for name, value in pairs(of) do own[name] = value end
  for _, name in pairs(without) do own[name] = nil end
  return own
end

local strings = copy(string, {"dump"})
local tables = copy(table, {})
local maths = copy(math, {"random", "randomseed"})

-- The most steps that a search may take. What stands last, or with nothing but an end behind it, costs no other
-- tries; each other item that may be longer or shorter multiplies the tries by the subject's length.
local function pattern_cost(subject, pattern)
  local cost, length, i, n = 1, #subject + 1, 1, #pattern
  if byte(pattern, 1) ~= 94 then cost = length end
  while i <= n do
    local c = byte(pattern, i)
    if c == 37 then
      local d = byte(pattern, i + 1)
      if d == 98 or (d and d >= 48 and d <= 57) then cost = cost * length end
      i = i + 1
    elseif c == 42 or c == 43 or c == 45 then
      local behind = sub(pattern, i + 1)
      if c == 45 or not (behind == "" or behind == ")" or behind == "$" or behind == ")$") then cost = cost * length end
    elseif c == 63 then
      cost = cost * 2
    end
    i = i + 1
  end
  return cost
end

local function check_pattern(subject, pattern)
  if type(subject) == "number" then subject = tostring(subject) end
  if type(pattern) == "number" then pattern = tostring(pattern) end
  if type(subject) ~= "string" or type(pattern) ~= "string" then return end
  if #pattern > pattern_max then error("pattern too complex", 3) end
  if pattern_cost(subject, pattern) > steps_max then error("pattern too complex for a subject of this length", 3) end
  charge(#pattern)
end

local find, match, gmatch, gsub = string.find, string.match, string.gmatch, string.gsub
function strings.find(subject, pattern, from, plain)
  if not plain then
    check_pattern(subject, pattern)
  elseif type(subject) == "string" and type(pattern) == "string" and #subject * #pattern > 10 * steps_max then
    error("too long to be searched for", 2)
  end
  return find(subject, pattern, from, plain)
end
function strings.match(subject, pattern, from)
  check_pattern(subject, pattern)
  return match(subject, pattern, from)
end
function strings.gmatch(subject, pattern)
  check_pattern(subject, pattern)
  return gmatch(subject, pattern)
end
strings.gfind = strings.gmatch
function strings.gsub(subject, pattern, with, count)
  check_pattern(subject, pattern)
  return gsub(subject, pattern, with, count)
end
function strings.rep(text, count)
  -- Of nothing any number is nothing; Lua would count up to it all the same.
  if text == "" then return "" end
  return rep(text, count)
end

local sort = table.sort
local function less(a, b) return a < b end
function tables.sort(list, comparison) return sort(list, comparison or less) end -- So that each step is counted.

-- Chance, begun anew for every script by a number of the host's.
local seed_high, seed_low = 0, 0 -- 24 bits each.
local function drand48()
  -- x = x * 0x5DEECE66D + 11 modulo 2^48, in halves of 24 bits: no product is over 2^53.
  local low = seed_low * 0xECE66D + 11
  local carry = floor(low / 16777216)
  seed_high = (seed_high * 0xECE66D + seed_low * 0x5DE + carry) % 16777216
  seed_low = low % 16777216
  return seed_high, seed_low
end
local function seed(number)
  -- srand48: the upper 32 bits are the seed, the lower 16 are 0x330E.
  number = number % 4294967296
  seed_high, seed_low = floor(number / 256), (number % 256) * 65536 + 0x330E
end
function maths.random(from, to)
  local high, low = drand48()
  -- lrand48: the upper 31 bits of 48; Redis keeps these of 2^31 - 1.
  local drawn = (floor((high * 16777216 + low) / 131072) % 2147483647) / 2147483647
  if from == nil then return drawn end
  if to == nil then from, to = 1, from end
  if from > to then error("bad argument #" .. (to == from and 1 or 2) .. " to 'random' (interval is empty)", 2) end
  return floor(drawn * (to - from + 1)) + from
end
function maths.randomseed(number) seed(floor(number)) end

-- bit ----------------------------------------------------------------------------------------------------------------

local bits = {}
local function to_bits(number) return floor(number + 0.5) % 4294967296 end
local function signed(number)
  number = number % 4294967296
  return number >= 2147483648 and number - 4294967296 or number
end
local function fold(table16)
  return function(first, ...)
    local a = to_bits(first)
    for i = 1, select("#", ...) do
      local b, result, place = to_bits((select(i, ...))), 0, 1
      for _ = 1, 8 do
        result = result + table16[(a % 16) * 16 + b % 16] * place
        a, b, place = floor(a / 16), floor(b / 16), place * 16
      end
      a = result
    end
    return signed(a)
  end
end
local function nibbles(of)
  local all = {}
  for a = 0, 15 do
    for b = 0, 15 do
      local result, x, y = 0, a, b
      for place = 0, 3 do
        result = result + of(x % 2, y % 2) * 2 ^ place
        x, y = floor(x / 2), floor(y / 2)
      end
      all[a * 16 + b] = result
    end
  end
  return all
end
bits.band = fold(nibbles(function(a, b) return a * b end))
bits.bor = fold(nibbles(function(a, b) return a + b - a * b end))
bits.bxor = fold(nibbles(function(a, b) return (a + b) % 2 end))
function bits.tobit(number) return signed(to_bits(number)) end
function bits.bnot(number) return signed(4294967295 - to_bits(number)) end
function bits.lshift(number, by) return signed(to_bits(number) % 2 ^ (32 - by % 32) * 2 ^ (by % 32)) end
function bits.rshift(number, by) return signed(floor(to_bits(number) / 2 ^ (by % 32))) end
function bits.arshift(number, by) return signed(floor(signed(to_bits(number)) / 2 ^ (by % 32))) end
function bits.rol(number, by)
  local a, n = to_bits(number), by % 32
  return signed(a % 2 ^ (32 - n) * 2 ^ n + floor(a / 2 ^ (32 - n)))
end
function bits.ror(number, by) return bits.rol(number, 32 - by % 32) end
function bits.bswap(number)
  local a = to_bits(number)
  local b1, b2, b3, b4 = a % 256, floor(a / 256) % 256, floor(a / 65536) % 256, floor(a / 16777216)
  return signed(b1 * 16777216 + b2 * 65536 + b3 * 256 + b4)
end
function bits.tohex(number, digits)
  digits = digits or 8
  local text = format(digits < 0 and "%08X" or "%08x", to_bits(number))
  local count = digits < 0 and -digits or digits
  return count >= 8 and text or sub(text, -count)
end

-- redis ---------------------------------------------------------------------------------------------------------------

local resp, keeps_null
local redis = {LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
  REPL_NONE = 0, REPL_REPLICA = 1, REPL_SLAVE = 1, REPL_AOF = 2, REPL_ALL = 3,
  REDIS_VERSION = "7.0.15", REDIS_VERSION_NUM = 458767}

-- Where the script is: the innermost function that is neither C nor of this file.
local function position()
  local level, at = 2, getinfo(2, "Sl")
  while at and (at.what == "C" or at.source == "@prelude") do
    level = level + 1
    at = getinfo(level, "Sl")
  end
  if at and at.currentline >= 0 then return at.source, at.currentline end -- Else it is behind a tail call.
end

local function raise(text)
  local source, line = position()
  error({err = text, source = source, line = line})
end

local function command(is_raising, ...)
  local count = select("#", ...)
  local words, problem = {...}, nil
  if count == 0 then problem = "ERR Please specify at least one argument for this redis lib call" end
  for i = 1, count do
    local kind = type(words[i])
    if kind == "number" then
      words[i] = format("%.17g", words[i])
    elseif kind ~= "string" then
      problem = "ERR Lua redis lib command arguments must be strings or integers"
    end
  end
  if problem == nil then
    charge(command_cost)
    local failure, reply = host_call(resp, unpack(words, 1, count))
    charge(0)
    if not failure then return reply end
    problem = failure
  end
  if is_raising then raise(problem) end
  return {err = problem}
end

function redis.call(...) return (command(true, ...)) end
function redis.pcall(...) return (command(false, ...)) end

function redis.error_reply(...)
  local text = ...
  if select("#", ...) ~= 1 or type(text) ~= "string" then return {err = "ERR wrong number or type of arguments"} end
  if byte(text) == 45 then text = sub(text, 2) end
  return {err = find(text, " ", 1, true) and text or "ERR " .. text}
end
function redis.status_reply(...)
  local text = ...
  if select("#", ...) ~= 1 or type(text) ~= "string" then return {err = "ERR wrong number or type of arguments"} end
  return {ok = text}
end
function redis.sha1hex(...)
  if select("#", ...) ~= 1 then raise("ERR wrong number of arguments") end
  local text = tostring((...))
  charge(#text)
  return host_sha1(text)
end
function redis.log(level, ...)
  if level == nil or select("#", ...) == 0 then raise("ERR redis.log() requires two arguments or more.") end
  if type(level) ~= "number" then raise("ERR First argument must be a number (log level).") end
  if level < 0 or level > 3 then raise("ERR Invalid debug level.") end
end
function redis.setresp(...)
  local version = ...
  if select("#", ...) ~= 1 then raise("ERR redis.setresp() requires one argument.") end
  if version ~= 2 and version ~= 3 then raise("ERR RESP version must be 2 or 3.") end
  resp = version
end
function redis.replicate_commands() return true end
function redis.set_repl(...)
  local what = ...
  if select("#", ...) ~= 1 then raise("ERR redis.set_repl() requires one argument.") end
  if type(what) ~= "number" or what < 0 or what > 3 then
    raise("ERR Invalid replication flags. Please use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.")
  end
end
function redis.breakpoint() return false end
function redis.debug() end

-- Values on their way out ---------------------------------------------------------------------------------------------

local NIL, STRING, INTEGER, STATUS, FAILURE, DOUBLE, ARRAY, MAP, SET, BOOLEAN = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9

local function integer(number)
  if number ~= number or number >= 2 ^ 63 or number < -2 ^ 63 then return -2 ^ 63 end
  return number < 0 and ceil(number) or floor(number)
end

-- Appends tags and values to `out`, in the order in which they are read again; false when tables nest too deeply.
local function emit(value, out, n, depth)
  local kind = type(value)
  if kind == "string" then
    out[n + 1], out[n + 2] = STRING, value
    return n + 2
  elseif kind == "number" then
    out[n + 1], out[n + 2] = INTEGER, integer(value)
    return n + 2
  elseif kind == "boolean" then
    if resp == 3 then
      out[n + 1], out[n + 2] = BOOLEAN, value
      return n + 2
    end
    if value then
      out[n + 1], out[n + 2] = INTEGER, 1
      return n + 2
    end
  elseif kind == "table" then
    if depth > depth_max then return nil end
    local field = rawget(value, "err")
    if type(field) == "string" then
      out[n + 1], out[n + 2] = FAILURE, field
      return n + 2
    end
    field = rawget(value, "ok")
    if type(field) == "string" then
      out[n + 1], out[n + 2] = STATUS, field
      return n + 2
    end
    field = rawget(value, "double")
    if type(field) == "number" then
      out[n + 1], out[n + 2] = DOUBLE, field
      return n + 2
    end
    field = rawget(value, "big_number")
    if type(field) == "string" then
      out[n + 1], out[n + 2] = STRING, field
      return n + 2
    end
    field = rawget(value, "verbatim_string")
    if type(field) == "table" and type(rawget(field, "string")) == "string" then
      out[n + 1], out[n + 2] = STRING, rawget(field, "string")
      return n + 2
    end
    local map, set = rawget(value, "map"), rawget(value, "set")
    local is_map = type(map) == "table"
    if is_map or type(set) == "table" then
      local at, count = n + 2, 0
      out[n + 1] = is_map and MAP or SET
      n = at
      for name, item in next, is_map and map or set do
        n = emit(name, out, n, depth + 1)
        if n and is_map then n = emit(item, out, n, depth + 1) end
        if not n then return nil end
        count = count + 1
      end
      out[at] = count
      return n
    end
    local at, count = n + 2, 0
    out[n + 1], n = ARRAY, at
    while true do
      local item = rawget(value, count + 1)
      if item == nil then break end
      n = emit(item, out, n, depth + 1)
      if not n then return nil end
      count = count + 1
    end
    out[at] = count
    return n
  end
  out[n + 1], out[n + 2] = NIL, 0
  return n + 2
end

-- cjson ---------------------------------------------------------------------------------------------------------------

local cjson = {_NAME = "cjson", _VERSION = "2.1.0"}
local json_null -- Of each run, since a table would keep what a script puts into it; a function keeps nothing.
json_null = function() end
cjson.null = json_null

local function json_string(text)
  return '"' .. gsub(text, '[%c"\\/\127]', function(c)
    if c == '"' then return '\\"' elseif c == "\\" then return "\\\\" elseif c == "/" then return "\\/" end
    if c == "\n" then return "\\n" elseif c == "\r" then return "\\r" elseif c == "\t" then return "\\t" end
    if c == "\b" then return "\\b" elseif c == "\f" then return "\\f" end
    return format("\\u%04x", byte(c))
  end) .. '"'
end

local function json(value, depth)
  local kind = type(value)
  if value == json_null or kind == "nil" then return "null" end
  if kind == "boolean" then return value and "true" or "false" end
  if kind == "number" then
    if value ~= value or value == huge or value == -huge then
      error("Cannot serialise number: must not be NaN or Inf", 0)
    end
    return format("%.14g", value)
  end
  if kind == "string" then return json_string(value) end
  if kind ~= "table" then error("Cannot serialise " .. kind .. ": type not supported", 0) end
  if depth > depth_max then error("Cannot serialise, excessive depth (" .. depth .. ")", 0) end
  local count, largest, is_list = 0, 0, true
  for name in next, value do
    count = count + 1
    if type(name) == "number" and name > 0 and floor(name) == name then
      if name > largest then largest = name end
    else
      is_list = false
    end
  end
  local parts = {}
  if is_list and count > 0 then
    if largest > count * 2 and largest > 10 then error("Cannot serialise table: excessively sparse array", 0) end
    for i = 1, largest do parts[i] = json(rawget(value, i), depth + 1) end
    return "[" .. concat(parts, ",") .. "]"
  end
  for name, item in next, value do
    local named = type(name)
    if named ~= "string" and named ~= "number" then
      error("Cannot serialise table: table key must be a number or string", 0)
    end
    if named == "number" then name = format("%.14g", name) end
    parts[#parts + 1] = json_string(name) .. ":" .. json(item, depth + 1)
  end
  return "{" .. concat(parts, ",") .. "}"
end
function cjson.encode(...)
  if select("#", ...) ~= 1 then error("bad argument #1 to 'encode' (expected 1 argument)", 2) end
  return json((...), 1)
end
function cjson.decode(...)
  local text = ...
  if select("#", ...) ~= 1 then error("bad argument #1 to 'decode' (expected 1 argument)", 2) end
  text = tostring(text)
  charge(10 * #text)
  local problem, value = host_decode(text, json_null)
  if problem then error(problem, 0) end
  return value
end

-- One run -------------------------------------------------------------------------------------------------------------

getmetatable("").__index = strings
getmetatable("").__metatable = false
local libraries = {
  string = reading(strings), table = reading(tables), math = reading(maths), bit = reading(bits),
  redis = reading(redis), cjson = reading(cjson),
}

local function begin(keys, arguments)
  env = {KEYS = keys, ARGV = arguments}
  env._G = env
  for name, metatable in pairs(libraries) do env[name] = setmetatable({}, metatable) end
  resp = 2
  seed(host_seed())
  return setmetatable(env, env_reading)
end

local function on_error(problem)
  if type(problem) ~= "table" then
    local kind = type(problem)
    problem = {err = "ERR " .. (kind == "string" and problem or kind == "number" and tostring(problem) or kind)}
  end
  local source, line = position()
  if source then problem.source, problem.line = source, line end
  return problem
end

local function compile(text)
  local chunk, problem = loadstring(text, "@user_script")
  return chunk or false, problem or false
end

-- Returns whether it ended well; what was counted, then the tags and values of its reply, else text, source and line.
local function run(chunk, keys, arguments)
  setfenv(chunk, begin(keys, arguments))
  left, clock_end, is_over = instructions_max, clock() + cpu_s_max, false
  sethook(on_count, "", HOOK_EVERY)
  local ok, value = xpcall(chunk, on_error)
  if not ok then
    sethook()
    if type(value) ~= "table" then return false, 0, false end -- Lua's own word for no memory; its handler is not asked.
    local text = rawget(value, "err")
    return false, instructions_max - left, type(text) == "string" and text or "ERR unknown error",
      rawget(value, "source") or false, rawget(value, "line") or false
  end
  local out = {}
  local count = emit(value, out, 0, 1)
  sethook()
  env = nil
  return true, instructions_max - left, count and out or {FAILURE, "ERR reached lua stack limit"}
end

return compile, run, collect
