"""The register of workers: who lives, what each can do, and how it is woken.

A worker has three files in `workers/` of its store:

- `ID.lock`, which it holds an flock on. The kernel takes it back from a process that dies, so a death is seen at once.
- `ID.json`, its `WorkerInfo`, whose time it moves once in a second. A worker that holds its lock and has not moved it
  for some seconds is stuck: its jobs go to others, and if it wakes again nothing is done twice.
- `ID.bell`, a FIFO. A byte in it says that there may be something to do; it is a hint, and never the truth.

Everybody who may write in the folder may write anything into it. So sizes are bounded, ids are checked, and nothing
read from here is executed; whom to trust with the store's folder is decided by who may write in it.
"""

import contextlib
import fcntl
import os
import select
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from rescind.errors import EngineUnavailable, UsageError
from rescind.recovery.toolset import ToolInfo, toolset_digest
from rescind.switch.held_file import hold_file

FOLDER_NAME = "workers"

KNOWS = ("force", "redo")
"""What a plan may ask for that not every rescind's workers know of: those of the first one could only undo."""

BEAT_S, DEAD_AFTER_S = 1.0, 5.0
"""How often a worker says that it lives, and after how much silence its jobs go to others."""

_INFO_BYTES_MAX = 4 * 2**20  # Ten thousand tools take about one.
_ID_MAX = 128
_LOCK, _INFO, _BELL = ".lock", ".json", ".bell"
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_decoder: "msgspec.json.Decoder[WorkerInfo]"


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A worker, as it says itself.

    Attributes:
        module: Where its tools are declared: `MODULE:GUARD`.
        version: The version of the distribution that the module belongs to; empty if nobody knows.
        since_us: Wall-clock microseconds since 1970 at its start.
        tools: What it can undo, by name.
        leaving: Whether it takes nothing new.
        knows: See `KNOWS`; empty for a worker of an older rescind.
    """

    worker_id: str
    host: str
    pid: int
    module: str
    version: str = ""
    since_us: int
    tools: tuple[ToolInfo, ...] = ()
    leaving: bool = False
    knows: tuple[str, ...] = ()

    @property
    def queue(self) -> str:
        """The queue of the jobs that this worker, and all that can do the same, carry out."""
        # Two rescinds have two queues: what one of them may be left, the other one must not take.
        return "-".join(("tools", toolset_digest(self.tools), *self.knows))


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as it is seen from outside. `info` is None if what it said of itself cannot be read.

    Attributes:
        living: Whether its process is there.
        silent_s: Seconds since its last beat.
    """

    worker_id: str
    living: bool
    silent_s: float
    info: WorkerInfo | None

    @property
    def works(self) -> bool:
        """Whether jobs may be left to it."""
        return self.living and self.silent_s < DEAD_AFTER_S and self.info is not None and not self.info.leaving

    @property
    def state(self) -> str:
        """For people: `works`, `leaving`, `stuck` or `dead`."""
        if not self.living:
            return "dead"
        if self.silent_s >= DEAD_AFTER_S:
            return "stuck"
        return "leaving" if self.info is not None and self.info.leaving else "works"


_decoder = msgspec.json.Decoder(WorkerInfo)


class WorkerEntry(Protocol):
    """One worker's place in the register, for as long as its process lives."""

    def say(self, info: WorkerInfo) -> None:
        """Replace what is said of it."""
        ...

    def beat(self, *, now_us: int) -> None:
        """Say that it lives. Repairs what somebody has deleted."""
        ...

    def close(self) -> None:
        """Disappear."""
        ...


class Workers(Protocol):
    """The register of a store's workers. All methods may be called in any thread, and raise `EngineUnavailable`."""

    def enter(self, info: WorkerInfo, on_ring: Callable[[], None]) -> WorkerEntry:
        """Appear as living, and be called in a thread of the entry's at every ring."""
        ...

    def look(self, *, now_us: int) -> list[Seen]:
        """All workers that are not forgotten, the dead ones too, by id. `now_us` is what `WorkerEntry.beat` is told."""
        ...

    def remove(self, worker_id: str) -> None:
        """Forget a dead worker. Nothing, if it lives."""
        ...

    def ring(self) -> None:
        """Wake every worker. One that does not hear looks by itself within some seconds."""
        ...

    def close(self) -> None:
        """Let go of what is open. It is opened again when something is asked."""
        ...


