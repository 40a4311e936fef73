#!lua flags=allow-oom
-- Writes a batch of configs and tombstones, only if none of them changed since the caller read them and nobody
-- made a config meanwhile. Announces each on `changes` and writes one `audit` entry.
--
-- KEYS[1] configs, hash: config id -> JSON
-- KEYS[2] meta, hash: field configSequence is the number of the newest config
-- KEYS[3] changes, capped stream
-- KEYS[4] audit, capped stream
-- KEYS[5] health, hash: config id -> JSON; what is known of a config that is written is forgotten
--
-- ARGV[1] the configSequence that the caller read; empty: not compared and not changed
-- ARGV[2] the configSequence afterwards
-- ARGV[3] entries that changes keeps
-- ARGV[4] entries that audit keeps
-- ARGV[5] who changes it
-- ARGV[6] the organisation whose configs they are
-- ARGV[7] what changes, without secrets
-- ARGV[8..] per config: its id, the JSON that the caller read (empty: none), the new JSON
--
-- Returns {'written', <id of the last changes entry>}
--         {'conflict'}: something changed since the caller read; nothing was written
--
-- Bound: as many configs as the caller gives, at most 2,000 (an organisation's limit, twice for a full exchange)
--
-- Atomic because two callers that read the same set must not both write, and a reader of changes must find
-- what an entry announces.
if ARGV[1] ~= '' and (redis.call('HGET', KEYS[2], 'configSequence') or '0') ~= ARGV[1] then
  return {'conflict'}
end
for i = 8, #ARGV, 3 do
  if (redis.call('HGET', KEYS[1], ARGV[i]) or '') ~= ARGV[i + 1] then
    return {'conflict'}
  end
end
local last = ''
for i = 8, #ARGV, 3 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
  redis.call('HDEL', KEYS[5], ARGV[i])
  last = redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'kind', 'config', 'id', ARGV[i])
end
if ARGV[1] ~= '' and ARGV[1] ~= ARGV[2] then
  redis.call('HSET', KEYS[2], 'configSequence', ARGV[2])
end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[4], '*', 'who', ARGV[5], 'organisation', ARGV[6], 'what', ARGV[7])
return {'written', last}
