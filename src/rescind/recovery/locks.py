"""Locks that keep undos of one store apart where they must be: taken by the kernel from whoever dies.

A worker that carries out a share holds `undo.lock` together with the other workers, so that `rescind undo --apply`,
which wants it for itself, says that an undo is under way, and the other way round. Who calls handlers that were not
declared parallel holds `alone.lock` for itself, for as long as it may call them.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Protocol

from rescind.clock import Clock

UNDO, ALONE = "undo", "alone"
"""The names of both: of files in a folder, of advisory locks in a database."""

_PAUSE_S = 0.05


class Locks(Protocol):
    """The locks of one store."""

    def held(self, *, alone: bool, is_leaving: Callable[[], bool]) -> contextlib.AbstractContextManager[bool]:
        """Hold what a share needs. Gives False, holding nothing, if `is_leaving` says so before the locks are free."""
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

    def _take(self, stack: contextlib.ExitStack, name: str, how: int, is_leaving: Callable[[], bool]) -> bool:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._store / f"{name}.lock", flags, 0o600)
        stack.callback(os.close, descriptor)
        while not is_leaving():
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            except BlockingIOError:
                self._clock.sleep(_PAUSE_S)
            else:
                return True
        return False
