"""The stamp: one number in shared memory that says whether the set of orders has moved.

A guard looks at it before every call. It is a 64-bit word at the start of a small file that every process of the
machine maps, so a look is a load from memory: no system call, and no process that would have to be alive to answer.

    at rest                a writer is at work                 at rest again
    stamp 40        ──▶    41, then the order commits   ──▶    42

A guard keeps the orders it read under an even stamp for as long as that stamp stands, and rereads on every check while
it is odd. It reads the stamp *before* the set; so whatever commits in between has moved, or will move, the stamp.

- A writer that dies at 41 leaves it there, and every guard goes on rereading, which is slower and as safe. The next
  writer, or the next process that opens the store, moves it on to 42: it can, since the dead one's lock is gone.
- The number never goes back. A new file starts at the wall clock or well above the last stamp that the store
  remembers, whichever is more, so a guard that lived through the loss of the file mistakes no new stamp for an old one.
- A file that was deleted or replaced stays mapped where it was mapped, and shows nothing new any more. Guards compare
  it with the path a few times a second (`is_current`). A writer compares after it has moved the stamp, and moves the
  new one too.
- Someone who truncates the file kills the processes that map it (SIGBUS). They stop; that is all to be said for it.

The file must be on a local disk of the one machine that its guards run on.
"""

import contextlib
import fcntl
import mmap
import os
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

from rescind.clock import Clock
from rescind.errors import OrdersUnavailable

PAGE_BYTES = 4096

_NEW_FILE_STEP = 1_000_000
"""How far above the remembered stamp a new file starts: more than moves that left no row could ever have added."""

_LOCK_RETRY_S = 0.001


class StampPage:
    """One mapping of the stamp file, read-only. A replaced file needs a new `StampPage`."""

    def __init__(self, path: Path) -> None:
        """Map the file, which must exist.

        Raises: OrdersUnavailable.
        """
        self.path = path
        with _translating(path):
            descriptor = _open(path, os.O_RDONLY)
            try:
                self._identity = _identity(os.fstat(descriptor))
                _refuse_short(descriptor, path)
                self._map = mmap.mmap(descriptor, PAGE_BYTES, access=mmap.ACCESS_READ)
            finally:
                os.close(descriptor)
        self.page: Sequence[int] = memoryview(self._map).cast("Q")

    def is_current(self) -> bool:
        """Whether the path still leads to the file that is mapped."""
        return _leads_to(self.path, self._identity)


class StampWriter:
    """The right to move the stamp; at most one process has it. See `writing`."""

    def __init__(self, descriptor: int, path: Path) -> None:
        _refuse_short(descriptor, path)
        self._path = path
        self._identity = _identity(os.fstat(descriptor))
        self._map = mmap.mmap(descriptor, PAGE_BYTES)
        self._page = memoryview(self._map).cast("Q")

    def begin(self) -> int:
        """Make the stamp odd. Returns the even one that `finish` will show."""
        self._page[0] = (self._page[0] + 1) | 1
        return self._page[0] + 1

    def finish(self) -> None:
        """Make the stamp even again, and larger than it ever was; this also repairs what a dead writer left."""
        if self._page[0] % 2:
            self._page[0] += 1

    def is_current(self) -> bool:
        """Whether the path still leads to the file that is being written."""
        return _leads_to(self._path, self._identity)

    def close(self) -> None:
        """Unmap the page."""
        self._page.release()
        self._map.close()


@contextlib.contextmanager
def writing(path: Path, *, clock: Clock, timeout_s: float) -> Generator[StampWriter]:
    """The stamp, locked against other writers. The kernel takes the lock back from a process that dies.

    Raises: OrdersUnavailable, if the file is missing or unwritable, or its lock is not to be had in time.
    """
    with _translating(path):
        descriptor = _open(path, os.O_RDWR)
        try:
            _lock(descriptor, path, clock=clock, timeout_s=timeout_s)
            writer = StampWriter(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
    try:
        yield writer
    finally:
        writer.close()
        os.close(descriptor)  # and with it the lock


def repair(path: Path) -> None:
    """Move on a stamp that a dead writer left odd. Does nothing if a writer is alive, or the file is not ours to write.

    The writer's lock is what tells the dead from the living; and once nobody writes, the set is at rest.
    """
    with contextlib.suppress(OSError):
        descriptor = _open(path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            writer = StampWriter(descriptor, path)
            writer.finish()
            writer.close()
        finally:
            os.close(descriptor)


def create_if_missing(path: Path, *, above: int, clock: Clock) -> None:
    """Make a stamp file that starts higher than any stamp before it; leave one that is there alone.

    Args:
        path: Where.
        above: The highest stamp that the store remembers.
        clock: The time.

    Raises: OrdersUnavailable.
    """
    if path.exists():
        return
    start = max(clock.now_us(), above + _NEW_FILE_STEP) & ~1
    with _translating(path):
        # Nobody may map a file that is still short, so it gets its name when it is complete; and a link, unlike a
        # rename, does not push aside the file of somebody who came first.
        temporary = path.with_name(f"{path.name}.{os.urandom(6).hex()}.new")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, start.to_bytes(8, sys.byteorder).ljust(PAGE_BYTES, b"\0"))
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            os.close(descriptor)
            os.unlink(temporary)


def _open(path: Path, access: int) -> int:
    return os.open(path, access | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)  # a FIFO in its place must not hang us


def _lock(descriptor: int, path: Path, *, clock: Clock, timeout_s: float) -> None:
    deadline_s = clock.monotonic_s() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if clock.monotonic_s() >= deadline_s:
                raise OrdersUnavailable(
                    f"another process has been changing the orders for {timeout_s:g} s ({path} is locked); "
                    f"nothing was changed. See who has the file open, end that process, and try again"
                ) from None
            clock.sleep(_LOCK_RETRY_S)
        else:
            return


def _refuse_short(descriptor: int, path: Path) -> None:
    # Mapping beyond the end of a file gives a mapping that kills its reader.
    if os.fstat(descriptor).st_size < PAGE_BYTES:
        raise OrdersUnavailable(f"{path} is damaged (too short); move it away, and a new one will be made")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _leads_to(path: Path, identity: tuple[int, int]) -> bool:
    try:
        return _identity(os.stat(path)) == identity
    except OSError:
        return False


@contextlib.contextmanager
def _translating(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise OrdersUnavailable(
            f"the stamp of the orders cannot be used: {error.strerror or error} ({path})"
        ) from error
