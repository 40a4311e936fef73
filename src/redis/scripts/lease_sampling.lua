#!lua flags=allow-oom
-- Takes or renews the lease of the replica that samples a shard for all of them.
--
-- KEYS[1] sampler (string)
--
-- ARGV[1] the replica            ARGV[2] how long the lease lasts, ms; 0 gives it back
--
-- Returns 1 when the caller holds it now, 0 when another replica does, or when it was given back.
-- Bound: constant.
-- Atomic because the holder must not change between the look and the renewal.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
