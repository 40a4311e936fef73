#!lua flags=allow-oom
-- Keeps the state of a migration of the keyspace: who works on which step, how far it came, and the new version when
-- it is done.
--
-- KEYS[1] meta, hash
--
-- ARGV[1] what to do: begin, advance, finish, release
-- ARGV[2] the owner: random, one per run of the command
-- ARGV[3] how long the owner may be silent, ms
-- ARGV[4] the version that the keyspace must have
-- ARGV[5] the step's id
-- ARGV[6] begin: 1 where no replica may run, else 0; advance: the next cursor; finish: the new version
-- ARGV[7] advance: how much the batch changed
--
-- Returns {1, cursor}: done; begin answers where the step goes on, empty at its start
--         {0, version}: the keyspace has another version
--         {-1, owner}: another owner is at work
--         {-2, step}: another step is under way
--
-- Bound: seven fields of one hash
--
-- Atomic because two owners must not both advance a step, and the version must rise with the end of its step.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local version = redis.call('HGET', KEYS[1], 'keyspaceVersion')
if version ~= ARGV[4] then return { 0, version or '' } end
local step = redis.call('HGET', KEYS[1], 'migration')
if step and step ~= ARGV[5] then return { -2, step } end
local owner = redis.call('HGET', KEYS[1], 'migrationOwner')
local held = tonumber(redis.call('HGET', KEYS[1], 'migrationUntil') or 0) > now
if owner and owner ~= ARGV[2] and (held or ARGV[1] ~= 'begin') then return { -1, owner } end
if not owner and ARGV[1] ~= 'begin' then return { -1, '' } end
local cursor = redis.call('HGET', KEYS[1], 'migrationCursor') or ''
if ARGV[1] == 'finish' or (ARGV[1] == 'release' and cursor == '') then
  if ARGV[1] == 'finish' then redis.call('HSET', KEYS[1], 'keyspaceVersion', ARGV[6]) end
  redis.call('HDEL', KEYS[1], 'migration', 'migrationStops', 'migrationOwner', 'migrationUntil', 'migrationCursor',
    'migrationChanged')
  return { 1, '' }
end
if ARGV[1] == 'release' then
  redis.call('HDEL', KEYS[1], 'migrationOwner', 'migrationUntil')
  return { 1, cursor }
end
redis.call('HSET', KEYS[1], 'migration', ARGV[5], 'migrationOwner', ARGV[2], 'migrationUntil', now + tonumber(ARGV[3]))
if ARGV[1] == 'begin' then
  redis.call('HSET', KEYS[1], 'migrationStops', ARGV[6])
else
  redis.call('HSET', KEYS[1], 'migrationCursor', ARGV[6])
  redis.call('HINCRBY', KEYS[1], 'migrationChanged', ARGV[7])
  cursor = ARGV[6]
end
return { 1, cursor }
