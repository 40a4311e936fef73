#!lua flags=allow-oom
-- Takes or renews a worker's lease.
--
-- KEYS[1] replicas (zset)
--
-- ARGV[1] consumer
-- ARGV[2] how long the lease lasts, ms
-- ARGV[3] empty for the first renewal under this name; else anything
--
-- Returns {now, score}: Redis's time and the lease's new end, both ms; score 0 when the lease is lost: a takeover
-- of the consumer has begun, or its name is in use. A lease that is merely past, because Redis was away, comes
-- back: whoever takes over sets the score to 0 before it moves the first entry. Nobody else sets it: a score that
-- the caller does not know is its own renewal whose answer was lost.
-- Bound: one member.
-- Atomic because a lease must not come back once a takeover has begun.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local held = redis.call('ZSCORE', KEYS[1], ARGV[1])
if ARGV[3] == '' then
  if held then return { now, 0 } end
elseif not held or tonumber(held) == 0 then
  return { now, 0 }
end
local score = now + tonumber(ARGV[2])
redis.call('ZADD', KEYS[1], score, ARGV[1])
return { now, score }
