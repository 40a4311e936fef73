#!lua flags=allow-oom
-- Puts claimed deliveries of one config back into its queue, due at once: their attempts did not begin.
--
-- KEYS[1] queue:<config> (zset)  KEYS[2] due (zset)
--
-- ARGV[1] config id (24 hex)
-- ARGV[2] look at the config after this, ms
-- ARGV[3..] two per delivery: its id, the score that stands for the claim
--
-- Returns the number of deliveries put back; those that the caller no longer owns are left alone.
-- Bound: 64 deliveries a call, checked by the caller.
-- Atomic because a delivery that another replica claimed meanwhile must not be made due again.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local count = 0
for i = 3, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if score and tonumber(score) == tonumber(ARGV[i + 1]) then
    redis.call('ZADD', KEYS[1], now, ARGV[i])
    count = count + 1
  end
end
if count > 0 then
  redis.call('ZADD', KEYS[2], 'LT', now + tonumber(ARGV[2]), ARGV[1])
end
return count
