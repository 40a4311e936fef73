#!lua flags=allow-oom
-- Removes deliveries of one config whatever they wait for: their places in the queue and the failed set, their
-- records, and their shares of bodies.
--
-- KEYS[1] failed:<config> (zset) KEYS[2] queue:<config> (zset)   KEYS[3] due (zset)
-- KEYS[4] size:<config> (hash)
-- KEYS[5..] two per delivery: delivery:<id> (string), body:<stream id> (string)
--
-- ARGV[1] config id (24 hex)     ARGV[2] config id (12 bytes, as in a record)
-- ARGV[3..] the delivery ids, one per pair of keys
--
-- Returns the number of deliveries removed. A record that is another config's stays. One that a worker has claimed
-- goes too: the worker then finds that it does not own it, and only logs its attempt. A second application finds
-- nothing.
-- Bound: 64 deliveries a call, checked by the caller.
-- Atomic because record, place, body count and sizes must change together.
local failed, queue, due, size = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local count = 0

local function body_drop(key)
  local head = redis.call('GETRANGE', key, 0, 3)
  if #head < 4 then return end
  local owners = struct.unpack('>I4', head)
  if owners <= 1 then
    redis.call('UNLINK', key)
  else
    redis.call('SETRANGE', key, 0, struct.pack('>I4', owners - 1))
  end
end

for i = 3, #ARGV do
  local key, body_key = KEYS[2 * i - 1], KEYS[2 * i]
  local record = redis.call('GET', key)
  local places = redis.call('ZREM', failed, ARGV[i]) + redis.call('ZREM', queue, ARGV[i])
  if record and #record >= 16 and string.sub(record, 5, 16) == ARGV[2] and string.byte(record, 1) ~= 0 then
    local weight = #record
    if string.byte(record, 4) == 1 then
      weight = weight + struct.unpack('>I4', record, #record - 3)
      body_drop(body_key)
    end
    local field = string.byte(record, 2) == 1 and 'failedBytes' or 'queueBytes'
    redis.call('HINCRBY', size, field, 0 - weight)
    redis.call('UNLINK', key)
    places = places + 1
  end
  if places > 0 then count = count + 1 end
end
if redis.call('ZCARD', failed) == 0 then redis.call('HDEL', size, 'failedBytes') end
if redis.call('ZCARD', queue) == 0 then
  redis.call('ZREM', due, ARGV[1])
  redis.call('HDEL', size, 'queueBytes')
end
return count
