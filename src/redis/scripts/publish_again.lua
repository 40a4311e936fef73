#!lua
-- Appends retained events again, for one config alone, for a job; and notes how far the job is. Without allow-oom on
-- purpose: it makes the stream grow, so a full Redis refuses the whole batch before its first write.
--
-- KEYS[1] events (stream)        KEYS[2] job:<job> (hash)
--
-- ARGV[1] config id (24 hex)
-- ARGV[2] the job's cursor as its caller knows it, empty at the beginning
-- ARGV[3] the cursor after all that the caller looked at
-- ARGV[4] 1 when nothing is left behind that, else 0
-- ARGV[5] the job's progress expires when idle for this long, ms
-- ARGV[6..] three per event: its stream id, its nonce, its timestamp
--
-- A copy has the event's known fields, its nonce and timestamp even where they were derived, configId, and replayOf
-- with the event's stream id, by which replays know each other's work.
--
-- Returns {status, moved, skipped}.
--   status 1: applied; an event that the stream no longer holds is skipped
--   status 0: not applied, the cursor is another by now: a second application, or another runner
-- Bound: 64 events a call, checked by the caller.
-- Atomic because a crash between a copy and the cursor behind it would append the copy again.
local events, job = KEYS[1], KEYS[2]
if (redis.call('HGET', job, 'cursor') or '') ~= ARGV[2] then return { 0, 0, 0 } end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local kept = { 'organisationId', 'event', 'data', 'traceparent', 'communityId', 'userId', 'eventSourceId' }
local moved, skipped = 0, 0
for i = 6, #ARGV, 3 do
  local entry = redis.call('XRANGE', events, ARGV[i], ARGV[i])[1]
  if entry then
    local given = {}
    for j = 1, #entry[2], 2 do given[entry[2][j]] = entry[2][j + 1] end
    local fields = { 'nonce', ARGV[i + 1], 'timestamp', ARGV[i + 2], 'configId', ARGV[1], 'replayOf', ARGV[i] }
    for _, name in ipairs(kept) do
      if given[name] then
        fields[#fields + 1] = name
        fields[#fields + 1] = given[name]
      end
    end
    redis.call('XADD', events, '*', unpack(fields))
    moved = moved + 1
  else
    skipped = skipped + 1
  end
end
if ARGV[4] == '1' then redis.call('HSET', job, 'done', '1') end
redis.call('HSET', job, 'cursor', ARGV[3], 'at', now)
redis.call('HINCRBY', job, 'moved', moved)
redis.call('HINCRBY', job, 'skipped', skipped)
redis.call('PEXPIRE', job, ARGV[5])
return { 1, moved, skipped }
