"""Keys of Redis as an effect."""

import base64
from collections.abc import Callable, Mapping
from typing import Any, cast

try:
    import redis
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("RedisKeys needs redis: pip install 'rescind[redis]'", name=missing.name) from missing

# What a server answers may be anything.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from rescind.compensation.effects.one_place import OnePlace, before_of, is_to_put_back
from rescind.errors import Conflict, Transient, UsageError
from rescind.guard.effect import Call, PastStep
from rescind.model.step import Snapshot, Target

_TRIES = 5  # a key that others write to all the time is looked at so often before we give up for now
_KEYS_MAX = 1000


class RedisKeys(OnePlace):
    """Keys of Redis, before and after a call; the undo puts them back, if they are still as the call left them.

        cart = RedisKeys(client, keys=lambda user: f"cart:{user}")

        @guard.write("cart.add", effect=cart)
        def add(user: str, article: str) -> None:
            client.rpush(f"cart:{user}", article)

    Values of every type come back by DUMP and RESTORE, with the moment at which they expire. Comparing and putting back
    are one transaction (WATCH, MULTI) over all keys of the call. A version is the content and the expiry; of streams
    and of modules' types it is their dump. Contents go into the journal; do not guard keys that hold secrets.

    A tool that raised is unknown: a command whose reply was lost may still arrive. A key that would have expired by
    now does not come back; that is a conflict. Needs Redis 7 or newer.
    """

    parallel = True

    def __init__(
        self,
        client: Any,
        *,
        keys: Callable[..., str | list[str]],
        system: str = "redis",
        bytes_max: int = 1 << 20,
    ) -> None:
        """Guard keys.

        Args:
            client: A `redis.Redis`; the effect opens connections of its own to the same server.
            keys: Which key or keys, as a function of those of the tool's arguments that it names.
            system: What targets call the server.
            bytes_max: How large the values of one call may be together; more is refused before the tool runs.
        """
        pool = client.connection_pool
        options: dict[str, Any] = {**pool.connection_kwargs, "decode_responses": False}
        self._pool: Any = cast("Any", redis.ConnectionPool)(connection_class=pool.connection_class, **options)
        self._client: Any = redis.Redis(connection_pool=self._pool)
        super().__init__(keys, role="keys", system=system)
        self._bytes_max = bytes_max

    def target(self, arguments: Mapping[str, Any]) -> Target:
        """The target of a call with these arguments: the keys."""
        return Target(self._system, "key", ",".join(self._keys_of(arguments)))

    def close(self) -> None:
        """Close the effect's own connections."""
        self._pool.disconnect()

    def open(self, call: Call) -> "_KeysTouch":
        """See `Effect`. Raises: UsageError for too much, or what is no key; redis.RedisError."""
        keys = self._keys_of(call.arguments)
        before = self.look(keys)
        size = sum(len(entry["dump"]) * 3 // 4 for entry in before.image["keys"].values() if entry)
        if size > self._bytes_max:
            raise UsageError(f"the keys hold {size:,} bytes, more than bytes_max={self._bytes_max:,}; choose less")
        return _KeysTouch(self, keys, before)

    def observe(self, step: PastStep) -> Snapshot | None:
        """See `Effect`."""
        return self.look(list(step.before["keys"])) if step.before else None

    def snapshot_of(self, step: PastStep, image: Any) -> Snapshot:
        """See `Imaging`. Raises: Conflict for any but the two that are recorded: only the server can read a dump."""
        for known in (step.before_snapshot, step.after_snapshot):
            if known is not None and known.image == image:
                return known
        raise Conflict(f"values of {self._system} are kept as its own dumps, so nothing can be made of two of them")

    def restore(self, step: PastStep) -> None:
        """See `Effect`."""
        before_of(step, "what the keys held")
        try:
            with self._client.pipeline() as transaction:
                for _ in range(_TRIES):
                    try:
                        self._try_restore(transaction, step)
                    except redis.WatchError:
                        continue
                    return
        except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError) as error:
            raise Transient(f"{self._system}: {error}") from error
        raise Transient(f"{self._system}: others wrote to the keys {_TRIES} times while they were put back")

    def _try_restore(self, transaction: Any, step: PastStep) -> None:
        entries: dict[str, dict[str, Any] | None] = step.before["keys"]
        transaction.watch(*entries)
        now = self.look(list(entries))

        def unlike(after: Snapshot) -> str:
            return f": {', '.join(_unlike(now, after))}"

        if not is_to_put_back(step, now, self._system, unlike=unlike):
            transaction.unwatch()
            return
        seconds, micros = self._client.time()
        now_ms = seconds * 1000 + micros // 1000
        late = [key for key, entry in entries.items() if entry and 0 <= entry["expires_ms"] <= now_ms]
        if late:
            raise Conflict(f"{', '.join(late)} would have expired by now, so nothing was changed")
        transaction.multi()
        for key, entry in entries.items():
            if entry is None:
                transaction.delete(key)
            else:
                dump = base64.b64decode(entry["dump"])
                expiry = max(entry["expires_ms"], 0)
                transaction.restore(key, expiry, dump, replace=True, absttl=expiry > 0)
        transaction.execute()

    def look(self, keys: list[str]) -> Snapshot:
        """The keys now, all at one moment. Raises: redis.RedisError."""
        for _ in range(_TRIES):
            types = [self._client.type(key) for key in keys]
            with self._client.pipeline(transaction=True) as together:
                for key, kind in zip(keys, types, strict=True):
                    together.type(key).dump(key).execute_command("PEXPIRETIME", key)
                    read: Callable[[Any, str], Any] = _CONTENT.get(kind, _dump)
                    read(together, key)
                answers = together.execute(raise_on_error=False)
            found = [answers[4 * number : 4 * number + 4] for number in range(len(keys))]
            if [kind for kind, *_ in found] == types:  # else its content was asked for as of another type
                for answer in (each for part in found for each in part):
                    if isinstance(answer, Exception):
                        raise answer
                return _snapshot(dict(zip(keys, found, strict=True)))
        raise redis.ConnectionError("the types of the keys change all the time")

    def _keys_of(self, arguments: Mapping[str, Any]) -> list[str]:
        chosen: Any = self._named(arguments)
        keys: list[Any] = [chosen] if isinstance(chosen, str) else list(chosen)
        if not 0 < len(keys) <= _KEYS_MAX or not all(isinstance(key, str) and key for key in keys):
            raise UsageError(f"keys returned {chosen!r:.200}; return a text, or a list of 1 to {_KEYS_MAX} texts")
        try:
            for key in keys:
                self._client.get_encoder().encode(key)
        except UnicodeEncodeError as error:
            raise UsageError(f"{error.object!r:.200} is no key that can be sent: {error.reason}") from None
        return list(dict.fromkeys(keys))


