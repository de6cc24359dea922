"""A program under its keeper, as the supervisor handles it: start, signal, look, collect. Main thread only.

Nothing here waits: sockets are non-blocking, and whoever waits does so in `loop`.
"""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

import msgspec

from rescind.errors import UsageError
from rescind.switch.supervisor import keeper
from rescind.switch.supervisor.keeper import Kin, descendants, kill_group, send

_ALONE = ("-I", "-S")
"""Python's options for the keeper: no site, no variables, no module from the program's folder."""


class Streams(msgspec.Struct, frozen=True):
    """What a program is started with, beside its words.

    Attributes:
        stdout: The descriptor that becomes its standard output.
        mask: The signals that it begins with blocked.
        takes_terminal: Whether its group becomes the terminal's foreground.
    """

    stdout: int = 1
    mask: tuple[int, ...] = ()
    takes_terminal: bool = False


class Program:
    """One start of a program, until nothing of it is left."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], streams: Streams) -> None:
        """Start the keeper, which starts the program; `news` says how that went.

        Raises: OSError, if there is no keeper to be had.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.set_inheritable(True)
            words = (str(theirs.fileno()), "1" if streams.takes_terminal else "0", *command)
            # In a group of its own, so that neither Ctrl-C nor a kill of our group reaches it. By posix_spawn, which
            # may be called beside other threads and keeps all descriptors that the program is to inherit.
            self.keeper = os.posix_spawn(
                sys.executable,
                [sys.executable, *_ALONE, keeper.__file__, *words],
                environment,
                file_actions=[] if streams.stdout == 1 else [(os.POSIX_SPAWN_DUP2, streams.stdout, 1)],
                setpgroup=0,
                setsigmask=streams.mask,
                setsigdef=[signal.SIGCHLD],
            )
        ours.setblocking(False)
        self.control: socket.socket | None = ours
        self.pid = 0
        self.status: int | None = None
        self.failed = 0
        self.stopped_by = 0
        self.nothing_left = False
        self._heard = b""
        self._name = command[0]
        self._released = False

    @property
    def leader_left(self) -> bool:
        """Whether the program itself has ended, or its keeper, with which it ends."""
        return self.status is not None or self.control is None

    # --- looking ---

    def look(self) -> None:
        """Take up what the keeper has said and what has ended."""
        self._hear()
        self._collect()

    def living(self) -> list[Kin]:
        """The processes of it that live, without the keeper."""
        return [kin for kin in descendants(os.getpid()) if kin.lives and kin.pid != self.keeper]

    def refuse_if_failed(self) -> None:
        """Raises: UsageError, if the program could not be executed."""
        if self.failed:
            raise UsageError(
                f"cannot start {self._name!r}: {os.strerror(self.failed)}; nothing was started. "
                "Write the command after `--` as you would type it"
            )

    def _hear(self) -> None:
        while self.control is not None:
            try:
                heard = self.control.recv(4096)
            except BlockingIOError:
                break
            except OSError:
                heard = b""
            if not heard:
                self.close()
            self._heard += heard
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            self._take(*line.decode().split())

    def _take(self, word: str, number: str) -> None:
        if word == "started":
            self.pid = int(number)
        elif word == "failed":
            self.failed = int(number)
        elif word == "stopped":
            self.stopped_by = int(number)
        elif word == "exit":
            self.status = int(number)

    def _collect(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                self.nothing_left = True
                return
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                self._wake_keeper(pid)
            elif pid == self.keeper:
                self.keeper = 0  # its number may pass on to a process that is none of our business, or one that is
            elif pid == self.pid and self.status is None:  # its keeper was killed, and it became our child
                self.status = os.waitstatus_to_exitcode(status)

    def _wake_keeper(self, pid: int) -> None:
        # Suspended, it would neither say that the program has ended nor collect what is left of it.
        if pid == self.keeper:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    # --- signals ---

    def pass_on(self, number: int) -> None:
        """Give a signal to the program's group."""
        if self._has_group():
            kill_group(self.pid, number)

    def ask(self) -> None:
        """SIGTERM, once to each process of it."""
        has_group = self._has_group()
        apart = [kin for kin in self.living() if not has_group or kin.group != self.pid]
        if has_group:
            kill_group(self.pid, signal.SIGTERM)
        for kin in apart:
            send(kin, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to every process of it."""
        self.pass_on(signal.SIGKILL)
        for kin in self.living():
            send(kin, signal.SIGKILL)

    def kill_keeper(self) -> None:
        """For a keeper that does not do its part; what it kept becomes ours."""
        if self.keeper:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.keeper, signal.SIGKILL)

    def release(self) -> None:
        """The program has ended and its group will not be signalled any more: its number may pass on."""
        if not self._released and self.control is not None:
            with contextlib.suppress(OSError):
                self.control.send(b"r")
        self._released = True

    def close(self) -> None:
        """Close the socket; if the keeper lives, it kills whatever is left."""
        if self.control is not None:
            self.control.close()
        self.control = None

    def _has_group(self) -> bool:
        # While its zombie is kept, or it lives, the number of its group belongs to nobody else.
        return self.pid > 0 and not self._released and self.control is not None
