#!lua flags=allow-oom
-- Moves deliveries that cannot be made out of the way of one config's queue: an id without a record is dropped, one
-- whose record its caller could not read waits far ahead.
--
-- KEYS[1] queue:<config> (zset)  KEYS[2] due (zset)              KEYS[3] size:<config> (hash)
-- KEYS[4..] delivery:<id> (string), one per delivery
--
-- ARGV[1] config id (24 hex)
-- ARGV[2] how far ahead those with a record wait, ms
-- ARGV[3..] two per delivery: its id, its score as its caller knows it
--
-- Returns {dropped, waiting}; a delivery whose score is another by now is left alone.
-- Bound: 64 deliveries a call, checked by the caller.
-- Atomic because a delivery whose record came, or that somebody else claimed, since its caller looked must stay.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local dropped, waiting = 0, 0
for i = 4, #KEYS do
  local id, known = ARGV[2 * i - 5], ARGV[2 * i - 4]
  local score = redis.call('ZSCORE', KEYS[1], id)
  if score and tonumber(score) == tonumber(known) then
    if redis.call('EXISTS', KEYS[i]) == 0 then
      redis.call('ZREM', KEYS[1], id)
      dropped = dropped + 1
    else
      redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), id)
      waiting = waiting + 1
    end
  end
end
if redis.call('ZCARD', KEYS[1]) == 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('HDEL', KEYS[3], 'queueBytes')
end
return { dropped, waiting }
