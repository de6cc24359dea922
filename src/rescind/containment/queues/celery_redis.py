"""Celery on Redis, as a queue whose jobs can wait. Tested with Celery 5.4 to 5.7.

How Celery keeps jobs there: a queue is a list of JSON messages, pushed at its left end and taken at its right; jobs of
other priorities have lists of their own beside it. A worker takes several at once (`prefetch`) and keeps those it has
not finished in the hash `unacked`. So a job that has not begun is in a list, or in the memory of a worker:

    list ──(a) hold: one script moves it──▶ held ◀──(b) a worker that is about to begin it: one script── unacked

(a) `hold` looks at the lists, and a script moves what is covered, whole batches at once: what it moves is never in both
places and never in none, and Redis runs nothing in between. (b) A worker asks at the last moment before it hands the
job to its pool (see `rescind.integrations.celery`), and moves it out of `unacked` by a script too, so that nobody gives
it out again. With (b) law QU2 has no gap, and without it there is one from arrival to the next `hold` of the keeper, in
which a worker may begin a job that is covered.

`release` puts jobs back at the right end, the oldest last, so that they are the next to be taken. The orders in force
at a queue are in the hash `rescind:{queue}:pauses`, what is held in `rescind:{queue}:held` and `…:order` beside it. A
job is held as long as any order in force covers it.
"""

import hashlib
import itertools
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

try:
    import redis
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("CeleryQueue needs redis: pip install 'rescind[celery]'", name=missing.name) from missing
import msgspec

from rescind.containment.queues.celery_scripts import FREE, HOLD, HOLD_TAKEN
from rescind.containment.queues.port import CannotHold, JobOwner, QueueUnavailable
from rescind.errors import UsageError
from rescind.model.scope import Scope

HEADER = "rescind"
"""The header of a job's message that says whose job it is: the fields of `JobOwner`."""

BATCH = 500
"""Messages that one script looks for. It keeps Redis busy for some milliseconds, more the longer the queue is."""

FREE_BATCH = 2_000
"""Messages that are put back in one step, which keeps Redis busy for some 50 ms (measured 2026, a small virtual
machine). Workers may take from one step before the next, so order is kept within so many (QU7)."""

_PASSES_MAX = 5
"""How often a list is walked again, because something of it moved. What is missed, the next `hold` finds."""

PRIORITY_STEPS, SEPARATOR = (0, 3, 6, 9), "\x06\x16"
"""How Celery names the lists of other priorities, unless its `broker_transport_options` say otherwise."""


