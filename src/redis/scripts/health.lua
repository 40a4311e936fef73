#!lua flags=allow-oom
-- Reads what is known of a config's health, or replaces it if nobody changed it since the caller read it. What to
-- write is decided by the caller (the breaker's state table); that it is decided once is decided here.
--
-- KEYS[1] health, hash: config id -> JSON
-- KEYS[2] configs, hash: config id -> JSON
-- KEYS[3] changes, capped stream
--
-- ARGV[1] config id
-- ARGV[2] the config's version that the caller's attempts used
-- ARGV[3] 'r' (read), 'w' (write) or 'a' (write and announce)
-- ARGV[4] the JSON that the caller read (empty: none)
-- ARGV[5] the new JSON (empty: remove)
-- ARGV[6] entries that changes keeps
--
-- Returns {what, now, JSON}: 'read' with the present JSON (empty: none); 'written' with the new one; 'conflict' with
-- the present one, nothing was written; 'gone' with nothing: the config is not active any more, or has another
-- version, and what the caller knows is of no interest. now is Redis's time in ms.
-- Bound: one field of each hash.
-- Atomic because of two replicas that see the same state only one may move it on, and of a config that was written
-- meanwhile nothing may be remembered.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local config = redis.call('HGET', KEYS[2], ARGV[1])
local known = config and cjson.decode(config)
if not known or known.active ~= true or known.version ~= tonumber(ARGV[2]) then
  return { 'gone', now, '' }
end
local present = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if ARGV[3] == 'r' then return { 'read', now, present } end
if present ~= ARGV[4] then return { 'conflict', now, present } end
if ARGV[5] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[5])
end
if ARGV[3] == 'a' then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', 'kind', 'health', 'id', ARGV[1])
end
return { 'written', now, ARGV[5] }
