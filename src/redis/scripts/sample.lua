#!lua flags=allow-oom
-- Looks at a shard: what its gauges show. One call where six commands would do, for an idle replica asks little.
--
-- KEYS[1] events (stream)        KEYS[2] due (zset)
-- KEYS[3] replicas (zset)        KEYS[4] rejected (stream)
-- KEYS[5] rejected bytes (string)
--
-- ARGV[1] the floor; empty while there is none
--
-- Returns the lengths of events, due, replicas and rejected, the bytes of rejected, and the id of the first entry above
-- the floor, empty where there is none.
-- Bound: constant; one entry is read.
-- Atomic because the figures are shown side by side.
local after = '-'
if ARGV[1] ~= '' then after = '(' .. ARGV[1] end
local first = redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', 1)[1]
return {
  redis.call('XLEN', KEYS[1]),
  redis.call('ZCARD', KEYS[2]),
  redis.call('ZCARD', KEYS[3]),
  redis.call('XLEN', KEYS[4]),
  tonumber(redis.call('GET', KEYS[5]) or '0'),
  first and first[1] or '',
}