def _dump(pipe: Any, key: str) -> None:
    pipe.dump(key)


_CONTENT: dict[bytes, Callable[[Any, str], Any]] = {
    b"string": lambda pipe, key: pipe.get(key),
    b"list": lambda pipe, key: pipe.lrange(key, 0, -1),
    b"hash": lambda pipe, key: pipe.hgetall(key),
    b"set": lambda pipe, key: pipe.smembers(key),
    b"zset": lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True),
}
"""A dump is not canonical: a set that was put back may list its members in another order."""


def _snapshot(found: dict[str, list[Any]]) -> Snapshot:
    entries: dict[str, Any] = {}
    contents: list[Any] = []
    for key, (kind, dump, expires_ms, content) in found.items():
        if dump is None:
            entries[key] = None
            continue
        entries[key] = {"type": kind.decode(), "dump": base64.b64encode(dump).decode(), "expires_ms": expires_ms}
        contents.append([key, entries[key]["type"], expires_ms, _canonical(kind, content)])
    version = Snapshot.of(contents).ref
    return Snapshot.of({"keys": entries}, version=version, absent=not contents)


def _canonical(kind: bytes, content: Any) -> str:
    if type(content) is dict:
        return repr(sorted(content.items()))
    if kind == b"zset":  # pairs are lists or tuples, as the client's protocol has it
        content = list(map(tuple, content))
    return repr(sorted(content) if type(content) is set else content)


def _unlike(now: Snapshot, after: Snapshot) -> list[str]:
    entries = now.image["keys"]
    differing = [key for key in entries if entries[key] != after.image["keys"].get(key)]
    return differing or list(entries)


class _KeysTouch:
    """See `Touch`."""

    def __init__(self, effect: RedisKeys, keys: list[str], before: Snapshot) -> None:
        self.before = before
        self._effect, self._keys = effect, keys

    def settle(self, result: Any) -> Snapshot:
        """See `Touch`."""
        return self._effect.look(self._keys)

    def abandon(self) -> bool:
        """See `Touch`. A command whose reply was lost may still arrive."""
        return False
