package redisstore

import "github.com/redis/go-redis/v9"

// A record is a hash of:
//
//	f  fingerprint
//	s  state: 1 in progress, 2 released, 3 completed, 4 completed without result
//	t  token of the last claim
//	a  attempts, o 1 if the last one took over
//	l  end of the lease, in microseconds
//	c  the call that made the claim
//	r  result
//
// A completed one has no more of a, o, l and c: without them Redis needs less
// memory for it.
const (
	completed = 3
	notStored = 4
)

// A script reads the clock of the server that runs it; replicas get its effects.
// A Redis that is full refuses HSET, but not to a script that has written before:
// so those of an owner begin with HDEL, and claims that are held go on to their end.
// Numbers of Lua are exact up to 2^53, which in microseconds is the year 2255.
const (
	acquireScript = `
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local r = redis.call('HMGET', KEYS[1], 'f', 's', 't', 'a', 'o', 'l', 'c')
local attempt, over = 1, 0
if r[1] then
	if r[1] ~= ARGV[1] then return {4} end
	if r[2] == '3' then return {3, 0, redis.call('HGET', KEYS[1], 'r')} end
	if r[2] == '4' then return {3, 1} end
	if r[2] == '1' and r[7] == ARGV[4] then
		redis.call('HSET', KEYS[1], 'l', string.format('%.0f', now + ARGV[2]))
		return {1, tonumber(r[3]), tonumber(r[4]), tonumber(r[5])}
	end
	if r[2] == '1' and tonumber(r[6]) > now then return {2, tonumber(r[6]) - now} end
	attempt = r[4] + 1
	if r[2] == '1' then over = 1 end
end
local token = math.max((redis.call('GET', KEYS[2]) or 0) + 1, now)
redis.call('SET', KEYS[2], string.format('%.0f', token))
redis.call('HSET', KEYS[1], 'f', ARGV[1], 's', 1, 't', string.format('%.0f', token),
	'a', attempt, 'o', over, 'l', string.format('%.0f', now + ARGV[2]), 'c', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {1, token, attempt, over}`

	completeScript = `
local r = redis.call('HMGET', KEYS[1], 't', 's')
if r[1] ~= ARGV[1] or r[2] == '2' then return 0 end
if r[2] == '3' then return 1 end
redis.call('HDEL', KEYS[1], 'a', 'o', 'l', 'c')
redis.call('HSET', KEYS[1], 's', ARGV[2], 'r', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1`

	releaseScript = `
local r = redis.call('HMGET', KEYS[1], 't', 's')
if r[1] ~= ARGV[1] or r[2] ~= '1' and r[2] ~= '2' then return 0 end
redis.call('HDEL', KEYS[1], 'c')
redis.call('HSET', KEYS[1], 's', 2)
return 1`

	extendScript = `
local r = redis.call('HMGET', KEYS[1], 't', 's')
if r[1] ~= ARGV[1] or r[2] == '2' then return 0 end
if r[2] ~= '1' then return 1 end
local time = redis.call('TIME')
redis.call('HDEL', KEYS[1], 'l')
redis.call('HSET', KEYS[1], 'l', string.format('%.0f', time[1] * 1000000 + time[2] + ARGV[2]))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1`
)

// scripts holds the transitions, each with its hash.
type scripts struct{ acquire, complete, release, extend *redis.Script }

func newScripts() scripts {
	return scripts{
		acquire:  redis.NewScript(acquireScript),
		complete: redis.NewScript(completeScript),
		release:  redis.NewScript(releaseScript),
		extend:   redis.NewScript(extendScript),
	}
}
