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

-- Drops the oldest pages while `over` says so, some at a time: reading and removing them one by one cost Redis four
-- calls a page. `count` is told of each page that goes.
local function drop(key, over, count)
  local batch = 4
  while over() and steps < 64 do
    batch = math.min(batch * 2, 64 - steps)
    -- One more, which stays: its id is the bound of the trim.
    local pages = redis.call('XRANGE', key, '-', '+', 'COUNT', batch + 1)
    local gone = 0
    while over() and gone < batch and pages[gone + 1] do
      gone = gone + 1
      count(pages[gone][2][2])
    end
    if pages[gone + 1] then
      redis.call('XTRIM', key, 'MINID', pages[gone + 1][1])
    else
      redis.call('XTRIM', key, 'MAXLEN', 0)
      break
    end
    steps = steps + gone
  end
end

local had_rows, had_bytes, had_body_bytes = rows, bytes, body_bytes
drop(KEYS[1], function() return rows > tonumber(ARGV[4]) or bytes > tonumber(ARGV[5]) end, function(page)
  local count = string.byte(page, 10) or 0
  rows, bytes, dropped = rows - count, bytes - #page, dropped + count
end)
drop(KEYS[2], function() return body_bytes > tonumber(ARGV[6]) end, function(page)
  body_bytes = body_bytes - #page
end)
-- Subtracted as whole numbers: Redis 7.0 writes a negated 0 as "-0" and then refuses it.
if rows < had_rows or bytes < had_bytes then
  redis.call('HINCRBY', KEYS[3], 'logRows', 0 - (had_rows - rows))
  redis.call('HINCRBY', KEYS[3], 'logBytes', 0 - (had_bytes - bytes))
end
if body_bytes < had_body_bytes then
  redis.call('HINCRBY', KEYS[3], 'bodyBytes', 0 - (had_body_bytes - body_bytes))
end
if redis.call('XLEN', KEYS[1]) == 0 then redis.call('HDEL', KEYS[3], 'logRows', 'logBytes') end
if redis.call('XLEN', KEYS[2]) == 0 then redis.call('HDEL', KEYS[3], 'bodyBytes') end
redis.call('PEXPIRE', KEYS[1], ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[7])
return { dropped, steps == 64 and 1 or 0 }
