#!lua flags=allow-oom
-- Keeps a stream entry that could not be understood (its first 1,000 fields), with the reason, and drops the oldest
-- ones while a limit is passed.
--
-- KEYS[1] rejected (stream)  KEYS[2] rejected_bytes (string)
--
-- ARGV[1] most entries kept
-- ARGV[2] most bytes of names and values kept
-- ARGV[3] longest that one is kept, ms
-- ARGV[4] the entry's stream id
-- ARGV[5] the field that was wrong
-- ARGV[6] what was wrong with it
-- ARGV[7..] the entry's fields and values
--
-- Returns the number of kept entries that the limits of count and bytes evicted; what was too old is not counted.
-- Applied twice it keeps the entry twice.
-- Bound: one entry of at most 1,000 fields, checked by the caller: unpack takes less than 8,000 values; 64 dropped.
-- Atomic because the bytes must tell what the stream holds, whoever else writes to it; a script, so that a full Redis
-- still takes it.
local function weight(fields)
  local sum = 0
  for i = 1, #fields do sum = sum + #fields[i] end
  return sum
end

local fields = { '_id', ARGV[4], '_field', ARGV[5], '_problem', ARGV[6] }
for i = 7, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('XADD', KEYS[1], '*', unpack(fields))
local bytes = redis.call('INCRBY', KEYS[2], weight(fields))
local count = redis.call('XLEN', KEYS[1])
local time = redis.call('TIME')
local oldest_kept = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) - tonumber(ARGV[3])
local evicted = 0
for _ = 1, 64 do
  if count <= 1 then break end
  local entry = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  local over = count > tonumber(ARGV[1]) or bytes > tonumber(ARGV[2])
  if not over and tonumber(string.match(entry[1], '^%d+')) >= oldest_kept then break end
  redis.call('XDEL', KEYS[1], entry[1])
  bytes = redis.call('DECRBY', KEYS[2], weight(entry[2]))
  count = count - 1
  if over then evicted = evicted + 1 end
end
-- What an earlier version kept was not counted.
if bytes < 0 then redis.call('SET', KEYS[2], 0) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return evicted
