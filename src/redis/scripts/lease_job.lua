#!lua flags=allow-oom
-- Takes, renews or gives back the lease of a job that runs.
--
-- KEYS[1] running (zset)
--
-- ARGV[1] the job's member, <config>/<job>
-- ARGV[2] the lease's end as the caller set it, ms; empty to take one that nobody holds
-- ARGV[3] how long the lease lasts, ms; 0 gives it back
--
-- Returns the lease's new end, ms; 0 when the job does not run any more, or somebody else holds it. A second
-- application of a renewal answers 0 (the caller then lets go, and the lease ends by itself), of a taking too.
-- Bound: one member.
-- Atomic because of two replicas that see a lease past only one may take it.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local held = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not held then return 0 end
if ARGV[2] == '' then
  if tonumber(held) > now then return 0 end
elseif tonumber(held) ~= tonumber(ARGV[2]) then
  return 0
end
local score = now + tonumber(ARGV[3])
redis.call('ZADD', KEYS[1], score, ARGV[1])
return score
