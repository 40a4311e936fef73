#!lua flags=allow-oom
-- Sets floor to the greatest stream id at or below which every event has a durable fate: the id just before the
-- smallest pending one, or the last delivered one when nothing is pending. Never lowers it.
--
-- KEYS[1] events (stream)        KEYS[2] floor (string)
--
-- Returns {floor, pending}: the floor after the call (empty while there is no stream or group) and the number of
-- pending entries.
-- Bound: constant; reads two summaries.
-- Atomic because an entry read between the two summaries would lie below a floor computed from the older one.
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then return { redis.call('GET', KEYS[2]) or '', 0 } end
local delivered
for _, group in ipairs(groups) do
  local info = {}
  for i = 1, #group, 2 do info[group[i]] = group[i + 1] end
  if info['name'] == 'dispatchers' then delivered = info['last-delivered-id'] end
end
if not delivered then return { redis.call('GET', KEYS[2]) or '', 0 } end

local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return ms, seq
end
-- Decimal strings without leading zeros: the longer is the greater, then the alphabet decides. Sequence numbers
-- go up to 2^64 - 1, which Lua's numbers cannot hold.
local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local summary = redis.call('XPENDING', KEYS[1], 'dispatchers')
local floor = delivered
if summary[1] > 0 then
  local ms, seq = parts(summary[2])
  if seq ~= '0' then
    -- Ids with a sequence of 2^32 or more are rejected at once, so what stays pending fits a number.
    floor = ms .. '-' .. string.format('%.0f', tonumber(seq) - 1)
  else
    floor = string.format('%.0f', math.max(tonumber(ms) - 1, 0)) .. '-18446744073709551615'
  end
end
local old = redis.call('GET', KEYS[2])
if old then
  local old_ms, old_seq = parts(old)
  local ms, seq = parts(floor)
  if less(ms, old_ms) or (ms == old_ms and not less(old_seq, seq)) then return { old, summary[1] } end
end
redis.call('SET', KEYS[2], floor)
return { floor, summary[1] }
