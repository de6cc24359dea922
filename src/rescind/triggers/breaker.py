"""The circuit breaker, pure: a table of states, and one breaker in memory.

                     tripped                cooled               relapsed
          closed ──────────────▶ open ──────────────▶ half_open ──────────▶ open
             ▲                                            │
             └──────────────────── recovered ─────────────┘

    forced_open    a person's: refuses until it is reset; nothing else ends it, and nobody takes it for tripped
    disabled       admits everything and counts nothing
    shadow         counts and reports, and refuses nothing: where a new rule starts

Laws, cited by the tests:

B1. Only closed and shadow breakers trip; a shadow one reports it and stays shadow.
B2. An open breaker admits nothing before its cooldown is over, and then at most `probes` calls in each round.
B3. All probes of a round have to succeed to close it; one that fails, or of which nobody hears in time, opens it anew.
B4. What a person has set (forced_open, disabled, shadow) stays until a person changes it, whatever calls do meanwhile.
B5. A call belongs to the state that admitted it. Its outcome counts for nothing once the state has changed, so that a
    slow call from before a trip neither closes a breaker nor trips it again.
B6. No lock is held during a call. Every verb of an operator returns at once.

This breaker decides within one process. Where a trip is an order in a store, for all processes of a machine, the same
rounds of probes are kept in the store (`switch.probes`), and what is here is its evidence.
"""

import enum
import threading
from typing import NamedTuple

from rescind.triggers.evidence import Bounds, Evidence, Trip
from rescind.triggers.probing import (
    US,
    Ready,
    Recovered,
    Round,
    Wait,
    following,
    look,
    with_claim,
    with_end,
)


class State(enum.StrEnum):
    """What a breaker does with calls."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"
    SHADOW = "shadow"


class Event(enum.StrEnum):
    """What changes the state of a breaker. The last four are a person's."""

    TRIPPED = "tripped"
    COOLED = "cooled"
    RECOVERED = "recovered"
    RELAPSED = "relapsed"
    FORCE_OPEN = "force_open"
    DISABLE = "disable"
    SHADE = "shade"
    RESET = "reset"


_BY_A_PERSON = {
    Event.FORCE_OPEN: State.FORCED_OPEN,
    Event.DISABLE: State.DISABLED,
    Event.SHADE: State.SHADOW,
    Event.RESET: State.CLOSED,
}

TABLE: dict[tuple[State, Event], State] = {
    (State.CLOSED, Event.TRIPPED): State.OPEN,
    (State.OPEN, Event.COOLED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.RECOVERED): State.CLOSED,
    (State.HALF_OPEN, Event.RELAPSED): State.OPEN,
    **{(state, event): then for state in State for event, then in _BY_A_PERSON.items()},
}
"""Everything that ever happens to a breaker. What is not here changes nothing."""


def next_state(state: State, event: Event) -> State:
    """The state after an event."""
    return TABLE.get((state, event), state)


class Pass:
    """The right to make one call, given by `Breaker.admit` and handed back with `Breaker.record`.

    All calls of a closed breaker share one; a probe has its own, with its number in the round.
    """

    __slots__ = ("probe", "round")

    def __init__(self, probe: int = 0, round_number: int = 0) -> None:
        self.probe, self.round = probe, round_number

    @property
    def is_probe(self) -> bool:
        """Whether its outcome decides about a half-open breaker."""
        return self.probe > 0


class Refused(NamedTuple):
    """The breaker does not let the call through. `retry_after_s` is None if only a person can change that."""

    state: State
    retry_after_s: float | None


