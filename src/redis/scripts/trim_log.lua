#!lua flags=allow-oom
-- Adds what was written to a config's log to its sizes, and drops the oldest pages while a cap is passed.
--
-- KEYS[1] log:<config> (stream)  KEYS[2] bodies:<config> (stream)  KEYS[3] size:<config> (hash)
--
-- ARGV[1] rows written           ARGV[2] bytes of log pages written
-- ARGV[3] bytes of payload pages written
-- ARGV[4] most rows              ARGV[5] most bytes of log pages
-- ARGV[6] most bytes of payload pages
-- ARGV[7] both streams expire when idle for this long, ms
--
-- Returns {rows dropped, 1 when a cap may still be passed}: the caller then calls again with nothing written.
-- Applied twice it counts twice: caps are then kept early, never late, until the log is empty or expires.
-- Bound: 64 pages a call.
-- Atomic because the sizes must tell what the streams hold, whoever else writes to them.
local dropped, steps = 0, 0
-- This script lets the streams expire, so one that would stay for ever was begun since: what the sizes tell is of
-- an earlier one, which expired.
if redis.call('PTTL', KEYS[1]) == -1 then redis.call('HDEL', KEYS[3], 'logRows', 'logBytes') end
if redis.call('PTTL', KEYS[2]) == -1 then redis.call('HDEL', KEYS[3], 'bodyBytes') end
local rows = redis.call('HINCRBY', KEYS[3], 'logRows', ARGV[1])
local bytes = redis.call('HINCRBY', KEYS[3], 'logBytes', ARGV[2])
local body_bytes = redis.call('HINCRBY', KEYS[3], 'bodyBytes', ARGV[3])

local function oldest(key)
  local entry = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  if entry then redis.call('XDEL', key, entry[1]) end
  return entry and entry[2][2]
end

while (rows > tonumber(ARGV[4]) or bytes > tonumber(ARGV[5])) and steps < 64 do
  steps = steps + 1
  local page = oldest(KEYS[1])
  if not page then break end
  local count = string.byte(page, 10) or 0
  rows = redis.call('HINCRBY', KEYS[3], 'logRows', 0 - count)
  bytes = redis.call('HINCRBY', KEYS[3], 'logBytes', 0 - #page)
  dropped = dropped + count
end
while body_bytes > tonumber(ARGV[6]) and steps < 64 do
  steps = steps + 1
  local page = oldest(KEYS[2])
  if not page then break end
  body_bytes = redis.call('HINCRBY', KEYS[3], 'bodyBytes', 0 - #page)
end
if redis.call('XLEN', KEYS[1]) == 0 then redis.call('HDEL', KEYS[3], 'logRows', 'logBytes') end
if redis.call('XLEN', KEYS[2]) == 0 then redis.call('HDEL', KEYS[3], 'bodyBytes') end
redis.call('PEXPIRE', KEYS[1], ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[7])
return { dropped, steps == 64 and 1 or 0 }
