"""Who applies a plan shows that it lives, for as long as it does: a killed undo can then be told from one under way.

AL1. *Around all of it.* It is shown before the plan's start is on record, and until after its end is. So whoever reads
     a start without an end, finds nobody, and reads once more that there is no end, has found what nobody applies.
AL2. *Taken back by the kernel*, or by the database with its connection: nobody has to say that he dies.
AL3. *No condition.* Where it cannot be shown, the plan is applied all the same, and its record says nothing of it.
AL4. *A hint, and no lock.* Nothing is decided by it; several may apply one plan, under the laws of an undo.

In a folder it is a file in `undos/` for each of those who apply a plan, on which that one holds an flock.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Collection, Generator
from pathlib import Path
from typing import Protocol

from rescind.errors import EngineUnavailable
from rescind.switch.held_file import hold_file

FOLDER_NAME = "undos"

_LOCK = ".lock"


class Appliers(Protocol):
    """Those who apply plans of one store."""

    def here(self, plan_run: str) -> contextlib.AbstractContextManager[bool]:
        """Be shown as applying this plan, for the length of the block. Gives whether that is so (AL3)."""
        ...

    def living(self, plan_runs: Collection[str]) -> frozenset[str]:
        """Those of these plans that somebody applies now. Raises: EngineUnavailable, if nobody can tell."""
        ...


class FolderAppliers:
    """Those of a store in a folder: see `Appliers`."""

    def __init__(self, store: Path) -> None:
        self.folder = store.absolute() / FOLDER_NAME

    @contextlib.contextmanager
    def here(self, plan_run: str) -> Generator[bool]:
        """See `Appliers`."""
        try:
            path, descriptor = self._appear(plan_run)
        except (OSError, EngineUnavailable):
            yield False
            return
        try:
            yield True
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(descriptor)

    def living(self, plan_runs: Collection[str]) -> frozenset[str]:
        """See `Appliers`."""
        return frozenset(path.name.partition("-")[0] for path in self._files() if _is_held(path)) & set(plan_runs)

    def _appear(self, plan_run: str) -> tuple[Path, int]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._files():
            if not _is_held(path):  # who held it was killed
                path.unlink(missing_ok=True)
        path = self.folder / f"{plan_run}-{secrets.token_hex(8)}{_LOCK}"
        return path, hold_file(path)

    def _files(self) -> list[Path]:
        try:
            return [self.folder / name for name in os.listdir(self.folder) if name.endswith(_LOCK)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise EngineUnavailable(
                f"who applies an undo cannot be seen in {self.folder} ({error.strerror or error})"
            ) from error


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise EngineUnavailable(f"who applies an undo cannot be seen at {path} ({error.strerror or error})") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that look take each other for nobody
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