class WorkersFolder:
    """The register in the folder of a store: see `Workers`."""

    def __init__(self, store: Path) -> None:
        self.folder = store.absolute() / FOLDER_NAME

    def enter(self, info: WorkerInfo, on_ring: Callable[[], None]) -> "Entry":
        """Appear as living, and be called in a thread of the entry's at every ring.

        Raises: EngineUnavailable, if the folder cannot be written.
        """
        if not _is_id(info.worker_id):
            raise UsageError(f"worker id {info.worker_id!r} must be of ASCII letters, digits, `_` and `-`")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return Entry(self.folder, info, on_ring)
        except OSError as error:
            raise EngineUnavailable(
                f"this worker cannot be registered in {self.folder} ({error.strerror or error}); make the folder "
                "writable for it"
            ) from error

    def look(self, *, now_us: int) -> list[Seen]:
        """All workers that have files here, the dead ones too, by id. `now_us` is what `Entry.beat` is told."""
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise EngineUnavailable(
                f"the workers in {self.folder} cannot be seen ({error.strerror or error})"
            ) from error
        ids = (name.removesuffix(_LOCK) for name in names if name.endswith(_LOCK))
        return [self._look_at(worker_id, now_us) for worker_id in ids if _is_id(worker_id)]

    def remove(self, worker_id: str) -> None:
        """Forget a dead worker. Nothing, if it lives."""
        if not _is_held(self.folder / (worker_id + _LOCK)):
            _remove(self.folder, worker_id)

    def ring(self) -> None:
        """Wake every worker. One that does not hear looks by itself within some seconds."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self.folder):
                if name.endswith(_BELL):
                    _ring(self.folder / name)

    def close(self) -> None:
        """See `Workers`: nothing is open."""

    def _look_at(self, worker_id: str, now_us: int) -> Seen:
        info, silent_s = None, float("inf")
        with contextlib.suppress(OSError, msgspec.DecodeError):
            descriptor = os.open(self.folder / (worker_id + _INFO), os.O_RDONLY | _FLAGS)
            with open(descriptor, "rb") as file:
                info = _decoder.decode(file.read(_INFO_BYTES_MAX))
                silent_s = max(0.0, now_us / 1e6 - os.fstat(descriptor).st_mtime)
        if info is not None and info.worker_id != worker_id:
            info = None
        living = _is_held(self.folder / (worker_id + _LOCK))
        return Seen(worker_id=worker_id, living=living, silent_s=silent_s, info=info)


class Entry:
    """One worker's place in the register, for as long as its process lives."""

    def __init__(self, folder: Path, info: WorkerInfo, on_ring: Callable[[], None]) -> None:
        self._folder, self._info, self._on_ring = folder, info, on_ring
        self._stopped = False
        self._lock_path = folder / (info.worker_id + _LOCK)
        self._bell = self._make_bell()
        self._lock = -1
        self.say(info)
        self._lock = hold_file(self._lock_path)
        self._listener = threading.Thread(target=self._listen, name="rescind-bell", daemon=True)
        self._listener.start()

    def say(self, info: WorkerInfo) -> None:
        """Replace what is said of it."""
        path = self._folder / (info.worker_id + _INFO)
        temporary = path.with_name(path.name + ".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(info))
        os.replace(temporary, path)
        self._info = info

    def beat(self, *, now_us: int) -> None:
        """Say that it lives. Repairs what somebody has deleted. Raises: OSError."""
        try:
            os.utime(self._folder / (self._info.worker_id + _INFO), ns=(now_us * 1000, now_us * 1000))
        except FileNotFoundError:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.say(self._info)
        if not os.path.exists(self._lock_path):
            before, self._lock = (
                self._lock,
                hold_file(self._lock_path),
            )  # in this order: it may fail, and is tried again then
            os.close(before)

    def close(self) -> None:
        """Disappear."""
        self._stopped = True
        _ring(self._folder / (self._info.worker_id + _BELL))
        self._listener.join(timeout=5.0)
        _remove(self._folder, self._info.worker_id)
        os.close(self._lock)

    def _make_bell(self) -> int:
        path = self._folder / (self._info.worker_id + _BELL)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        os.mkfifo(path, 0o600)
        return os.open(path, os.O_RDWR | _FLAGS)  # for writing too, or it would be at its end whenever nobody rings

    def _listen(self) -> None:
        with contextlib.closing(open(self._bell, "rb", buffering=0)) as bell:
            while not self._stopped:
                select.select([bell], [], [])
                bell.read(65_536)  # many rings are one
                if not self._stopped:
                    self._on_ring()


def working(seen: Iterable[Seen]) -> list[WorkerInfo]:
    """Those that jobs may be left to."""
    return [each.info for each in seen if each.works and each.info is not None]


def _ring(path: Path) -> None:
    with contextlib.suppress(OSError):  # nobody is there, or so many have rung that it is full
        descriptor = os.open(path, os.O_WRONLY | _FLAGS)
        try:
            os.write(descriptor, b"!")
        finally:
            os.close(descriptor)


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | _FLAGS)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _remove(folder: Path, worker_id: str) -> None:
    for suffix in (_BELL, _INFO, _LOCK):
        with contextlib.suppress(OSError):
            (folder / (worker_id + suffix)).unlink()


def _is_id(text: str) -> bool:
    return 0 < len(text) <= _ID_MAX and text.isascii() and text.replace("_", "").replace("-", "").isalnum()