class CeleryQueue:
    """A `QueuePort` over the queues of a Celery application, with Redis as its broker."""

    def __init__(
        self,
        url: str,
        *queues: str,
        name: str = "",
        key_prefix: str = "",
        priority_steps: tuple[int, ...] = PRIORITY_STEPS,
        separator: str = SEPARATOR,
    ) -> None:
        """The queues. Nothing is asked of Redis yet.

        Args:
            url: The broker's, as Celery has it: `redis://host:6379/0`, `rediss://…`.
            queues: Names of Celery's queues; `celery` by default.
            name: Of this port; the queues' names by default.
            key_prefix: `global_keyprefix` of Celery's `broker_transport_options`.
            priority_steps: As there.
            separator: `sep`, as there.

        Raises: UsageError, if the URL is none.
        """
        self._queues = queues or ("celery",)
        self._name = name or "+".join(self._queues)
        try:
            client: Any = redis.Redis
            self._redis: Any = client.from_url(url, socket_timeout=10.0, socket_connect_timeout=5.0)
        except ValueError as error:
            raise UsageError(
                f"the broker of queue {self._name} has a URL that Redis does not understand: {error}"
            ) from error
        self._prefix, self._separator, self._steps = key_prefix, separator, priority_steps
        steps = [f"{separator}{step}" if step else "" for step in priority_steps]
        self._lists = tuple(f"{key_prefix}{queue}{step}" for queue in self._queues for step in steps)
        ours = f"{key_prefix}rescind:{{{self._name}}}"
        self._pauses_key, self._held_key, self._order_key = f"{ours}:pauses", f"{ours}:held", f"{ours}:order"
        self._hold, self._hold_taken, self._free = map(self._redis.register_script, (HOLD, HOLD_TAKEN, FREE))

    @property
    def name(self) -> str:
        """The port's name."""
        return self._name

    def hold(self, scope: Scope, order_id: str) -> int:
        """As the port says. Raises: CannotHold; QueueUnavailable."""
        if scope.actions:
            raise CannotHold(queue=self._name, scope=scope, why="a job is no single action; leave out `action:…`")
        with self._translated():
            self._redis.hset(self._pauses_key, order_id, str(scope))
            return sum(self._hold_in(key, scope) for key in self._lists)

    def release(self, order_id: str) -> int:
        """As the port says. Raises: QueueUnavailable."""
        with self._translated():
            self._redis.hdel(self._pauses_key, order_id)
            return self._free_uncovered()

    def held(self) -> Mapping[str, int]:
        """As the port says. Jobs that nothing holds any more, after a death in `release`, count for the order ``.

        Raises: QueueUnavailable.
        """
        with self._translated():
            pauses = self._pauses()
            counts: dict[str, int] = dict.fromkeys(pauses, 0)
            for _, owner in self._held_jobs():
                for order_id in _holding(pauses, owner) or [""]:
                    counts[order_id] = counts.get(order_id, 0) + 1
            return counts

    def hold_taken(self, owner: JobOwner, queue: str, tag: str, *, unacked: str, unacked_index: str) -> bool:
        """Hold back a job that a worker has taken and not begun, if an order in force covers it.

        Args:
            owner: Whose job it is.
            queue: Which of Celery's queues it came from; a job of another one than ours is none of our business.
            tag: Its delivery tag.
            unacked: Celery's hash of jobs that workers have.
            unacked_index: The sorted set beside it.

        Returns: Whether it must not be begun: it is held, or it was given to somebody else by now.
        Raises: QueueUnavailable; and then it must not be begun either.
        """
        if queue not in self._queues:
            return False
        with self._translated():
            if not _holding(self._pauses(), owner):
                return False
            taken = self._redis.hget(self._prefix + unacked, tag)
            if taken is not None:
                raw = msgspec.json.decode(taken, type=tuple[msgspec.Raw, str, str])[0]  # exactly as it was sent
                held = self._list_of(queue, _read(bytes(raw))).encode() + b"\n" + bytes(raw)
                keys = [self._prefix + unacked, self._prefix + unacked_index, self._held_key, self._order_key]
                self._hold_taken(keys=keys, args=[tag, taken, held])
            # The order may be released in this very moment. What was held is then found by the keeper, as a job that
            # no order holds, and given free.
            return True

    # --- what covers a job ---

    def _pauses(self) -> dict[str, Scope]:
        found = self._redis.hgetall(self._pauses_key)
        return {order_id.decode(): Scope.parse(scope.decode()) for order_id, scope in found.items()}

    def _held_jobs(self) -> Iterator[tuple[bytes, JobOwner]]:
        """Held jobs by tag, oldest first."""
        for first in itertools.count(0, BATCH):
            tags = self._redis.zrange(self._order_key, first, first + BATCH - 1)
            if not tags:
                return
            for tag, held in zip(tags, self._redis.hmget(self._held_key, tags), strict=True):
                if held is not None:
                    yield tag, owner_of(_read(held.partition(b"\n")[2]).headers)

    def _list_of(self, queue: str, message: "_Message") -> str:
        priority = message.properties.get("priority") or 0
        step = max((each for each in self._steps if each <= priority), default=0)
        return f"{self._prefix}{queue}{self._separator}{step}" if step else f"{self._prefix}{queue}"

    # --- moving ---

    def _hold_in(self, key: str, scope: Scope) -> int:
        held = 0
        for _ in range(_PASSES_MAX):
            moved = self._walk(key, scope)
            held += moved
            if not moved:  # whatever workers took meanwhile, nothing covered is left
                break
        return held

    def _walk(self, key: str, scope: Scope) -> int:
        passed = moved = 0
        while found := self._redis.lrange(key, -(passed + BATCH), -(passed + 1)):
            covered = [raw for raw in found if scope.covers(owner_of(_read(raw).headers).subject)]
            taken = 0
            if covered:
                words = [word for raw in covered for word in (raw, _tag_of(raw))]
                # Workers may have taken up to a batch from the right end since: what is looked for is nearer to it.
                skip = max(0, passed - BATCH)
                args = [skip, passed - skip + BATCH, *words]
                taken = int(self._hold(keys=[key, self._held_key, self._order_key], args=args))
            moved += taken
            passed += len(found) - taken
        return moved

    def _free_uncovered(self) -> int:
        freed = 0
        while True:
            pauses = self._pauses()
            free = [tag for tag, owner in self._held_jobs() if not _holding(pauses, owner)]
            if not free:
                return freed
            for end in range(len(free), 0, -FREE_BATCH):
                batch = free[max(0, end - FREE_BATCH) : end]
                freed += int(self._free(keys=[self._held_key, self._order_key], args=batch[::-1]))

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise QueueUnavailable(f"queue {self._name} cannot be used: {error}") from error


class _Message(msgspec.Struct, frozen=True):
    """What we read of a message as Celery has it in Redis."""

    headers: dict[str, Any] = {}
    properties: dict[str, Any] = {}


def owner_of(headers: Mapping[str, Any]) -> JobOwner:
    """Whose job it is, by the headers of its message.

    One without our header, or with a broken one, is nobody's: only `everything` covers it.
    """
    try:
        return msgspec.convert(headers.get(HEADER) or {}, JobOwner)
    except msgspec.ValidationError:
        return JobOwner()


def _holding(pauses: Mapping[str, Scope], owner: JobOwner) -> list[str]:
    if not pauses:
        return []
    subject = owner.subject
    return [order_id for order_id, scope in pauses.items() if scope.covers(subject)]


def _tag_of(raw: bytes) -> str:
    tag = _read(raw).properties.get("delivery_tag")
    return tag if isinstance(tag, str) and tag else hashlib.sha256(raw).hexdigest()


def _read(raw: bytes) -> _Message:
    try:
        return msgspec.json.decode(raw, type=_Message)
    except msgspec.DecodeError:  # nothing of Celery's
        return _Message()
