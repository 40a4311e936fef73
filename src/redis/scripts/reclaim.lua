#!lua flags=allow-oom
-- Takes over pending entries of a dead consumer; removes the consumer when nothing is left. The first call sets
-- the member's score to 0, so that its lease cannot come back while entries are moved.
--
-- KEYS[1] events (stream)        KEYS[2] replicas (zset)
--
-- ARGV[1] the dead consumer
-- ARGV[2] the score that was observed for a whole lease; empty when no member was observed
-- ARGV[3] the caller's consumer; empty when it has none to move entries to
-- ARGV[4] most entries to move
--
-- Returns the number of entries moved (those that the stream no longer holds are dropped by XCLAIM), 0 when none
-- were left and consumer and member are gone, -1 when the consumer lives (its lease changed, or is not past) or
-- has entries that the caller cannot take.
-- Bound: ARGV[4], at most 64.
-- Atomic because a consumer that comes back between the check and the move would work on the same entries.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
if ARGV[2] == '' then
  if score then return -1 end
elseif score and tonumber(score) ~= 0 and (tonumber(score) ~= tonumber(ARGV[2]) or tonumber(score) >= now) then
  return -1
end
local pending = redis.call('XPENDING', KEYS[1], 'dispatchers', '-', '+', ARGV[4], ARGV[1])
if ARGV[3] == '' and #pending > 0 then return -1 end
if score then redis.call('ZADD', KEYS[2], 'XX', 0, ARGV[1]) end
if #pending == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'dispatchers', ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
  return 0
end
for _, entry in ipairs(pending) do
  -- JUSTID keeps the entries' fields out of this script; the delivery count is raised by hand.
  redis.call('XCLAIM', KEYS[1], 'dispatchers', ARGV[3], 0, entry[1], 'RETRYCOUNT', entry[4] + 1, 'JUSTID')
end
return #pending
