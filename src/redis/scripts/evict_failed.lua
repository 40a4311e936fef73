#!lua flags=allow-oom
-- Drops failed deliveries of one config that its caps no longer hold: the record, its place in the failed set,
-- and its share of a body. Their log rows stay.
--
-- KEYS[1] failed:<config> (zset) KEYS[2] size:<config> (hash)
-- KEYS[3..] two per delivery: delivery:<id> (string), body:<stream id> (string)
--
-- ARGV[1] config id (12 bytes, as in a record)
-- ARGV[2..] the delivery ids, one per pair of keys
--
-- Returns the number of members dropped; one that is no longer in the failed set is left alone, and so is a
-- record that is another config's or waits in the queue.
-- Bound: 64 deliveries a call, checked by the caller.
-- Atomic because a delivery that is retried by hand meanwhile must keep its record.
local count = 0
for i = 2, #ARGV do
  local key, body_key = KEYS[2 * i - 1], KEYS[2 * i]
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    local record = redis.call('GET', key)
    redis.call('ZREM', KEYS[1], ARGV[i])
    count = count + 1
    if record and string.sub(record, 5, 16) == ARGV[1] and string.byte(record, 2) == 1 then
      local weight = #record
      if string.byte(record, 4) == 1 then
        weight = weight + struct.unpack('>I4', record, #record - 3)
        local head = redis.call('GETRANGE', body_key, 0, 3)
        if #head == 4 then
          local owners = struct.unpack('>I4', head)
          if owners <= 1 then
            redis.call('UNLINK', body_key)
          else
            redis.call('SETRANGE', body_key, 0, struct.pack('>I4', owners - 1))
          end
        end
      end
      redis.call('UNLINK', key)
      redis.call('HINCRBY', KEYS[2], 'failedBytes', -weight)
    end
  end
end
if redis.call('ZCARD', KEYS[1]) == 0 then redis.call('HDEL', KEYS[2], 'failedBytes') end
return count
