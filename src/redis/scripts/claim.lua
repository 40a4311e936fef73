#!lua flags=allow-oom
-- Claims due deliveries of one config for the caller, and says when to look at the config next.
--
-- KEYS[1] queue:<config> (zset)  KEYS[2] due (zset)
--
-- ARGV[1] config id (24 hex)
-- ARGV[2] most deliveries to claim
-- ARGV[3] how long the claim holds, ms
-- ARGV[4] only what has been due for this long, ms (0: everything due)
-- ARGV[5] look again no sooner than after this, ms
--
-- Returns {score, next, id...}: the score that stands for the claim, the time of the next look (-1: the queue is
-- empty and the config left due), and the claimed ids.
-- Bound: ARGV[2], at most 64.
-- Atomic because a delivery must be claimed by one caller only, and a config must not leave due while its queue
-- holds something.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local score = now + tonumber(ARGV[3])
local ids = {}
if tonumber(ARGV[2]) > 0 then
  ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[4]), 'LIMIT', 0, ARGV[2])
end
for _, id in ipairs(ids) do
  redis.call('ZADD', KEYS[1], 'XX', score, id)
end
local answer = { score, -1 }
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then
  answer[2] = math.max(tonumber(first[2]), now + tonumber(ARGV[5]))
  redis.call('ZADD', KEYS[2], answer[2], ARGV[1])
else
  redis.call('ZREM', KEYS[2], ARGV[1])
end
for _, id in ipairs(ids) do
  answer[#answer + 1] = id
end
return answer
