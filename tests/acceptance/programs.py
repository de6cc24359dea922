"""The processes that a test starts, which end with it."""

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

from builders import environment

RESCIND = (sys.executable, "-c", "import sys; from rescind.cli import main; sys.exit(main())")


class Programs:
    """Processes with nothing to read, and all that they say kept."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def start(self, folder: Path, *argv: str, **variables: str) -> "subprocess.Popen[str]":
        """A process in this folder, not waited for."""
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env=environment(PYTHONDONTWRITEBYTECODE="1", NO_COLOR="1", **variables),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._started.append(process)
        return process

    def rescind(self, folder: Path, *argv: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """One command, to its end."""
        process = self.start(folder, *RESCIND, *argv, **variables)
        out, err = process.communicate(timeout=60.0)
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def end_all(self) -> None:
        """Kill what is left."""
        for process in self._started:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                process.kill()
            process.communicate()
