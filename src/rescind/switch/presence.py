"""Which guards live on this machine, and what each last said of itself.

A guard has two files in `guards/`:

- `<guard_id>.lock`, on which it holds an flock for as long as it lives. The kernel takes the lock away when the process
  dies, however it dies, so liveness is a fact and no guess by heartbeat; a stopped process is alive.
- `<guard_id>.json`, its `GuardReport`, replaced as a whole. It is not synced to disk: it speaks of a living process,
  and after a power cut there is none.

Everybody who may write in the folder may write anything into it, so readers believe nothing: sizes are bounded, and
what cannot be read makes a guard unknown and never absent.
"""

import contextlib
import fcntl
import os
import threading
from datetime import datetime
from pathlib import Path

import msgspec

from rescind.errors import OrdersUnavailable, UsageError
from rescind.switch.held_file import hold_file
from rescind.switch.port import GuardReport

GUARDS_NAME = "guards"

REPORT_BYTES_MAX = 64 * 1024 * 1024
"""A report of 100,000 open runs takes about half of it."""

_ID_LENGTH_MAX = 128
_LOCK, _REPORT = ".lock", ".json"
_READ_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # neither a link nor a FIFO may take a reader elsewhere


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """A guard as it is seen from outside.

    Attributes:
        guard_id: Its id.
        living: Whether its process holds its lock.
        report: What it last said; None if that cannot be read.
        problem: Why it cannot be read; empty otherwise.
        host: On which machine it runs; empty for this one.
        silent: Its lease has run out, so that it holds itself back. Of this machine's guards nobody needs to ask.
        until: When its lease will have run out, if it stays silent, or did; None where there is no lease.
    """

    guard_id: str
    living: bool
    report: GuardReport | None
    problem: str = ""
    host: str = ""
    silent: bool = False
    until: datetime | None = None


