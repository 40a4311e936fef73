#!lua flags=allow-oom
-- Begins a job of a config, or ends one: compare and set of its JSON, with the mark of the one that runs.
--
-- KEYS[1] jobs:<config> (hash)   KEYS[2] running (zset)
--
-- ARGV[1] job id
-- ARGV[2] its member of running, <config>/<job>
-- ARGV[3] its JSON as the caller read it; empty to begin it
-- ARGV[4] its new JSON
-- ARGV[5] most jobs that run at a time
-- ARGV[6] 1 when it runs after this, else 0
-- ARGV[7] the hash expires when idle for this long, ms
-- ARGV[8..] ids of ended jobs that are forgotten
--
-- Returns {1, ''}: written; {0, <id>}: not begun, the config's job <id> runs; {0, ''}: the JSON is another by now;
-- {-1, ''}: too many jobs run. A second application of a begin or an end answers {1, ''} and changes nothing.
-- Bound: ARGV[8..], at most 64, checked by the caller.
-- Atomic because of two callers only one may begin a job of a config, and a job that ended must not be taken up.
local jobs, running = KEYS[1], KEYS[2]
local present = redis.call('HGET', jobs, ARGV[1]) or ''
if present == ARGV[4] then return { 1, '' } end
if present ~= ARGV[3] then return { 0, '' } end
if ARGV[6] == '1' then
  local other = redis.call('HGET', jobs, 'running')
  if other then return { 0, other } end
  if redis.call('ZCARD', running) >= tonumber(ARGV[5]) then return { -1, '' } end
  redis.call('HSET', jobs, ARGV[1], ARGV[4], 'running', ARGV[1])
  redis.call('ZADD', running, 0, ARGV[2])
else
  redis.call('HSET', jobs, ARGV[1], ARGV[4])
  if redis.call('HGET', jobs, 'running') == ARGV[1] then redis.call('HDEL', jobs, 'running') end
  redis.call('ZREM', running, ARGV[2])
end
for i = 8, #ARGV do
  if redis.call('HGET', jobs, 'running') ~= ARGV[i] then redis.call('HDEL', jobs, ARGV[i]) end
end
redis.call('PEXPIRE', jobs, ARGV[7])
return { 1, '' }
