#!lua flags=allow-oom
-- Notes that a job has looked and has to wait.
--
-- KEYS[1] job:<job> (hash)
--
-- ARGV[1] the job's progress expires when idle for this long, ms
--
-- Returns 1. A second application notes a later time.
-- Bound: one field.
-- Atomic because what is noted of a job whose replica then dies must still expire.
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'at', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
