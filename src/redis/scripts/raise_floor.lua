#!lua flags=allow-oom
-- Sets floor to the greatest stream id at or below which every event has a durable fate: the id just before the
-- smallest pending one, or the last delivered one when nothing is pending. It rises, unless an operator set the
-- group back: then the floor follows, or entries that are to be read again would be trimmed.
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

-- The number before a decimal one above 0. As text, for ids go up to 2^64 - 1 and Lua's numbers hold 53 bits: a
-- floor that was rounded up would have a pending entry trimmed.
local function before(number)
  local head, digit, zeros = string.match(number, '^(%d*)([1-9])(0*)$')
  local text = head .. (tonumber(digit) - 1) .. string.rep('9', #zeros)
  return (string.gsub(text, '^0+(%d)', '%1'))
end

local summary = redis.call('XPENDING', KEYS[1], 'dispatchers')
local floor = delivered
if summary[1] > 0 then
  local ms, seq = string.match(summary[2], '^(%d+)-(%d+)$')
  if seq ~= '0' then
    floor = ms .. '-' .. before(seq)
  else
    floor = before(ms) .. '-18446744073709551615'
  end
end
if redis.call('GET', KEYS[2]) ~= floor then redis.call('SET', KEYS[2], floor) end
return { floor, summary[1] }