class Breaker:
    """One breaker in one process, for all its threads. Times are seconds on any clock that moves forward."""

    __slots__ = ("_bounds", "_evidence", "_lock", "_pass", "_round", "_rule", "_state")

    def __init__(self, bounds: Bounds | None = None, *, state: State = State.CLOSED) -> None:
        """A breaker that has seen nothing, in a state that it may begin in: not open and not half-open."""
        if state in (State.OPEN, State.HALF_OPEN):
            raise ValueError(f"a breaker begins closed, or as a person sets it, and not {state.value}")
        self._bounds = bounds or Bounds()
        self._rule = self._bounds.probe_rule
        self._state: State = state
        self._evidence = Evidence(self._bounds)
        self._round = Round(1, 0)
        self._pass = Pass()
        # Held for the microseconds of a decision, never for a call (law B6).
        self._lock = threading.Lock()

    @property
    def state(self) -> State:
        """The state as of the last call or verb: an open breaker becomes half-open when it is next asked."""
        return self._state

    def admit(self, at_s: float) -> Pass | Refused:
        """May a call begin now?"""
        state = self._state
        if state is State.CLOSED or state is State.SHADOW or state is State.DISABLED:
            return self._pass
        if state is State.FORCED_OPEN:
            return Refused(state, None)
        with self._lock:
            return self._probe(round(at_s * US))

    def record(self, passed: Pass, at_s: float, marks: int = 0) -> Trip | None:
        """A call has ended. `marks` says what was wrong with it (see `window`), 0 that it was good.

        Returns: The trip, if this is what opens the breaker; or would, of one in shadow.
        """
        with self._lock:
            if passed.is_probe:
                self._probe_ended(passed, round(at_s * US), succeeded=not marks)
                return None
            if passed is not self._pass or self._state not in (State.CLOSED, State.SHADOW):
                return None  # of a state that is over (law B5), or of one that counts nothing
            trip = self._evidence.record(at_s, marks)
            if trip is not None and self._state is State.CLOSED:
                self._round = Round(1, round(at_s * US))
                self._happened(Event.TRIPPED)
            return trip

    def withdraw(self, passed: Pass, at_s: float) -> None:
        """The call was not made after all: a probe gives its place to another one."""
        if passed.is_probe:
            with self._lock:
                self._probe_ended(passed, round(at_s * US), succeeded=None)

    def force_open(self) -> None:
        """Refuse everything until `reset`."""
        self._by_a_person(Event.FORCE_OPEN)

    def disable(self) -> None:
        """Admit everything and count nothing until `reset`."""
        self._by_a_person(Event.DISABLE)

    def shade(self) -> None:
        """Count and report, and refuse nothing, until `reset`."""
        self._by_a_person(Event.SHADE)

    def reset(self) -> None:
        """Close, and begin anew with no evidence."""
        self._by_a_person(Event.RESET)

    def _by_a_person(self, event: Event) -> None:
        with self._lock:
            self._evidence = Evidence(self._bounds)
            self._happened(event)

    def _happened(self, event: Event) -> None:
        state = next_state(self._state, event)
        # Another pass first: who reads a new state with an old pass is told that it counts for nothing.
        self._pass = Pass()
        self._state = state

    def _probe(self, now_us: int) -> Pass | Refused:
        if self._state in (State.CLOSED, State.SHADOW, State.DISABLED):  # meanwhile
            return self._pass
        if self._state is State.FORCED_OPEN:
            return Refused(self._state, None)
        self._take_up(following(self._round, now_us, self._rule))
        seen = look(self._round, now_us, self._rule)
        match seen:
            case Ready():
                self._happened(Event.COOLED)
                self._round = with_claim(seen, "", now_us)
                return Pass(seen.number, self._round.number)
            case Wait():
                return Refused(self._state, seen.retry_after_s)
            case Recovered():  # never: the last success has closed it
                self._close()
                return self._pass

    def _probe_ended(self, passed: Pass, now_us: int, *, succeeded: bool | None) -> None:
        if self._state is not State.HALF_OPEN or passed.round != self._round.number:
            return
        self._round = with_end(self._round, passed.probe, succeeded=succeeded, now_us=now_us)
        self._take_up(following(self._round, now_us, self._rule))
        if self._state is State.HALF_OPEN and isinstance(look(self._round, now_us, self._rule), Recovered):
            self._close()

    def _take_up(self, current: Round) -> None:
        if current.number != self._round.number:
            self._round = current
            self._happened(Event.RELAPSED)

    def _close(self) -> None:
        self._evidence = Evidence(self._bounds)
        self._happened(Event.RECOVERED)
