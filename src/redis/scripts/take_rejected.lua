#!lua flags=allow-oom
-- Takes one entry out of rejected; where fields are given, it becomes an event with these.
--
-- KEYS[1] rejected (stream)  KEYS[2] rejected_bytes (string)  KEYS[3] events (stream)
--
-- ARGV[1] the id of the entry in rejected
-- ARGV[2..] the event's fields and values; none: the entry is only removed
--
-- Returns {'gone'}: there is no such entry, nothing was changed
--         {'removed'}
--         {'requeued', <stream id of the event>}
--
-- Bound: one entry of at most 1,000 fields.
-- Atomic because an entry must not be in both streams, nor in none; a second call finds nothing and changes nothing.
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry then return { 'gone' } end
local answer = { 'removed' }
if #ARGV > 1 then
  answer = { 'requeued', redis.call('XADD', KEYS[3], '*', unpack(ARGV, 2)) }
end
local weight = 0
for i = 1, #entry[2] do weight = weight + #entry[2][i] end
redis.call('XDEL', KEYS[1], ARGV[1])
if redis.call('XLEN', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[1], KEYS[2])
elseif redis.call('DECRBY', KEYS[2], weight) < 0 then
  redis.call('SET', KEYS[2], 0, 'KEEPTTL')
end
return answer
