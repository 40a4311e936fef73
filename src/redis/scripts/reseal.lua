#!lua flags=allow-oom
-- Replaces a stored config by the same one sealed under another key, only if nobody changed it meanwhile. It is no
-- change of the config: nothing is announced and nothing is audited.
--
-- KEYS[1] configs, hash: config id -> JSON
--
-- ARGV[1] the config's id
-- ARGV[2] the JSON that the caller read
-- ARGV[3] the JSON with its secrets sealed again
--
-- Returns 1: it was replaced
--         0: it is not what the caller read; nothing was written
--
-- Bound: one config
--
-- Atomic because a change between the caller's read and this write must not be undone by it.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
