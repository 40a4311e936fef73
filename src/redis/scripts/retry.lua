#!lua flags=allow-oom
-- Puts a delivery that has ended back into its queue, due at once, because somebody asked for it. One that failed
-- brings its record; one that was delivered, or whose record was evicted, gets the record that the caller made.
--
-- KEYS[1] queue:<config> (zset)  KEYS[2] due (zset)              KEYS[3] failed:<config> (zset)
-- KEYS[4] size:<config> (hash)   KEYS[5] delivery:<id> (string)  KEYS[6] body:<stream id> (string)
--
-- ARGV[1] config id (24 hex)     ARGV[2] config id (12 bytes, as in a record)
-- ARGV[3] delivery id
-- ARGV[4] attempts that the delivery had when its caller looked
-- ARGV[5] most deliveries in the queue
-- ARGV[6] most bytes in the queue
-- ARGV[7] the packed record for a delivery that has none; empty when its caller saw one
-- ARGV[8] the body, where that record says that it lies apart; else empty
--
-- The attempt that follows is counted as asked for by hand in a record that failed, unless it is the first one; a
-- record that the caller made counts as it should.
--
-- Returns one word; only the first one changed anything.
--   queued   it waits, due now
--   waiting  it waits or is tried already: so a second application
--   changed  it is not as its caller saw it (attempts were made, or its record went)
--   full     the queue is full
--   gone     its record says that the body lies apart, and it is not there
--   foreign  the record is another config's
-- Bound: one delivery.
-- Atomic because queue, failed set, record, index of due configs and sizes must change together, and of two callers
-- only one may put it back.
local queue, due, failed, size, key, body_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local attempts = tonumber(ARGV[4])

-- What a record weighs: its own bytes, and those of a body that lies apart (flag in byte 4, length at the end).
local function weight(record)
  if string.byte(record, 4) == 1 then
    return #record + struct.unpack('>I4', record, #record - 3)
  end
  return #record
end

if redis.call('ZSCORE', queue, ARGV[3]) then return 'waiting' end
local old = redis.call('GET', key)
if old and string.sub(old, 5, 16) ~= ARGV[2] then return 'foreign' end
if old and string.byte(old, 1) == 0 then
  -- The mark of a delivered one; behind the config stands what settle counted, where it was asked for by hand.
  if #old >= 20 and struct.unpack('>I4', old, 17) ~= attempts then return 'changed' end
  old = nil
end
if old and string.byte(old, 2) == 0 then return 'waiting' end
if old and struct.unpack('>I4', old, 17) ~= attempts then return 'changed' end
if not old and ARGV[7] == '' then return 'changed' end

local record = old or ARGV[7]
local bytes = weight(record)
local queued = tonumber(redis.call('HGET', size, 'queueBytes') or '0')
if redis.call('ZCARD', queue) >= tonumber(ARGV[5]) or queued + bytes > tonumber(ARGV[6]) then return 'full' end
if old then
  if string.byte(old, 4) == 1 and redis.call('EXISTS', body_key) == 0 then return 'gone' end
  local by_hand = struct.unpack('>I4', old, 21) + (attempts > 0 and 1 or 0)
  record = string.sub(old, 1, 1) .. '\0\0' .. string.sub(old, 4, 20) .. struct.pack('>I4', by_hand)
    .. string.sub(old, 25)
  -- One that a cap dropped from the set meanwhile is no longer in the size.
  if redis.call('ZREM', failed, ARGV[3]) == 1 then
    redis.call('HINCRBY', size, 'failedBytes', 0 - bytes)
    if redis.call('ZCARD', failed) == 0 then redis.call('HDEL', size, 'failedBytes') end
  end
elseif ARGV[8] ~= '' then
  if redis.call('EXISTS', body_key) == 1 then
    local count = struct.unpack('>I4', redis.call('GETRANGE', body_key, 0, 3))
    redis.call('SETRANGE', body_key, 0, struct.pack('>I4', count + 1))
  else
    redis.call('SET', body_key, struct.pack('>I4', 1) .. ARGV[8])
  end
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
record = string.sub(record, 1, 40) .. struct.pack('>I8', now) .. string.sub(record, 49)
redis.call('SET', key, record)
redis.call('ZADD', queue, now, ARGV[3])
redis.call('HINCRBY', size, 'queueBytes', bytes)
redis.call('ZADD', due, 'LT', now, ARGV[1])
return 'queued'
