#!lua flags=allow-oom
-- Removes payload pages of one config.
--
-- KEYS[1] bodies:<config> (stream)  KEYS[2] size:<config> (hash)
--
-- ARGV[1..] stream ids of the pages
--
-- Returns the number of pages removed. A second application finds none.
-- Bound: 64 pages a call, checked by the caller.
-- Atomic because the size must tell what the stream holds.
local count = 0
for i = 1, #ARGV do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  if entry then
    redis.call('XDEL', KEYS[1], ARGV[i])
    redis.call('HINCRBY', KEYS[2], 'bodyBytes', 0 - #entry[2][2])
    count = count + 1
  end
end
if redis.call('XLEN', KEYS[1]) == 0 then redis.call('HDEL', KEYS[2], 'bodyBytes') end
return count