class Presence:
    """One guard's entry in the register, in the process that made it. A forked child makes its own."""

    def __init__(self, directory: Path, guard_id: str) -> None:
        """An entry that does not exist yet: see `register`.

        Args:
            directory: The folder of the store.
            guard_id: Unique; ASCII letters, digits, `_` and `-`.

        Raises: UsageError, if the id could not be a file's name.
        """
        if not is_guard_id(guard_id):
            raise UsageError(f"guard id {guard_id!r} must be of ASCII letters, digits, `_` and `-`")
        self.guard_id = guard_id
        self._folder = directory.absolute() / GUARDS_NAME
        self._lock = threading.Lock()
        self._descriptor = -1
        self._pid = 0

    def register(self) -> None:
        """Appear as living. A second call repairs an entry whose files were deleted, and else does nothing.

        Raises: OrdersUnavailable. The guard must then not act, since no stop would know of it.
        """
        with self._lock:
            if self._is_registered():
                return
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = hold_file(self._folder / (self.guard_id + _LOCK))
            except OSError as error:
                raise OrdersUnavailable(
                    f"this guard cannot be registered in {self._folder} ({error.strerror or error}), so no stop would "
                    "know of it; make the folder writable for this program"
                ) from error
            self._forget()
            self._descriptor, self._pid = descriptor, os.getpid()
            _entries.add(self)

    def is_registered(self) -> bool:
        """Whether others see this guard as living."""
        with self._lock:
            return self._is_registered()

    def publish(self, report: GuardReport) -> None:
        """Replace the report.

        Raises: OSError. The last report then goes on to stand.
        """
        data = msgspec.json.encode(report)
        with self._lock:
            if self._pid != os.getpid():
                raise ProcessLookupError(f"guard {self.guard_id} is not registered by this process")
            path = self._folder / (self.guard_id + _REPORT)
            temporary = path.with_name(path.name + ".new")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "wb") as file:
                file.write(data)
            os.replace(temporary, path)

    def close(self) -> None:
        """Disappear. In a forked child: only let go of the parent's lock."""
        with self._lock:
            if self._pid == os.getpid() and self._descriptor >= 0:
                _remove(self._folder, self.guard_id)
            self._forget()

    def reset_after_fork(self) -> None:
        """In a child: let go of the parent's lock, which would otherwise outlive the parent. Runs by itself."""
        self._lock = threading.Lock()
        if self._pid != os.getpid():
            self._forget()

    def _is_registered(self) -> bool:
        if self._pid != os.getpid() or self._descriptor < 0:
            return False
        try:
            there = os.stat(self._folder / (self.guard_id + _LOCK))
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._descriptor))

    def _forget(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._pid = -1, 0
        _entries.discard(self)


def sight_guards(directory: Path) -> list[Sighting]:
    """All guards that have files here, living and dead, by id. Empty where no guard ever was.

    Raises: OrdersUnavailable, if the folder cannot be read.
    """
    folder = directory.absolute() / GUARDS_NAME
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OrdersUnavailable(f"the guards in {folder} cannot be seen ({error.strerror or error})") from error
    ids = (name.removesuffix(_LOCK) for name in names if name.endswith(_LOCK))
    sightings = (_sight(folder, guard_id) for guard_id in ids if is_guard_id(guard_id))
    return [sighting for sighting in sightings if sighting is not None]


def living_guards(directory: Path) -> list[Sighting]:
    """The guards that live, by id; the files of dead ones are removed.

    Raises: OrdersUnavailable, if the folder cannot be read.
    """
    sightings = sight_guards(directory)
    for sighting in sightings:
        if not sighting.living:
            _remove(directory.absolute() / GUARDS_NAME, sighting.guard_id)
    return [sighting for sighting in sightings if sighting.living]


def _sight(folder: Path, guard_id: str) -> Sighting | None:
    try:
        living = _is_locked(folder / (guard_id + _LOCK))
    except FileNotFoundError:
        return None  # it left just now
    except OSError as error:
        problem = f"its lock cannot be examined ({error.strerror or error})"
        return Sighting(guard_id=guard_id, living=True, report=None, problem=problem)
    report, problem = _read_report_file(folder / (guard_id + _REPORT), guard_id)
    return Sighting(guard_id=guard_id, living=living, report=report, problem=problem)


def _is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | _READ_FLAGS)
    try:
        # Shared, so that two who look at the same time do not take each other for the guard.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read_report_file(path: Path, guard_id: str) -> tuple[GuardReport | None, str]:
    try:
        with open(os.open(path, os.O_RDONLY | _READ_FLAGS), "rb") as file:
            data = file.read(REPORT_BYTES_MAX + 1)
    except FileNotFoundError:
        return None, "it has not reported yet"
    except OSError as error:
        return None, f"its report cannot be read ({error.strerror or error})"
    if len(data) > REPORT_BYTES_MAX:
        return None, f"its report is longer than {REPORT_BYTES_MAX:,} bytes"
    return read_report(data, guard_id)


def read_report(data: bytes, guard_id: str) -> tuple[GuardReport | None, str]:
    """What a guard has written, which may be anything; or why it cannot be understood."""
    try:
        report = msgspec.json.decode(data, type=GuardReport)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return None, f"its report cannot be understood ({error!r:.200})"
    if report.guard_id != guard_id:
        return None, "its report names another guard"
    return report, ""


def _remove(folder: Path, guard_id: str) -> None:
    # The lock goes last: while it is there, somebody will come and clean up the rest. Who may not clean up, leaves it.
    for ending in (_REPORT, _REPORT + ".new", _LOCK):
        with contextlib.suppress(OSError):
            os.unlink(folder / (guard_id + ending))


def is_guard_id(text: str) -> bool:
    """Whether a guard may be called so: ASCII letters, digits, `_` and `-`, which are safe in a file's name."""
    letters = text.replace("_", "").replace("-", "")
    return letters.isascii() and letters.isalnum() and len(text) <= _ID_LENGTH_MAX


_entries: set[Presence] = set()


def _after_fork() -> None:
    for entry in list(_entries):
        entry.reset_after_fork()


os.register_at_fork(after_in_child=_after_fork)
