#!lua flags=allow-oom
-- Takes or renews a worker's lease.
--
-- KEYS[1] replicas (zset)
--
-- ARGV[1] consumer
-- ARGV[2] how long the lease lasts, ms
-- ARGV[3] the score of the last renewal that was answered; empty for the first
--
-- Returns {now, score}: Redis's time and the lease's new end, both ms; score 0 when the lease is lost: it lapsed,
-- was taken over, or the consumer's name is in use.
-- Applied twice it renews twice (a renewal whose answer was lost does not cost the lease); a first one does not.
-- Bound: one member.
-- Atomic because a lease that another replica has seen lapse must not come back.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local held = redis.call('ZSCORE', KEYS[1], ARGV[1])
if ARGV[3] == '' then
  if held then return { now, 0 } end
elseif not held or tonumber(held) < tonumber(ARGV[3]) or tonumber(held) < now then
  return { now, 0 }
end
local score = now + tonumber(ARGV[2])
redis.call('ZADD', KEYS[1], score, ARGV[1])
return { now, score }
