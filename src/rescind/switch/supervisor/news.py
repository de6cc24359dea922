"""What a supervisor has to tell, as values. The command line turns them into words."""

import msgspec

from rescind.model.order import Order
from rescind.switch.wire import Ended


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why a program is ended or not started: orders, a silence, or a person's signal. One of them, or none."""

    orders: tuple[Order, ...] = ()
    silence: str = ""
    signal: int = 0


class Started(msgspec.Struct, frozen=True):
    """The program runs."""

    pid: int


class Unheeded(msgspec.Struct, frozen=True):
    """Orders cover the program that it cannot obey, and it goes on."""

    orders: tuple[Order, ...]


class GoesOnInSilence(msgspec.Struct, frozen=True):
    """Nobody can be heard who could stop the program, and it goes on, as it was configured."""

    silence: str


class Asked(msgspec.Struct, frozen=True):
    """SIGTERM was sent; SIGKILL follows after the grace."""

    reason: Reason
    grace_s: float


class LeftBehind(msgspec.Struct, frozen=True):
    """The program has ended and these of its processes have not. They were sent SIGTERM."""

    pids: tuple[int, ...]
    grace_s: float


class Killed(msgspec.Struct, frozen=True):
    """SIGKILL was sent, for the grace is over or everything is suspended."""

    suspended: bool


class OutOfReach(msgspec.Struct, frozen=True):
    """Processes that live on although they were sent SIGKILL, or because they may not be sent it."""

    pids: tuple[int, ...]


class NotSuspended(msgspec.Struct, frozen=True):
    """Somebody pressed Ctrl-Z, and the program was continued."""


class Finished(msgspec.Struct, frozen=True):
    """Nothing is left of the program."""

    ended: Ended
    reason: Reason


class StartsAgain(msgspec.Struct, frozen=True):
    """The program failed and is started again after so long."""

    delay_s: float
    failures: int


class Refused(msgspec.Struct, frozen=True):
    """The program is not started, or not started again."""

    reason: Reason
    again: bool


class Waits(msgspec.Struct, frozen=True):
    """The program is not started again before somebody can be heard."""

    silence: str


News = (
    Started
    | Unheeded
    | GoesOnInSilence
    | Asked
    | LeftBehind
    | Killed
    | OutOfReach
    | NotSuspended
    | Finished
    | StartsAgain
    | Refused
    | Waits
)
