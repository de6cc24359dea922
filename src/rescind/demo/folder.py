"""Where a demo happens: a temporary folder that is removed, or one that is kept for exploring."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rescind.config import CONFIG_NAME
from rescind.demo.desk import DATABASE, OUTBOX, STORE, SWITCH_DATA, SWITCH_URL
from rescind.demo.policy import policy_text
from rescind.errors import UsageError

MARKER = ".rescind-demo"
SWITCH_LOG, WORKERS_LOG = "switch.log", "workers.log"
MORNING, LOG, RESULT, APP = "morning.db", "agents.log", "result.json", "desk.py"

_MADE_BY_US = (
    *(DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", OUTBOX, STORE, MORNING, LOG, RESULT, APP, CONFIG_NAME),
    *(SWITCH_DATA, SWITCH_URL, SWITCH_LOG, WORKERS_LOG),
)

_MARKER_TEXT = "Made by `rescind demo --keep`. The next demo in this folder replaces what this one made.\n"

_CONFIG_TEXT = f"""\
# Commands that are called in this folder find the stop orders and the journal here.
store: {STORE}

"""

_SWITCH_TEXT = """
# This switch ran while the demo did: rescind switch --data {data} --port {port}
switch:
  urls: [{url}]
"""

_APP_TEXT = '''\
"""The billing desk of this folder. `rescind worker desk` and `rescind undo --app desk` import the guard from here.

The tools themselves are declared in `rescind.demo.desk`; read them there: they are what yours will look like.
"""

from pathlib import Path

from rescind.demo.desk import open_desk

desk = open_desk(Path(__file__).parent)
guard = desk.guard
'''


def name_switch(folder: Path, url: str) -> None:
    """Name the switch in the folder's `rescind.yaml`; there is none in it yet."""
    text = _SWITCH_TEXT.format(data=SWITCH_DATA, port=url.rpartition(":")[2], url=url)
    with (folder / CONFIG_NAME).open("a", encoding="utf-8") as config:
        config.write(text)


def forget_switch(folder: Path) -> None:
    """Leave what `name_switch` wrote as a comment, for whoever wants to start the switch again."""
    path = folder / CONFIG_NAME
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("\nswitch:\n  ", "\n# switch:\n#   "), encoding="utf-8")


@contextmanager
def demo_folder(keep: Path | None, *, shadow: bool = False) -> Generator[Path]:
    """A folder with nothing of an earlier demo in it, for one demo at a time.

    Args:
        keep: The folder; None for a temporary one that is removed.
        shadow: Whether its policy only says what it would do.

    Raises: UsageError, before anything is changed, if `keep` is not empty and holds no former demo, cannot be written,
        or is in use by another demo.
    """
    if keep is None:
        folder = Path(tempfile.mkdtemp(prefix="rescind-demo-"))
        try:
            _write_texts(folder, shadow=shadow)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    folder = keep.absolute()
    try:
        marker = _claim(folder, shadow=shadow)
    except OSError as error:
        raise UsageError(f"--keep {keep} cannot be used: {error.strerror}; name another folder") from error
    with marker:
        yield folder


def _claim(folder: Path, *, shadow: bool) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / MARKER
    if any(folder.iterdir()) and not _is_marker(marker):
        raise UsageError(
            f"--keep {folder} is not empty and holds no former demo, so it was left alone; "
            "name an empty folder or a new one"
        )
    held = marker.open("a", encoding="utf-8")
    try:
        _lock(held, folder)
        for name in _MADE_BY_US:
            _remove(folder / name)
        if not held.tell():
            held.write(_MARKER_TEXT)
            held.flush()
        _write_texts(folder, shadow=shadow)
    except BaseException:
        held.close()
        raise
    return held


def _write_texts(folder: Path, *, shadow: bool) -> None:
    (folder / APP).write_text(_APP_TEXT, encoding="utf-8")
    (folder / CONFIG_NAME).write_text(_CONFIG_TEXT + policy_text(shadow=shadow), encoding="utf-8")


def _is_marker(path: Path) -> bool:
    # An empty one is left by a demo that was killed at its very beginning.
    return path.is_file() and not path.is_symlink() and path.read_text(encoding="utf-8") in ("", _MARKER_TEXT)


def _lock(held: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"another demo is running in {folder}; wait for it, or name another folder") from error


def _remove(path: Path) -> None:
    # A link is removed, and what it points to is left alone: we did not make it.
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
