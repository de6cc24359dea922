"""The keeper: stands between supervisor and program, and leaves nothing behind when the supervisor dies.

    python -I -S keeper.py CONTROL TERMINAL PROGRAM ARGUMENT…

It runs alone, by its path and with nothing but the standard library: it starts in 20 ms, and no variable or module
within the program's reach has a say in it. CONTROL is its end of a socket pair. It says, one line each:

    started PID | failed ERRNO | stopped SIGNAL | exit STATUS      (minus the signal's number, if one ended it)

and hears `r`: the program, which it has kept as a zombie so that its group's number belongs to nobody else, may be
reaped. When no process is left below it, it leaves. The end of the socket means that the supervisor is dead: then it
kills everything below it.

The program is forked here, and not in the supervisor, since this process has one thread. So code may run between fork
and exec, and the parent-death signal, which belongs to the thread that forked, is that of the process.
"""

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from typing import NamedTuple

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

_PASS_S = 0.01
_PASSES_MAX = 6_000
"""A minute of killing. What is left then has its SIGKILL and waits for a device, or belongs to another user."""

NUISANCES = tuple(
    number
    for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "TSTP", "TTIN", "TTOU", "ALRM", "WINCH")
    if (number := getattr(signal, f"SIG{name}", None)) is not None
)
"""Signals that must not end or stop the keeper."""


class Kin(NamedTuple):
    """A process below this one, as the kernel describes it. `started` tells it from a later one with its number."""

    pid: int
    parent: int
    group: int
    state: str
    started: str

    @property
    def lives(self) -> bool:
        """Whether it may act, or could if it were continued; a zombie cannot."""
        return self.state not in ("Z", "X", "x")

    @property
    def is_suspended(self) -> bool:
        """Whether a signal has stopped it. A debugger's stop is another one."""
        return self.state == "T"


def become_subreaper() -> None:
    """From here on, orphans below this process become its children. Linux; elsewhere nothing happens."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def descendants(root: int) -> list[Kin]:
    """All processes below `root`, living and dead, in no order; empty where there is no /proc.

    Who forks faster than this reads may be missing once: callers look again until the kernel says ECHILD.
    """
    children: dict[int, list[Kin]] = {}
    for kin in _processes():
        children.setdefault(kin.parent, []).append(kin)
    found: list[Kin] = []
    parents = [root]
    while parents:
        below = children.pop(parents.pop(), [])
        found += below
        parents += [kin.pid for kin in below]
    return found


def send(kin: Kin, number: int) -> None:
    """Send a signal to this very process, or to nobody. Another user's process does not get it.

    Between a look and a signal a number may have passed on to another process; a pidfd holds on to one.
    """
    try:
        descriptor = os.pidfd_open(kin.pid)
    except OSError:  # it has ended, or there are no descriptors left: the next pass tries again
        return
    try:
        now = _process(kin.pid)
        if now is not None and now.started == kin.started:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def kill_group(group: int, number: int) -> None:
    """Signal a whole group, in one step. Only while its leader has not been reaped."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _processes() -> Iterator[Kin]:
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    for name in names:
        if name.isdigit():
            kin = _process(int(name))
            if kin is not None:
                yield kin


def _process(pid: int) -> Kin | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except OSError:
        return None
    # The name comes second and may hold anything, blanks and parentheses too.
    fields = line[line.rfind(b")") + 2 :].split()
    return Kin(pid, int(fields[1]), int(fields[2]), fields[0].decode(), fields[19].decode())


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


# --- the process ---


class _Keeper:
    def __init__(self, control: socket.socket, program: int) -> None:
        self.control, self.program = control, program
        self.has_exited = self.may_reap = self.was_reaped = False

    def look_after(self) -> None:
        """Until nothing is left below this process."""
        waking, wake = os.pipe()
        os.set_blocking(waking, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        while not self._reap():
            # A second is for a signal that came between the look and the wait; the descriptor has it anyway.
            ready, _, _ = select.select([self.control.fileno(), waking], [], [], 1.0)
            if waking in ready:
                os.read(waking, 4096)
            if self.control.fileno() in ready and not self._hear():
                self._kill_all()
                return

    def _hear(self) -> bool:
        try:
            heard = self.control.recv(64)
        except ConnectionError:
            return False
        self.may_reap = self.may_reap or b"r" in heard
        return bool(heard)

    def _kill_all(self) -> None:
        me = os.getpid()
        for _ in range(_PASSES_MAX):
            if not self.was_reaped:
                kill_group(self.program, signal.SIGKILL)
            for kin in descendants(me):
                if kin.lives:
                    send(kin, signal.SIGKILL)
            self.may_reap = True
            if self._reap():
                return
            select.select([], [], [], _PASS_S)

    def _reap(self) -> bool:
        """Collect who has ended. Returns whether nobody is left."""
        if not self.was_reaped:
            with contextlib.suppress(ChildProcessError):  # it ended between two looks
                self._look_at_program()
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return True
            if ended is None:
                return False
            if ended.si_pid == self.program and not self.may_reap:
                return False  # others that end meanwhile are collected after it
            os.waitpid(ended.si_pid, os.WNOHANG)
            self.was_reaped = self.was_reaped or ended.si_pid == self.program

    def _look_at_program(self) -> None:
        ended = os.waitid(os.P_PID, self.program, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            stopped = os.waitid(os.P_PID, self.program, os.WSTOPPED | os.WNOHANG)
            if stopped is not None:
                self.say(f"stopped {stopped.si_status}")
        elif not self.has_exited:
            self.has_exited = True
            status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
            self.say(f"exit {status}")

    def say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more; the next look at the socket shows it
            self.control.sendall(line.encode() + b"\n")


def _nothing(_number: int, _frame: object) -> None:
    """A handler and not SIG_IGN, which the program would inherit."""


def _become_program(words: list[str], keeper: int, *, terminal: bool, ours: list[int], failed: int) -> None:
    try:
        os.setpgid(0, 0)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:  # it died before the line above; nobody would end us any more
            os._exit(1)
        if terminal:
            _take_terminal()
        for number in (*ours, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(words[0], words)  # noqa: S606  # the command that our caller typed
    except OSError as error:
        os.write(failed, str(error.errno or errno.EINVAL).encode())
    finally:
        os._exit(127)


def _take_terminal() -> None:
    # Whoever takes the terminal from the background is stopped for it, unless it has closed its ears to that.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
    with contextlib.suppress(OSError):
        os.tcsetpgrp(0, os.getpgrp())
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _let_go_of_streams() -> None:
    # A reader of the program's output sees its end when the program closes it, and not only when we leave.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def main(arguments: list[str]) -> int:
    """Start the program, and stay until nothing of it is left. Returns the exit status."""
    control = socket.socket(fileno=int(arguments[0]))
    control.set_inheritable(False)
    ours = [number for number in NUISANCES if signal.getsignal(number) is not signal.SIG_IGN]
    for number in ours:
        signal.signal(number, _nothing)
    become_subreaper()
    # If the program has suspended us and the supervisor dies, the kernel wakes us up to do our part.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
    keeper, (succeeds, fails) = os.getpid(), os.pipe()
    program = os.fork()
    if program == 0:
        _become_program(arguments[2:], keeper, terminal=arguments[1] == "1", ours=ours, failed=fails)
    os.close(fails)
    problem = os.read(succeeds, 16)  # closed by a successful exec
    _let_go_of_streams()
    keeping = _Keeper(control, program)
    keeping.say(f"failed {problem.decode()}" if problem else f"started {program}")
    keeping.look_after()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
