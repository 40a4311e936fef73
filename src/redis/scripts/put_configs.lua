#!lua flags=allow-oom
-- Writes a batch of configs and tombstones, only if none of them changed since the caller read them and nobody
-- made a config meanwhile. Announces each on `changes` and writes an entry to the organisation's audit for each.
--
-- KEYS[1] configs, hash: config id -> JSON
-- KEYS[2] meta, hash: field configSequence is the number of the newest config
-- KEYS[3] changes, capped stream
-- KEYS[4] health, hash: config id -> JSON; what is known of a config that is written is forgotten
-- KEYS[5] audit:<organisation>, stream; its limits are kept by audit.lua, which the caller calls next
-- KEYS[6] audit_bytes:<organisation>, string
--
-- ARGV[1] the configSequence that the caller read; empty: not compared and not changed
-- ARGV[2] the configSequence afterwards
-- ARGV[3] entries that changes keeps
-- ARGV[4] how long an audit is kept without a new entry, ms
-- ARGV[5..] per config: its id, the JSON that the caller read (empty: none), the new JSON, the audit entry (JSON)
--
-- Returns {'written', <id of the last changes entry>}
--         {'conflict'}: something changed since the caller read; nothing was written
--
-- Bound: as many configs as the caller gives, at most 2,000 (an organisation's limit, twice for a full exchange)
--
-- Atomic because two callers that read the same set must not both write, a reader of changes must find what an
-- entry announces, and no config changes without an entry in the audit.
if ARGV[1] ~= '' and (redis.call('HGET', KEYS[2], 'configSequence') or '0') ~= ARGV[1] then
  return {'conflict'}
end
for i = 5, #ARGV, 4 do
  if (redis.call('HGET', KEYS[1], ARGV[i]) or '') ~= ARGV[i + 1] then
    return {'conflict'}
  end
end
local last = ''
for i = 5, #ARGV, 4 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
  redis.call('HDEL', KEYS[4], ARGV[i])
  last = redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'kind', 'config', 'id', ARGV[i])
  redis.call('XADD', KEYS[5], '*', 'entry', ARGV[i + 3])
  redis.call('INCRBY', KEYS[6], #ARGV[i + 3])
end
redis.call('PEXPIRE', KEYS[5], ARGV[4])
redis.call('PEXPIRE', KEYS[6], ARGV[4])
if ARGV[1] ~= '' and ARGV[1] ~= ARGV[2] then
  redis.call('HSET', KEYS[2], 'configSequence', ARGV[2])
end
return {'written', last}
