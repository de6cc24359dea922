"""The way back of a breaker: rounds of probes. Pure; both stores of orders keep the rounds of their trips by it.

A round begins with the cooldown. When that is over, it admits so many probes and no more. If all of them succeed, the
breaker has recovered. If one fails, the round has failed at that moment, and there the next one begins, with a cooldown
of its own. A probe of which nobody hears for `timeout_us` has failed, whatever its prober says later: its process has
died, or what it waits for is as good as dead.

Times are microseconds of a wall clock, for no other clock survives a restart. If that clock jumps forward, a cooldown
ends early by at most the jump, and what follows are probes and not traffic; if it jumps back, the breaker stays open
longer, until the clock has caught up or a person resets it.
"""

from typing import NamedTuple

US = 1_000_000

PROBE_TIMEOUT_S = 120.0
"""After how long a probe of which nobody has heard counts as failed, unless told otherwise. Longer than most calls."""

ASK_AGAIN_S = 1.0
"""When to ask again while all probes of a round are under way. Most calls take less."""


class ProbeRule(NamedTuple):
    """How a breaker comes back. See `RatesConfig`."""

    cooldown_us: int
    probes: int
    timeout_us: int

    @classmethod
    def of(cls, *, cooldown_s: float, probes: int, timeout_s: float = PROBE_TIMEOUT_S) -> "ProbeRule":
        """The rule, in seconds."""
        return cls(round(cooldown_s * US), probes, round(timeout_s * US))


class Probe(NamedTuple):
    """One probe of a round.

    `ended_at_us` is None while it is under way. Of one that has ended, `succeeded` is None if the call was not made
    after all: it counts for nothing, and another one may take its place.
    """

    number: int
    by: str
    claimed_at_us: int
    ended_at_us: int | None = None
    succeeded: bool | None = None

    @property
    def is_void(self) -> bool:
        """Whether its call was not made."""
        return self.ended_at_us is not None and self.succeeded is None

    def failed_at_us(self, now_us: int, rule: ProbeRule) -> int | None:
        """When it failed, as of now; None if it has not."""
        too_late_us = self.claimed_at_us + rule.timeout_us
        if (now_us if self.ended_at_us is None else self.ended_at_us) >= too_late_us:
            return too_late_us
        return self.ended_at_us if self.succeeded is False else None


class Round(NamedTuple):
    """A round: where its cooldown began, and the probes that were claimed in it, by number."""

    number: int
    opened_at_us: int
    probes: tuple[Probe, ...] = ()


class Ready(NamedTuple):
    """A probe may be claimed: number `number` of `round`."""

    round: Round
    number: int


class Wait(NamedTuple):
    """No probe now.

    `retry_after_s` says when there may be one; None if there never will be: the order is not one of this store's.
    """

    retry_after_s: float | None


class Recovered(NamedTuple):
    """All probes of the round have succeeded: the breaker is to be closed."""

    round: Round


def look(last: Round, now_us: int, rule: ProbeRule) -> Ready | Wait | Recovered:
    """What may happen now.

    Args:
        last: The round with the highest number that has a probe; if none has, the first one.
        now_us: The time, on the clock of `last`.
        rule: How this breaker comes back.
    """
    current = following(last, now_us, rule)
    if not current.probes:
        left_us = current.opened_at_us + rule.cooldown_us - now_us
        if left_us > 0:
            # A clock that has jumped back makes it more than a cooldown, of which nobody knows how much is true.
            return Wait(min(left_us, rule.cooldown_us) / US)
    if sum(probe.succeeded is True for probe in current.probes) >= rule.probes:
        return Recovered(current)
    if sum(not probe.is_void for probe in current.probes) >= rule.probes:
        return Wait(ASK_AGAIN_S)
    return Ready(current, len(current.probes) + 1)


def following(last: Round, now_us: int, rule: ProbeRule) -> Round:
    """This round, or the next one if this one has failed."""
    failures = [at for probe in last.probes if (at := probe.failed_at_us(now_us, rule)) is not None]
    return Round(last.number + 1, min(failures)) if failures else last


def with_claim(ready: Ready, by: str, now_us: int) -> Round:
    """The round with the next probe claimed."""
    return ready.round._replace(probes=(*ready.round.probes, Probe(ready.number, by, now_us)))


def with_end(last: Round, number: int, *, succeeded: bool | None, now_us: int) -> Round:
    """The round with the outcome of a probe; what was said first stays."""
    probes = tuple(
        probe._replace(ended_at_us=now_us, succeeded=succeeded)
        if probe.number == number and probe.ended_at_us is None
        else probe
        for probe in last.probes
    )
    return last._replace(probes=probes)
