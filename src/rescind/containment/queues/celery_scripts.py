r"""What Redis does for `CeleryQueue` in one step each, with nothing in between.

In each script the first write is the one that Redis refuses when its memory is full; after it, none is refused. So a
script does all or nothing. A held job is `LIST\nMESSAGE`, by its delivery tag, and has in `order` the moment at which
it was taken out of the queue: the older, the lower.
"""

HOLD = """
-- Move messages from a list. KEYS: list, held, order. ARGV: how many at the right end to leave alone, how many to look
-- at, then message and tag in turn. Somebody may have taken some from the right end since, so they are looked for.
local wanted = {}
for i = 3, #ARGV, 2 do wanted[ARGV[i]] = ARGV[i + 1] end
local found = redis.call('LRANGE', KEYS[1], -(ARGV[1] + ARGV[2]), -(ARGV[1] + 1))
local time = redis.call('TIME')
local at = time[1] + time[2] / 1000000
local last = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')
if last[2] and tonumber(last[2]) >= at then at = tonumber(last[2]) + 0.000002 end
local moved = {}
for i = #found, 1, -1 do
    local tag = wanted[found[i]]
    if tag then
        redis.call('HSET', KEYS[2], tag, KEYS[1] .. '\\n' .. found[i])
        redis.call('ZADD', KEYS[3], string.format('%.6f', at + #moved * 0.000002), tag)
        moved[#moved + 1] = i
    end
end
for _, i in ipairs(moved) do redis.call('LSET', KEYS[1], i - #found - 1 - ARGV[1], 'rescind: held') end
if #moved > 0 then redis.call('LREM', KEYS[1], -#moved, 'rescind: held') end
return #moved
"""

HOLD_TAKEN = """
-- Move a message that a worker has. KEYS: unacked, unacked_index, held, order. ARGV: tag, what unacked says, held job.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
local at = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not at then at = redis.call('TIME')[1] end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[4], at, ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
"""

FREE = """
-- Put held messages back to where they are taken next. KEYS: held, order. ARGV: tags, the youngest first.
local freed = 0
for _, tag in ipairs(ARGV) do
    local held = redis.call('HGET', KEYS[1], tag)
    if held then
        local cut = string.find(held, '\\n', 1, true)
        redis.call('RPUSH', string.sub(held, 1, cut - 1), string.sub(held, cut + 1))
        redis.call('HDEL', KEYS[1], tag)
        freed = freed + 1
    end
    redis.call('ZREM', KEYS[2], tag)
end
return freed
"""
