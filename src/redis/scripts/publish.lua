#!lua
-- Appends events, each nonce once in the time that its key lives. Without allow-oom on purpose: a full Redis
-- refuses the whole request before its first write, so that it can be repeated.
--
-- KEYS[1] events of the shard, stream
-- KEYS[2..] nonce keys, string: the id that the nonce was published under
--
-- ARGV[1] seconds that a nonce key lives
-- ARGV[2..] per event: the position of its nonce key in KEYS (0: it has none), the count of the arguments that
--           follow for it, then its field names and values in turn
--
-- Returns one array per event, in order: {<stream id>, 1 when it was appended, 0 when its nonce was known}
--
-- Bound: as many events as the caller gives, at most 1,000 of at most 4 MiB together
--
-- Atomic because of two requests with the same nonce only one may append, and either all events of a request
-- are appended or none.
local answer = {}
local i = 2
while i <= #ARGV do
  local position, count = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  local id = position > 0 and redis.call('GET', KEYS[position])
  if id then
    answer[#answer + 1] = {id, 0}
  else
    id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, i + 2, i + 1 + count))
    if position > 0 then
      redis.call('SET', KEYS[position], id, 'EX', ARGV[1])
    end
    answer[#answer + 1] = {id, 1}
  end
  i = i + 2 + count
end
return answer
