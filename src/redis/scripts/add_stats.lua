#!lua flags=allow-oom
-- Adds what a worker counted for a config to its stats, in two spans of time at once.
--
-- KEYS[1] stats:<config>:<hour> (hash)  KEYS[2] stats:<config>:<hour>:<ten minutes> (hash)
--
-- ARGV[1] the first expires after this long, ms   ARGV[2] the second expires after this long, ms
-- ARGV[3] end of the last success, ms, 0 for none
-- ARGV[4] end of the last failure, ms, 0 for none
-- ARGV[5] what that failure was
-- ARGV[6..] names of counts and what to add to each
--
-- Returns 1. Applied twice it counts twice: a lost answer may show too much for as long as the span is shown.
-- Bound: one call has at most 40 counts, checked by the caller's type.
-- Atomic because the newest time and its reason are compared and set together; a script, so that a full Redis
-- still takes it.
local function later(key, field, at)
  if tonumber(at) == 0 or tonumber(at) < tonumber(redis.call('HGET', key, field) or '0') then return false end
  redis.call('HSET', key, field, at)
  return true
end

for i = 1, 2 do
  for at = 6, #ARGV, 2 do redis.call('HINCRBY', KEYS[i], ARGV[at], ARGV[at + 1]) end
  later(KEYS[i], 'lastSuccessAt', ARGV[3])
  if later(KEYS[i], 'lastFailureAt', ARGV[4]) then redis.call('HSET', KEYS[i], 'lastFailure', ARGV[5]) end
  redis.call('PEXPIRE', KEYS[i], ARGV[i])
end
return 1
