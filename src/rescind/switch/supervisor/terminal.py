"""Who has the terminal. A program in a group of its own is in the background, where it may not read from it.

So the supervisor does what a shell does: it makes the program's group the terminal's foreground, and takes the terminal
back at the end. Ctrl-C then goes to the program and to nobody else. Ctrl-Z would suspend it, and nobody could wake it
up again: the supervisor does not suspend itself, since it would hear no order then; it continues the program.

In a pipeline the terminal may belong to a neighbour (`… | less`). It is handed over there when the program asks for it,
which the kernel shows by stopping it (SIGTTIN, SIGTTOU).
"""

import contextlib
import os
import signal
import termios
from typing import Any

ASKING_FOR_IT = frozenset((signal.SIGTTIN, signal.SIGTTOU))


class Terminal:
    """Standard input, if it is our terminal and we are in its foreground. Otherwise there is nothing to do."""

    def __init__(self) -> None:
        self._modes: list[Any] | None = None
        self.is_handed_over = False
        with contextlib.suppress(OSError, termios.error):
            if self._is_ours():
                self._modes = termios.tcgetattr(0)

    @property
    def goes_to_program(self) -> bool:
        """Whether a program gets it from the start: there is no neighbour who might need it."""
        return self._is_ours() and os.isatty(1)

    def hand_over(self, group: int) -> bool:
        """Make the group the foreground. Returns whether it is."""
        if not self._is_ours():
            return False
        self._give(group)
        self.is_handed_over = True
        return True

    def take_back(self) -> None:
        """Be the foreground again, with the modes that the terminal had: a killed program has put nothing in order."""
        if not self.is_handed_over:
            return
        self.is_handed_over = False
        self._give(os.getpgrp())
        if self._modes is not None:
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(0, termios.TCSANOW, self._modes)  # NOW: waiting for its output could be for ever

    def _is_ours(self) -> bool:
        try:
            return os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
        except OSError:
            return False

    def _give(self, group: int) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
        with contextlib.suppress(OSError):
            os.tcsetpgrp(0, group)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
