#!lua flags=allow-oom
-- Removes the tombstone of a deleted config, of which nothing is left, and announces it on `changes`.
--
-- KEYS[1] configs, hash: config id -> JSON
-- KEYS[2] changes, capped stream
-- KEYS[3] health, hash: config id -> JSON
--
-- ARGV[1] config id
-- ARGV[2] entries that changes keeps
--
-- Returns 1 when it went, 0 when there is none or it is no tombstone.
-- Bound: one field of each hash.
-- Atomic because a reader of changes must find what an entry announces, and of several replicas one announces it.
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if not stored or cjson.decode(stored).kind ~= 'tombstone' then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'kind', 'config', 'id', ARGV[1])
return 1
