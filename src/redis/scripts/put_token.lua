#!lua flags=allow-oom
-- Stores one token, or revokes it, announces it on `changes` and writes one `audit` entry.
--
-- KEYS[1] tokens, hash: SHA-256 of the token -> JSON
-- KEYS[2] changes, capped stream
-- KEYS[3] audit, capped stream
--
-- ARGV[1] the token's hash, 64 hex digits
-- ARGV[2] its JSON; empty revokes it
-- ARGV[3] entries that changes keeps
-- ARGV[4] entries that audit keeps
-- ARGV[5] who changes it
-- ARGV[6] the token's organisation
-- ARGV[7] what changes, without the token
--
-- Returns {'written', <id of the changes entry>}
--         {'unchanged'}: it is stored so already, or was revoked already; nothing was written
--
-- Bound: one token
--
-- Atomic because a reader of changes must find what the entry announces.
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') == ARGV[2] then
  return {'unchanged'}
end
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
local id = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'kind', 'token', 'id', ARGV[1])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', 'who', ARGV[5], 'organisation', ARGV[6], 'what', ARGV[7])
return {'written', id}
