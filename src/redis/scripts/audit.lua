#!lua flags=allow-oom
-- Writes one entry to an organisation's audit, and drops the oldest ones while a limit is passed.
--
-- KEYS[1] audit:<organisation> (stream)  KEYS[2] audit_bytes:<organisation> (string)
--
-- ARGV[1] the entry, JSON; empty: nothing is written, only dropped
-- ARGV[2] most entries           ARGV[3] most bytes of entries
-- ARGV[4] longest that one is kept, ms
--
-- Returns {entries dropped, 1 when a limit may still be passed}: the caller then calls again with nothing to write.
-- Applied twice it writes the entry twice.
-- Bound: one entry written, 64 dropped a call.
-- Atomic because the bytes must tell what the stream holds, whoever else writes to it; a script, so that a full Redis
-- still takes it.
if ARGV[1] ~= '' then
  redis.call('XADD', KEYS[1], '*', 'entry', ARGV[1])
  redis.call('INCRBY', KEYS[2], #ARGV[1])
end
local count = redis.call('XLEN', KEYS[1])
local bytes = tonumber(redis.call('GET', KEYS[2]) or '0')
local time = redis.call('TIME')
local oldest_kept = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) - tonumber(ARGV[4])
local dropped, more = 0, 1
for _ = 1, 64 do
  local entry = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  local over = count > tonumber(ARGV[2]) or bytes > tonumber(ARGV[3])
  if not entry or count <= 1 or (not over and tonumber(string.match(entry[1], '^%d+')) >= oldest_kept) then
    more = 0
    break
  end
  redis.call('XDEL', KEYS[1], entry[1])
  bytes = redis.call('DECRBY', KEYS[2], #(entry[2][2] or ''))
  count, dropped = count - 1, dropped + 1
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return { dropped, more }
