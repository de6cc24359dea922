"""What `RedisKeys` promises beyond the contract."""

from typing import Any

import pytest
import redis

from effects.harness import opened, perform
from rescind.compensation.effects import RedisKeys
from rescind.errors import UsageError


def client_of(url: str, **options: Any) -> Any:
    client: Any = redis.Redis.from_url(url, **options)
    client.flushall()
    return client


def test_a_version_is_the_same_in_each_protocol(redis_url: str) -> None:
    old = client_of(redis_url, protocol=2)
    old.zadd("zset", {"a": 1.5, "b": float("inf"), "c": -0.0})
    old.hset("hash", mapping={"x": 1, "y": b"\xff"})
    old.sadd("set", 1, 2)
    old.rpush("list", 1)
    old.set("text", b"\xff\x00")
    old.xadd("stream", {"a": 1})
    keys = ["zset", "hash", "set", "list", "text", "stream", "none"]
    new: Any = redis.Redis.from_url(redis_url, protocol=3)
    effect = RedisKeys(old, keys=lambda: keys)
    step = perform(effect, lambda: old.zadd("zset", {"a": 2}))
    assert opened(RedisKeys(new, keys=lambda: keys)).before == step.after_snapshot
    RedisKeys(new, keys=lambda: keys).restore(step)
    assert old.zscore("zset", "a") == 1.5


def test_a_key_that_cannot_be_sent_is_refused(redis_url: str) -> None:
    with pytest.raises(UsageError, match="no key that can be sent"):
        opened(RedisKeys(client_of(redis_url), keys=lambda: ["a", "\ud800"]))
    latin = client_of(redis_url, encoding="latin-1")
    effect = RedisKeys(latin, keys=lambda: "ä\n\0")
    effect.restore(perform(effect, lambda: latin.set("ä\n\0", 1)))
    assert latin.keys("*") == []
