"""Whether a program that has ended is started again, and after how long. Pure."""

import signal

from rescind.switch.wire import Ended

FIRST_DELAY_S, DELAY_S_MAX = 1.0, 60.0
"""Doubled from one failure to the next."""

STABLE_S = 60.0
"""Who ran so long has not failed at its start: counting begins anew."""

FAILURES_MAX = 10
"""In a row. After these, some eight minutes, the next start will not help either, and whoever watches should know."""

_WISHED_FOR = frozenset(
    status
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for status in (-number, 128 + number)  # a shell says it in the second way
)
"""How a program ends that a person has ended."""


def is_failure(ended: Ended) -> bool:
    """Whether the program ended by itself, and not well."""
    return ended.how == "exited" and ended.status != 0 and ended.status not in _WISHED_FOR


def delay_s(failures: int) -> float | None:
    """How long to wait after so many failures in a row, at least 1; None to give up."""
    if failures >= FAILURES_MAX:
        return None
    return min(DELAY_S_MAX, FIRST_DELAY_S * 2.0 ** (failures - 1))


def exit_status(status: int) -> int:
    """What a shell would say: the program's own status, or 128 and the number of the signal that ended it."""
    return status if status >= 0 else 128 - status
