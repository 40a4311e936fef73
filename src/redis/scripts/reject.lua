#!lua flags=allow-oom
-- Keeps a stream entry that could not be understood (its first 1,000 fields), with the reason.
--
-- KEYS[1] rejected (stream)
--
-- ARGV[1] most entries kept (about)
-- ARGV[2] the entry's stream id
-- ARGV[3] the field that was wrong
-- ARGV[4] what was wrong with it
-- ARGV[5..] the entry's fields and values
--
-- Returns the number of kept entries that the cap evicted. Applied twice it keeps the entry twice.
-- Bound: one entry of at most 1,000 fields, checked by the caller: unpack takes less than 8,000 values.
-- Atomic because the count of evicted entries belongs to this one addition; a script, so that a full Redis still
-- takes it.
local before = redis.call('XLEN', KEYS[1])
local fields = {}
for i = 5, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', '_id', ARGV[2], '_field', ARGV[3], '_problem', ARGV[4],
  unpack(fields))
return before + 1 - redis.call('XLEN', KEYS[1])
