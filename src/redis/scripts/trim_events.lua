#!lua flags=allow-oom
-- Removes the oldest events that have a durable fate, and notes from where on the stream holds everything that came.
--
-- KEYS[1] events (stream)        KEYS[2] retained (string)
--
-- ARGV[1] only entries below this stream id
-- ARGV[2] at most so many entries; whole nodes of the stream go, so somewhat less
--
-- Returns the number of entries removed. A second application removes what is left, within the same bounds.
-- Bound: ARGV[2], at most 10,000, checked by the caller.
-- Atomic because who reads the note must find everything that it promises.
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '~', ARGV[1], 'LIMIT', ARGV[2])
if removed == 0 then return 0 end

-- Compared as text where a sequence may have 64 bits: Lua's numbers hold 53.
local function less(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then
    if #a_ms ~= #b_ms then return #a_ms < #b_ms end
    return a_ms < b_ms
  end
  if #a_seq ~= #b_seq then return #a_seq < #b_seq end
  return a_seq < b_seq
end

-- Everything from the bound on is there, and everything from the first entry on.
local from = ARGV[1]
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if first and less(first[1], from) then from = first[1] end
local known = redis.call('GET', KEYS[2])
if not known or less(known, from) then redis.call('SET', KEYS[2], from) end
return removed
