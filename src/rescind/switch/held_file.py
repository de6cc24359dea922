"""A file that is locked for as long as its process lives: the kernel takes the lock away, however the process ends."""

import fcntl
import os
from pathlib import Path


def hold_file(path: Path) -> int:
    """Make this file, or replace it, and hold an flock on it. Returns: its descriptor, to be closed by the caller.

    Raises: OSError; nothing is held then.
    """
    # Locked before it has its name: a file that could be seen unlocked would be taken for that of a dead process.
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.replace(temporary, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
