#!lua flags=allow-oom
-- Removes a consumer and its lease, only when nothing is pending for it.
--
-- KEYS[1] events (stream)        KEYS[2] replicas (zset)
--
-- ARGV[1] consumer
--
-- Returns 1 when it left, 0 when something is still pending for it.
-- Bound: one consumer.
-- Atomic because XGROUP DELCONSUMER throws away what is pending: an entry read between check and removal would
-- be lost.
local pending = redis.pcall('XPENDING', KEYS[1], 'dispatchers', '-', '+', 1, ARGV[1])
if pending.err then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return 1
end
if #pending > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'dispatchers', ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
