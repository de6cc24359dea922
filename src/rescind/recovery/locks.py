"""Locks that keep undos of one store apart where they must be: taken by the kernel from whoever dies.

A worker that carries out a share holds `undo.lock` together with the other workers, so that `rescind undo --apply`,
which wants it for itself, says that an undo is under way, and the other way round. Who calls handlers that were not
declared parallel holds `alone.lock` for itself, for as long as it may call them.

What a system may be asked to do at once, by all workers together, is as many permits, each a lock. A worker holds some
of them for as long as it carries out a share, and never has more steps under way there than permits; who finds none
waits until somebody gives one back. Each takes them in the order of the systems' names, and waits for none while it
uses others, so that no two wait for each other.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from rescind.clock import Clock

UNDO, ALONE = "undo", "alone"
"""The names of both: of files in a folder, of advisory locks in a database."""

_PAUSE_S = 0.05


class Permits(msgspec.Struct, frozen=True):
    """What was taken: how many permits of each system, and whether somebody had to be waited for."""

    held: Mapping[str, int]
    waited: bool = False


class Locks(Protocol):
    """The locks of one store."""

    def held(self, *, alone: bool, is_leaving: Callable[[], bool]) -> contextlib.AbstractContextManager[bool]:
        """Hold what a share needs. Gives False, holding nothing, if `is_leaving` says so before the locks are free."""
        ...

    def permits(
        self, limits: Mapping[str, int], *, sharers: int, is_leaving: Callable[[], bool]
    ) -> contextlib.AbstractContextManager[Permits | None]:
        """Hold permits of each of these systems, at least one, and at most a sharer's part of all.

        Args:
            limits: How many there are, by system; the same for everybody, or the largest counts.
            sharers: How many want some, as far as is known.
            is_leaving: Whether to wait no more.

        Gives None, if `is_leaving` says so before there is one of each.
        """
        ...


class UndoLocks:
    """The locks of a store in a folder."""

    def __init__(self, store: Path, clock: Clock) -> None:
        self._store, self._clock = store, clock

    @contextlib.contextmanager
    def held(self, *, alone: bool, is_leaving: Callable[[], bool]) -> Generator[bool]:
        """See `Locks`."""
        with contextlib.ExitStack() as stack:
            yield self._take(stack, UNDO, fcntl.LOCK_SH, is_leaving) and (
                not alone or self._take(stack, ALONE, fcntl.LOCK_EX, is_leaving)
            )

    @contextlib.contextmanager
    def permits(
        self, limits: Mapping[str, int], *, sharers: int, is_leaving: Callable[[], bool]
    ) -> Generator[Permits | None]:
        """See `Locks`."""
        with contextlib.ExitStack() as stack:
            yield take_permits(
                limits,
                lambda name: self._is_taken(stack, name),
                sharers=sharers,
                clock=self._clock,
                is_leaving=is_leaving,
            )

    def _take(self, stack: contextlib.ExitStack, name: str, how: int, is_leaving: Callable[[], bool]) -> bool:
        descriptor = self._open(name)
        stack.callback(os.close, descriptor)
        while not is_leaving():
            if _is_locked(descriptor, how):
                return True
            self._clock.sleep(_PAUSE_S)
        return False

    def _is_taken(self, stack: contextlib.ExitStack, name: str) -> bool:
        """Whether this lock is ours from now on, at once or not at all."""
        descriptor = self._open(name)
        if not _is_locked(descriptor, fcntl.LOCK_EX):
            os.close(descriptor)
            return False
        stack.callback(os.close, descriptor)
        return True

    def _open(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._store / f"{name}.lock", flags, 0o600)


def _is_locked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def take_permits(
    limits: Mapping[str, int],
    is_taken: Callable[[str], bool],
    *,
    sharers: int,
    clock: Clock,
    is_leaving: Callable[[], bool],
) -> Permits | None:
    """See `Locks.permits`; `is_taken` takes one lock, by its name, at once or not at all."""
    held: dict[str, int] = {}
    waited = False
    for system, limit in sorted(limits.items()):
        while not (some := _some_of(system, limit, max(1, limit // max(1, sharers)), is_taken)):
            if is_leaving():
                return None
            waited = True
            clock.sleep(_PAUSE_S)
        held[system] = some
    return Permits(held, waited)


def _some_of(system: str, limit: int, part: int, is_taken: Callable[[str], bool]) -> int:
    # A system may be called anything, and a lock in a folder is a file.
    name = hashlib.sha256(system.encode()).hexdigest()[:16]
    some = 0
    for number in range(limit):
        if some < part and is_taken(f"permit-{name}-{number}"):
            some += 1
    return some
