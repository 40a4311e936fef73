#!lua flags=allow-oom
-- Gives deliveries of one config their next durable fate: waiting in the queue, failed, or delivered and
-- gone; and writes the log page of their attempts.
--
-- KEYS[1] events (stream)        KEYS[2] queue:<config> (zset)   KEYS[3] due (zset)
-- KEYS[4] failed:<config> (zset) KEYS[5] size:<config> (hash)    KEYS[6] log:<config> (stream)
-- KEYS[7] bodies:<config> (stream)
-- KEYS[8..] two per delivery: delivery:<id> (string), body:<stream id> (string)
--
-- ARGV[1] config id (24 hex)     ARGV[2] config id (12 bytes, as in a record)
-- ARGV[3] packed log page, or empty
-- ARGV[4] packed payload page, or empty
-- ARGV[5] most deliveries in the queue
-- ARGV[6] most bytes in the queue
-- ARGV[7] a log expires when idle for this long, ms
-- ARGV[8..] nine per delivery:
--   delivery id; proof: 'p' (the event is pending for a consumer) or 'c' (claimed); for 'p' the stream id, for
--   'c' the score that the claim set; for 'p' the consumer, for 'c' the stream id; action: 'q' (queue), 'h'
--   (queue, as claimed by the caller), 'f' (failed) or 'd' (delivered); delay until it is due, ms (for 'h' the
--   lease); delay until due's next look, ms; the packed record (empty for 'd'); the body where the record says
--   that it lies apart and the delivery has no record yet, else empty
--
-- A delivery that is finished under a claim while its event is still pending leaves a mark in the record's place
-- (byte 0, three zero bytes, config id) for an hour: the event's reader may not know yet that it was queued, and
-- would queue it again, or a replica that takes the event over would make it anew. One that was asked for by hand
-- leaves it as long as a log lives, with its attempts (u32) behind: whoever asks again must have seen this one, and the
-- row that ended it before is not its state any more.
--
-- Returns a flat array: per delivery a status and a score, then the failed set's size and bytes.
--   status 1: applied; the score is its new score in the queue or the failed set (for 'd' the time). In the failed set
--   it is the time of the page's id, not of the call: readers take what failed before the oldest page for without a row
--   status 2: proof 'p', and its fate is durable already: a second application, or the record of an earlier owner;
--   the score is its score in the queue, 0 where it is not there
--   status 3: not applied, the queue is full
--   status 0: not applied, the caller is not the owner (so a second application under a claim, whose score the
--   first one changed) or the record is another config's
-- The log page is written whatever the statuses are; readers tell equal rows apart.
-- Bound: 64 deliveries a call, checked by the caller.
-- Atomic because ownership, record, queue, index of due configs, body count and sizes must change together:
-- a crash between any two of them would lose the delivery or repeat it for ever.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local events, queue, due, failed, size = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local failed_at = now

-- What a record weighs: its own bytes, and those of a body that lies apart (flag in byte 4, length at the end).
local function weight(record)
  if string.byte(record, 4) == 1 then
    return #record + struct.unpack('>I4', record, #record - 3)
  end
  return #record
end

local function body_add(key, body)
  if body == '' then return end
  if redis.call('EXISTS', key) == 1 then
    local count = struct.unpack('>I4', redis.call('GETRANGE', key, 0, 3))
    redis.call('SETRANGE', key, 0, struct.pack('>I4', count + 1))
  else
    redis.call('SET', key, struct.pack('>I4', 1) .. body)
  end
end

local function body_drop(key)
  local head = redis.call('GETRANGE', key, 0, 3)
  if #head < 4 then return end
  local count = struct.unpack('>I4', head)
  if count <= 1 then
    redis.call('UNLINK', key)
  else
    redis.call('SETRANGE', key, 0, struct.pack('>I4', count - 1))
  end
end

local function owned(proof, value, consumer, id)
  if proof == 'c' then
    local score = redis.call('ZSCORE', queue, id)
    return score and tonumber(score) == tonumber(value)
  end
  local pending = redis.pcall('XPENDING', events, 'dispatchers', value, value, 1, consumer)
  return not pending.err and #pending == 1
end

-- Whether the event of a claimed delivery is not acknowledged yet, whoever reads it.
local function still_pending(event)
  local pending = redis.pcall('XPENDING', events, 'dispatchers', event, event, 1)
  return not pending.err and #pending == 1
end

-- What waits for the first time is read and checked for all, then written for all: the queue's sizes and the config's
-- place in due are asked and set once a call, not once a delivery. Nothing of them is written before all are checked,
-- so an error in between leaves none of them half written.
local fresh, fresh_bytes, fresh_look = {}, 0, nil
local taken = {}
local queue_count, queue_bytes

