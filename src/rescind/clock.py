"""Time and identity, as ports: the only module that asks the machine what time it is or for a random number."""

import os
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """What time it is. Simulations replace it."""

    def now_us(self) -> int:
        """Wall-clock time in microseconds since 1970-01-01 UTC. May jump."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since the machine's start; never goes back; one scale for all processes of the machine."""
        ...

    def boot_s(self) -> float:
        """As `monotonic_s`, and it also counts the time that the machine is suspended, where the system can tell.

        For promises that end while nobody looks, leases and the deadlines of runs: the gate reads this one clock.
        """
        ...

    def sleep(self, duration_s: float) -> None:
        """Block the calling thread. A manual clock moves forward instead."""
        ...


class IdSource(Protocol):
    """Where new identifiers come from. Simulations replace it."""

    def new_id(self, prefix: str) -> str:
        """A new identifier such as `run_01jdc3v6m2f0q8h7`: sortable by time, printable, unique."""
        ...

    def new_trace_id(self) -> str:
        """A new W3C trace id: 32 lower-case hexadecimal digits."""
        ...


_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS has none, and its monotonic clock stands still
"""Which clock counts suspended time too. What a hypervisor does to a whole machine it need not tell any clock."""


class SystemClock:
    """The clock of this machine."""

    def now_us(self) -> int:
        """See `Clock`."""
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def boot_s(self) -> float:
        """See `Clock`."""
        return time.clock_gettime(_BOOT)

    def sleep(self, duration_s: float) -> None:
        """See `Clock`."""
        time.sleep(duration_s)


_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no letter that is mistaken for a digit


class SystemIds:
    """Ids of 45 time bits and 50 random bits: sortable to the millisecond, unguessable enough never to collide."""

    def new_id(self, prefix: str) -> str:
        """See `IdSource`."""
        number = (time.time_ns() // 1_000_000 << 50) | (int.from_bytes(os.urandom(7), "big") >> 6)
        return f"{prefix}_{_base32(number, digits=19)}"

    def new_trace_id(self) -> str:
        """See `IdSource`."""
        return os.urandom(16).hex()


def from_us(moment_us: int) -> datetime:
    """The aware UTC datetime of a number of microseconds since 1970."""
    return EPOCH + timedelta(0, 0, moment_us)  # by place: by name it takes half as long again, a million times over


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 of an aware datetime.

    Raises: ValueError for a naive datetime, which would be a lie waiting for winter time.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; write it with one, for example {moment.isoformat()}Z")
    return (moment - EPOCH) // timedelta(microseconds=1)


def _base32(number: int, *, digits: int) -> str:
    letters: list[str] = []
    for _ in range(digits):
        letters.append(_ALPHABET[number & 31])
        number >>= 5
    return "".join(reversed(letters))
