"""The two workers: processes of `rescind worker desk`, which hold the tools and carry out what is left to them."""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from rescind.demo.folder import APP
from rescind.demo.service import see_off
from rescind.errors import RescindError

COUNT = 2

COMMAND = f"rescind worker {Path(APP).stem}"

_RUN = "import sys; from rescind.cli import main; sys.exit(main(sys.argv[1:]))"


class NoWorker(RescindError):
    """A worker did not start, or ended by itself."""


class Workers:
    """The workers of one demo. Started at once, and up when `wait` has returned."""

    def __init__(self, folder: Path, log: IO[str]) -> None:
        self._log = log
        self._processes = {each.pid: each for each in (_start(folder, log) for _ in range(COUNT))}

    @property
    def pids(self) -> list[int]:
        """Their process ids, in the order in which they were started."""
        return [*self._processes]

    def wait(self) -> None:
        """Wait until all of them take jobs. Raises: NoWorker, with what it said."""
        for pid, process in self._processes.items():
            assert process.stdout is not None
            try:
                if json.loads(process.stdout.readline())["worker"]["pid"] == pid:
                    continue
            except (ValueError, KeyError):
                pass
            raise NoWorker(f"a worker of the demo did not start: {self._last_words()}")

    def check(self, *, killed: int | None) -> None:
        """Raises: NoWorker, if one has ended that nobody has killed."""
        for pid, process in self._processes.items():
            if pid != killed and process.poll() is not None:
                raise NoWorker(f"worker {pid} ended by itself with status {process.returncode}: {self._last_words()}")

    def kill(self, pid: int) -> None:
        """`kill -9`, and wait until there is no such process any more."""
        self._processes[pid].kill()
        self._processes[pid].wait()

    def dismiss(self) -> None:
        """Ask all to leave, and see that they have."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            see_off(process)

    def _last_words(self) -> str:
        lines = Path(self._log.name).read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line for line in lines if line.strip()]
        return said[-1] if said else "it said nothing"


def are_possible() -> bool:
    """Whether the extra `workers` is installed."""
    return find_spec("dbos") is not None


@contextmanager
def workers_of(folder: Path, log_path: Path) -> Generator[Workers]:
    """Workers of the desk in this folder, of whom nobody is left when the block is."""
    with log_path.open("a", encoding="utf-8") as log:
        workers = Workers(folder, log)
        try:
            yield workers
        finally:
            workers.dismiss()


def _start(folder: Path, log: IO[str]) -> "subprocess.Popen[str]":
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RESCIND_")}
    return subprocess.Popen(  # noqa: S603  # our own command, in our own interpreter
        [sys.executable, "-P", "-c", _RUN, "worker", Path(APP).stem, "--json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=kept | {"PYTHONDONTWRITEBYTECODE": "1"},  # the folder is for people to look around in
        start_new_session=True,  # Ctrl-C is for the demo, which then dismisses its workers
    )
