#!lua flags=allow-oom
-- Stores one token, or revokes it, announces it on `changes` and writes an entry to the organisation's audit.
--
-- KEYS[1] tokens, hash: SHA-256 of the token -> JSON
-- KEYS[2] changes, capped stream
-- KEYS[3] audit:<organisation>, stream; its limits are kept by audit.lua, which the caller calls next
-- KEYS[4] audit_bytes:<organisation>, string
--
-- ARGV[1] the token's hash, 64 hex digits
-- ARGV[2] its JSON; empty revokes it
-- ARGV[3] entries that changes keeps
-- ARGV[4] how long an audit is kept without a new entry, ms
-- ARGV[5] the audit entry (JSON)
--
-- Returns {'written', <id of the changes entry>}
--         {'unchanged'}: it is stored so already, or was revoked already; nothing was written
--
-- Bound: one token
--
-- Atomic because a reader of changes must find what the entry announces, and no token changes without an entry in
-- the audit.
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') == ARGV[2] then
  return {'unchanged'}
end
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
local id = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'kind', 'token', 'id', ARGV[1])
redis.call('XADD', KEYS[3], '*', 'entry', ARGV[5])
redis.call('INCRBY', KEYS[4], #ARGV[5])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
redis.call('PEXPIRE', KEYS[4], ARGV[4])
return {'written', id}
