#!lua flags=allow-oom
-- Makes the stream's consumer group where it is missing: from floor on, or from the beginning. Never from the
-- end, which would skip what producers wrote meanwhile.
--
-- KEYS[1] events (stream)        KEYS[2] floor (string)
--
-- Returns 1 when the group was made, 0 when it was there.
-- Bound: constant.
-- Atomic because two replicas may find it missing at the same time.
local start = redis.call('GET', KEYS[2]) or '0'
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], 'dispatchers', start, 'MKSTREAM')
if made.err then
  if string.find(made.err, 'BUSYGROUP', 1, true) then return 0 end
  return made
end
return 1
