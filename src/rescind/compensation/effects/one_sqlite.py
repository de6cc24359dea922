"""Connections of apsw to files that no other SQLite in this process has open.

apsw brings a SQLite of its own, beside the one of Python's `sqlite3`, through which SQLAlchemy goes. The locks of a
file belong to the process and not to a connection: two copies of SQLite in one process do not lock each other out, and
when one closes the file, the locks of the other are gone
(https://www.sqlite.org/howtocorrupt.html#_multiple_copies_of_sqlite_linked_into_the_same_application). Both may write
at once then, and a commit that was acknowledged is lost, or the file is damaged. Other processes may use any copy.

OS1. *Alone or not at all.* A file that another copy has open in this process is not opened, and nothing is committed
    to it. What a copy does that opens the file and closes it in between, nobody sees.
OS2. *Whose a file descriptor is* stands on it: each that apsw has opened is marked, ours and the user's own, and the
    mark goes with the descriptor, whatever number that has. Where a system does not list them, locks belong to
    handles, and copies do lock each other out (Windows).
OS3. *That file.* Nothing is committed to a file that is at its path no more: nobody would see what was acknowledged.

Numbers would not do. SQLite keeps a descriptor that is closed while its file has locks, closes it when they are gone,
or gives it to the next connection; and then the number is free for another copy. The mark is O_NONBLOCK, which means
nothing for a file, and which no copy of SQLite sets.
"""

import ctypes
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import apsw

from rescind.errors import Transient

_LISTED_AT = "/dev/fd"
_LOOKS, _LOOK_EVERY_S = 100, 0.01  # whoever opens the file for a short look is let finish
_VFS = {"unix", "unix-excl"}  # of these it is known where the descriptor stands: any other puts a layer before it
_DESCRIPTOR_AT = 3 * ctypes.sizeof(ctypes.c_void_p)  # in SQLite's unixFile: methods, VFS, inode, descriptor

_lock = threading.Lock()


def connect(path: Path) -> "apsw.Connection":
    """A connection to this file, which must be there; `close` it.

    Raises: Transient, if it is open otherwise (OS1), or if nobody can tell.
    """
    try:
        return _connect(path)
    except OSError as error:
        raise Transient(f"nothing was changed: {_cannot_tell(path, error)}") from error


def _connect(path: Path) -> "apsw.Connection":
    for _ in range(_LOOKS):
        with _lock:
            if not _is_open_otherwise(path):
                connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
                _mark(connection)
                if _descriptor(connection, "main") is None:  # an apsw with another VFS
                    for number in _unmarked(path):  # there was none, so it is this one's
                        os.set_blocking(number, False)
                return connection
        time.sleep(_LOOK_EVERY_S)
    raise Transient(f"nothing was changed: {in_use(path)}")


def close(connection: "apsw.Connection") -> None:
    """Close it; what it had begun is rolled back."""
    with _lock:
        connection.close(True)


def why_not_to_commit(connection: "apsw.Connection", path: Path) -> str:
    """Why a commit of this connection might be lost (OS1, OS3), in words; empty if nothing speaks against it."""
    try:
        number = _descriptor(connection, "main")
        if number is not None and not os.path.samestat(os.fstat(number), path.stat()):
            return f"there is another file at {path} now than the one that was opened"
        with _lock:
            return in_use(path) if _is_open_otherwise(path) else ""
    except FileNotFoundError:
        return f"{path} was removed or moved while it was open"
    except OSError as error:
        return _cannot_tell(path, error)


def _cannot_tell(path: Path, error: OSError) -> str:
    return f"whether another SQLite in this process has {path} open cannot be seen: {error}"


def in_use(path: Path) -> str:
    """What to say then, and how to mend it."""
    return (
        f"{path} is open in this process through another SQLite than apsw's, such as that of Python's sqlite3 or "
        "SQLAlchemy; the two do not lock each other out, so a commit could be lost. Close it there first (an Engine "
        "with poolclass=NullPool keeps nothing open), use apsw for it in this process, or guard its rows with SqlRows"
    )


def _is_open_otherwise(path: Path) -> bool:
    if not _unmarked(path):
        return False
    for connection in apsw.connections():  # it may have been there before this module was
        _mark(connection)
    return bool(_unmarked(path))


def _mark(connection: "apsw.Connection") -> None:
    """Mark the descriptors of this connection, where they are known."""
    with suppress(apsw.Error, OSError):  # it is closed by now, or another thread is at it, or its file is gone
        for name in connection.db_names():
            number = _descriptor(connection, name)
            if number is not None and os.path.samestat(os.fstat(number), Path(connection.db_filename(name)).stat()):
                os.set_blocking(number, False)


def _descriptor(connection: "apsw.Connection", name: str) -> int | None:
    """The descriptor of one of its databases; None if it is in no file, or nobody knows."""
    if not connection.db_filename(name) or connection.vfsname(name) not in _VFS:
        return None
    file = ctypes.c_void_p()
    known = connection.file_control(name, apsw.SQLITE_FCNTL_FILE_POINTER, ctypes.addressof(file))
    if not known or not file.value:
        return None
    return ctypes.c_int.from_address(file.value + _DESCRIPTOR_AT).value


def _unmarked(path: Path) -> list[int]:
    """This process's descriptors of the file that apsw has not opened."""
    wanted = path.stat()
    try:
        names = os.listdir(_LISTED_AT)
    except FileNotFoundError:
        return []
    found: list[int] = []
    for name in names:  # there may be thousands of them
        try:
            status = os.fstat(int(name))
        except OSError:  # the one of the list itself, or one that was closed since
            continue
        if status.st_ino == wanted.st_ino and os.path.samestat(status, wanted) and _is_unmarked(int(name)):
            found.append(int(name))
    return found


def _is_unmarked(number: int) -> bool:
    try:
        return os.get_blocking(number)
    except OSError:  # it was closed since
        return False


apsw.connection_hooks.append(_mark)  # now, for a descriptor may be closed before anybody looks, and stay all the same
