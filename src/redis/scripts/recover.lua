#!lua flags=allow-oom
-- Moves failed deliveries of one config back into its queue for a job, each due a little after the one before it,
-- and notes how far the job is.
--
-- KEYS[1] failed:<config> (zset) KEYS[2] queue:<config> (zset)   KEYS[3] due (zset)
-- KEYS[4] size:<config> (hash)   KEYS[5] job:<job> (hash)
-- KEYS[6..] two per delivery: delivery:<id> (string), body:<stream id> (string)
--
-- ARGV[1] config id (24 hex)     ARGV[2] config id (12 bytes, as in a record)
-- ARGV[3] the job's cursor as its caller knows it, empty at the beginning
-- ARGV[4] the cursor after all that the caller looked at
-- ARGV[5] 1 when nothing is left behind that, else 0
-- ARGV[6] most deliveries in the queue while the job fills it
-- ARGV[7] most bytes in the queue while the job fills it
-- ARGV[8] deliveries a second
-- ARGV[9] the job's progress expires when idle for this long, ms
-- ARGV[10..] two per delivery: its id, the cursor after it
--
-- A record that is moved waits again; its attempts stay, and the next one is counted as asked for by hand. Its bytes
-- stay too.
--
-- Returns {status, moved, skipped}.
--   status 1: applied
--   status 2: the queue is full; the cursor stands behind the last delivery that was moved or skipped
--   status 0: not applied, the cursor is another by now: a second application, or another runner
-- A delivery that is not failed any more, or whose record or body is gone, is skipped.
-- Bound: 64 deliveries a call, checked by the caller.
-- Atomic because a delivery must be in one of the two sets, with its record saying which, and the job's counts must
-- tell what was moved after a crash at any point.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local failed, queue, due, size, job = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
if (redis.call('HGET', job, 'cursor') or '') ~= ARGV[3] then return { 0, 0, 0 } end

-- What a record weighs: its own bytes, and those of a body that lies apart.
local function weight(record)
  if string.byte(record, 4) == 1 then
    return #record + struct.unpack('>I4', record, #record - 3)
  end
  return #record
end

-- The record, where the delivery can be moved.
local function movable(id, key, body_key)
  if not redis.call('ZSCORE', failed, id) then return nil end
  local record = redis.call('GET', key)
  if not record or #record < 48 or string.byte(record, 1) ~= 1 then return nil end
  if string.sub(record, 5, 16) ~= ARGV[2] or string.byte(record, 2) ~= 1 then return nil end
  if string.byte(record, 4) == 1 and redis.call('EXISTS', body_key) == 0 then return nil end
  return record
end

local moved, skipped, cursor, full = 0, 0, ARGV[3], false
local queued = redis.call('ZCARD', queue)
local bytes = tonumber(redis.call('HGET', size, 'queueBytes') or '0')
for i = 0, (#KEYS - 5) / 2 - 1 do
  local id, key, body_key = ARGV[10 + 2 * i], KEYS[6 + 2 * i], KEYS[7 + 2 * i]
  local record = movable(id, key, body_key)
  if record then
    local heavy = weight(record)
    if queued >= tonumber(ARGV[6]) or (queued > 0 and bytes + heavy > tonumber(ARGV[7])) then
      full = true
      break
    end
    local at = now + math.floor(moved * 1000 / tonumber(ARGV[8]))
    local by_hand = struct.unpack('>I4', record, 21)
    redis.call('SET', key, string.sub(record, 1, 1) .. '\0\0' .. string.sub(record, 4, 20)
      .. struct.pack('>I4', by_hand + 1) .. string.sub(record, 25, 40)
      .. struct.pack('>I8', at) .. string.sub(record, 49))
    redis.call('ZREM', failed, id)
    redis.call('ZADD', queue, at, id)
    redis.call('HINCRBY', size, 'failedBytes', 0 - heavy)
    redis.call('HINCRBY', size, 'queueBytes', heavy)
    moved, queued, bytes = moved + 1, queued + 1, bytes + heavy
  else
    skipped = skipped + 1
  end
  cursor = ARGV[11 + 2 * i]
end
if moved > 0 then redis.call('ZADD', due, 'LT', now, ARGV[1]) end
if redis.call('ZCARD', failed) == 0 then redis.call('HDEL', size, 'failedBytes') end
if not full then
  cursor = ARGV[4]
  if ARGV[5] == '1' then redis.call('HSET', job, 'done', '1') end
end
redis.call('HSET', job, 'cursor', cursor, 'at', now)
redis.call('HINCRBY', job, 'moved', moved)
redis.call('HINCRBY', job, 'skipped', skipped)
redis.call('PEXPIRE', job, ARGV[9])
return { full and 2 or 1, moved, skipped }