-- Notes a delivery that waits for the first time; answers as `settle` does.
local function wait(id, key, body_key, record, body, delay, look, claimed)
  if taken[id] then return 2, taken[id] end
  queue_count = queue_count or redis.call('ZCARD', queue)
  queue_bytes = queue_bytes or tonumber(redis.call('HGET', size, 'queueBytes') or '0')
  local new_weight = weight(record)
  if queue_count + #fresh >= tonumber(ARGV[5]) or queue_bytes + fresh_bytes + new_weight > tonumber(ARGV[6]) then
    return 3, 0
  end
  local score = now + delay
  fresh[#fresh + 1] = { id, key, body_key, record, body, score, claimed and now or score }
  fresh_bytes = fresh_bytes + new_weight
  fresh_look = math.min(fresh_look or look, look)
  taken[id] = score
  return 1, score
end

local function write_fresh()
  if #fresh == 0 then return end
  local members = {}
  for i, one in ipairs(fresh) do
    members[2 * i - 1], members[2 * i] = one[6], one[1]
  end
  redis.call('ZADD', queue, unpack(members))
  redis.call('HINCRBY', size, 'queueBytes', fresh_bytes)
  redis.call('ZADD', due, 'LT', now + fresh_look, ARGV[1])
  for _, one in ipairs(fresh) do
    local record = one[4]
    redis.call('SET', one[2], string.sub(record, 1, 40) .. struct.pack('>I8', one[7]) .. string.sub(record, 49))
    body_add(one[3], one[5])
  end
end

local function settle(at, key, body_key)
  local id, proof, value, consumer = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local action, delay, look = ARGV[at + 4], tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
  local record, body = ARGV[at + 7], ARGV[at + 8]
  local old = redis.call('GET', key)
  if old and string.sub(old, 5, 16) ~= ARGV[2] then return 0, 0 end
  if not owned(proof, value, consumer, id) then return 0, 0 end
  if proof == 'p' and old then return 2, tonumber(redis.call('ZSCORE', queue, id) or '0') end
  if proof == 'p' and action ~= 'f' and action ~= 'd' then
    return wait(id, key, body_key, record, body, delay, look, action == 'h')
  end
  if old and string.byte(old, 1) == 0 then old = nil end
  -- Subtracted from 0 below: Redis 7.0 writes a negated 0 as "-0" and then refuses it.
  local old_weight = old and weight(old) or 0
  if action == 'd' then
    redis.call('ZREM', queue, id)
    local by_hand = old and #old >= 24 and struct.unpack('>I4', old, 21) > 0
    if by_hand then
      local attempts = struct.unpack('>I4', old, 17) + 1
      redis.call('SET', key, '\0\0\0\0' .. ARGV[2] .. struct.pack('>I4', attempts), 'PX', ARGV[7])
    elseif proof == 'c' and still_pending(consumer) then
      redis.call('SET', key, '\0\0\0\0' .. ARGV[2], 'PX', 3600000)
    else
      redis.call('UNLINK', key)
    end
    if old and string.byte(old, 4) == 1 then body_drop(body_key) end
    redis.call('HINCRBY', size, 'queueBytes', 0 - old_weight)
    return 1, now
  end
  local new_weight = weight(record)
  local score = now
  if action == 'f' then
    redis.call('ZREM', queue, id)
    score = failed_at
    redis.call('ZADD', failed, score, id)
    redis.call('HINCRBY', size, 'failedBytes', new_weight)
    if proof == 'c' then redis.call('HINCRBY', size, 'queueBytes', 0 - old_weight) end
  else
    score = now + delay
    local next_attempt = action == 'h' and now or score
    record = string.sub(record, 1, 40) .. struct.pack('>I8', next_attempt) .. string.sub(record, 49)
    redis.call('ZADD', queue, score, id)
    redis.call('HINCRBY', size, 'queueBytes', new_weight - old_weight)
    redis.call('ZADD', due, 'LT', now + look, ARGV[1])
  end
  redis.call('SET', key, record)
  if not old then body_add(body_key, body) end
  return 1, score
end

if ARGV[3] ~= '' then
  if ARGV[4] ~= '' then redis.call('XADD', KEYS[7], '*', 'p', ARGV[4]) end
  -- Later than the call began, or than the clock says after it was set back.
  failed_at = tonumber(string.match(redis.call('XADD', KEYS[6], '*', 'p', ARGV[3]), '^%d+'))
end
local answer = {}
local count = (#KEYS - 7) / 2
for i = 0, count - 1 do
  local status, score = settle(8 + 9 * i, KEYS[8 + 2 * i], KEYS[9 + 2 * i])
  answer[#answer + 1] = status
  answer[#answer + 1] = score
end
write_fresh()
-- An empty queue needs no look: its place in due may lie as far ahead as the last claim's end.
if redis.call('ZCARD', queue) == 0 then
  redis.call('ZREM', due, ARGV[1])
  redis.call('HDEL', size, 'queueBytes')
end
answer[#answer + 1] = redis.call('ZCARD', failed)
answer[#answer + 1] = tonumber(redis.call('HGET', size, 'failedBytes') or '0')
return answer
