"""The language of responses: `VERB [on WHERE] [for TIME]`, such as `read_only on agent@version`.

A response is *recoverable* if the run can go on by itself: this call is refused, or writes wait for a minute, and this
process forgets it afterwards. It is *containment* if it is an order, which stands until it is lifted.

Laws, cited by the tests:

R1. Automatic action only tightens: there is no verb that gives power back.
R2. What ends a run for good (`halted`, `quarantine`, `isolate`) reaches a run or a tree of runs, and nothing wider: a
    halt is a latch, so the runs of a whole agent could not be given back by any lift.
R3. A WHERE that cannot be resolved means the run. It never becomes wider than what was written.
"""

import difflib
import enum
import math
import re
from collections.abc import Sequence

import msgspec

from rescind.model.level import Level
from rescind.model.order import Measure
from rescind.model.scope import EVERYTHING_WORD, Scope, Term, unnameable
from rescind.model.signal import Signal
from rescind.model.step import RunInfo

HOLD_MAX_S = 86_400.0
"""How long a process may hold itself back without an order. Longer than a day is a decision, which takes an order."""


class Verb(enum.StrEnum):
    """What is done. The name in files and in messages."""

    REPORT = "report"  # nothing besides the record
    DENY = "deny"  # this call is refused, the next one is judged anew
    RETRY = "retry"  # this call is refused, and its caller is told to try it again later
    FALLBACK = "fallback"  # this call is refused, and its caller is told to take the fallback route
    SUPERVISED = "supervised"
    READ_ONLY = "read_only"
    PAUSED = "paused"
    HALTED = "halted"
    TRIP = "trip"
    REVOKE = "revoke"
    BLOCK_FAN_OUT = "block_fan_out"
    QUARANTINE = "quarantine"
    PAUSE_QUEUE = "pause_queue"
    ISOLATE = "isolate"  # quarantine, and no fan-out
    INCIDENT = "incident"  # opened, or joined if one of the same cause is open


LEVELS = {
    Verb.SUPERVISED: Level.SUPERVISED,
    Verb.READ_ONLY: Level.READ_ONLY,
    Verb.PAUSED: Level.PAUSED,
    Verb.HALTED: Level.HALTED,
}

_MEASURES = {
    Verb.TRIP: (Measure.TRIP,),
    Verb.REVOKE: (Measure.REVOKE,),
    Verb.BLOCK_FAN_OUT: (Measure.BLOCK_FAN_OUT,),
    Verb.QUARANTINE: (Measure.QUARANTINE,),
    Verb.PAUSE_QUEUE: (Measure.PAUSE_QUEUE,),
    Verb.ISOLATE: (Measure.QUARANTINE, Measure.BLOCK_FAN_OUT),
}

REFUSING = frozenset({Verb.DENY, Verb.RETRY, Verb.FALLBACK})
"""Verbs that refuse the call that was being asked for, and nothing else."""

_HELD = frozenset({Verb.SUPERVISED, Verb.READ_ONLY, Verb.PAUSED})  # what a process can hold for a time and forget
_ENDING = frozenset({Verb.HALTED, Verb.QUARANTINE, Verb.ISOLATE})  # law R2

WHERE_WORDS = ("run", "tree", "root", "agent", "agent@version", "tenant", "workflow", "action", "signal")
"""What a WHERE may say besides a scope. `signal` is the scope that the detector named, and stands alone. `root` is the
tree of the coordinator: of the run at the very top, if this one was started by another one."""

_DEFAULT_WHERE = {Verb.TRIP: "signal", Verb.BLOCK_FAN_OUT: "tree", Verb.ISOLATE: "tree"}

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Response(msgspec.Struct, frozen=True, gc=False):
    """One thing to do about a signal.

    Attributes:
        verb: What.
        where: Where, as it was written or as the verb's own default; empty for verbs that are about one call.
        for_s: For how long this process holds it, forgotten afterwards; None for an order, or for one call.
    """

    verb: Verb
    where: str = ""
    for_s: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Response":
        """Read `VERB [on WHERE] [for TIME]`.

        Raises: ValueError, which names the word at fault and the nearest known one.
        """
        words = text.split()
        if not words:
            raise ValueError(f"a response is empty; the verbs are: {', '.join(Verb)}")
        verb = _parse_verb(words[0])
        parts = _parts(words[1:], text)
        for_s = _parse_time(parts["for"], text) if "for" in parts else None
        where = parts.get("on", "")
        if where:
            _refuse_bad_where(where, text)
        response = cls(verb, where or (_DEFAULT_WHERE.get(verb, "run") if _has_place(verb) else ""), for_s)
        _refuse_nonsense(response, text, named=bool(where))
        return response

    @property
    def level(self) -> Level | None:
        """The level that the verb names; None for other verbs."""
        return LEVELS.get(self.verb)

    @property
    def measures(self) -> tuple[tuple[Measure, Level], ...]:
        """The orders to place, each as its measure and its level. Empty for a response that is no containment."""
        if not self.is_containment:
            return ()
        level = self.level
        if level is not None:
            return ((Measure.LEVEL, level),)
        return tuple((measure, measure.level) for measure in _MEASURES[self.verb])

    @property
    def is_containment(self) -> bool:
        """Whether it is an order, which stands until it is lifted."""
        return self.for_s is None and _has_place(self.verb)

    @property
    def is_hold(self) -> bool:
        """Whether this process holds `scope_for` at `level` for `for_s` seconds and then forgets it."""
        return self.for_s is not None

    @property
    def refuses_call(self) -> bool:
        """Whether the call at which the signal was noticed is refused, if it has not happened yet.

        Orders and holds do that by themselves, where they cover the call: it meets them at the gate.
        """
        return self.verb in REFUSING

    def scope_for(self, signal: Signal, run: RunInfo, action: str) -> Scope:
        """Whom it concerns, now (laws R2 and R3).

        Args:
            signal: What is answered.
            run: Whose call it was noticed at.
            action: The call's action; empty if it is about no single call.

        Returns: A scope with at least one term, unless the policy says `on everything` in so many words.
        """
        if self.where == "signal":
            return self._scope_of(signal, run)
        if self.where == EVERYTHING_WORD:
            return Scope()
        terms = [_resolved(part, run, action) for part in (self.where or "run").split("+")]
        found = [term for term in terms if term is not None]
        if len(found) < len(terms):
            return _narrowest(signal, run)
        return Scope(tuple(sorted(set(found))))

    def _scope_of(self, signal: Signal, run: RunInfo) -> Scope:
        is_wide = not any(term.kind in ("run", "tree") for term in signal.scope.terms)
        if not signal.scope.terms or (is_wide and self.verb in _ENDING):
            return _narrowest(signal, run)
        return signal.scope

    def __str__(self) -> str:
        where = f" on {self.where}" if self.where else ""
        return f"{self.verb.value}{where}" + (f" for {duration_text(self.for_s)}" if self.for_s is not None else "")


def is_recoverable(responses: Sequence[Response]) -> bool:
    """Whether the run can go on by itself: none of these is an order."""
    return not any(response.is_containment for response in responses)


def duration_text(duration_s: float) -> str:
    """`90s`, `5m`, `1h`: as a policy says it, in the largest unit that needs no fraction."""
    for unit in ("h", "m", "s"):
        count = duration_s / _UNITS_S[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    return f"{duration_s * 1000:g}ms"


def parse_duration(text: str) -> float:
    """Seconds of `500ms`, `90s`, `5m` or `1h`. Raises: ValueError for anything else."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h)", text, re.ASCII)
    if not found:
        raise ValueError(f"cannot read the time {text!r}; write 500ms, 90s, 5m or 1h")
    return float(found[1]) * _UNITS_S[found[2]]


def nearest(word: str, known: Sequence[str]) -> str:
    """`did you mean 'halted'? `, or nothing."""
    found = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {str(found[0])!r}? " if found else ""


def _has_place(verb: Verb) -> bool:
    return verb in LEVELS or verb in _MEASURES


def _parse_verb(word: str) -> Verb:
    name = word.replace("-", "_").lower()
    try:
        return Verb(name)
    except ValueError:
        if name == "normal":
            raise ValueError(
                "a policy only tightens, so it has no 'normal'; power is given back by a person, with `rescind resume`"
            ) from None
        raise ValueError(f"unknown verb {word!r}; {nearest(name, list(Verb))}known are: {', '.join(Verb)}") from None


def _parts(words: list[str], text: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for index in range(0, len(words), 2):
        word = words[index]
        if word not in ("on", "for"):
            raise ValueError(f"cannot read {text!r} at {word!r}; a response is `VERB [on WHERE] [for TIME]`")
        if word in parts:
            raise ValueError(f"{text!r} says {word!r} twice")
        if index + 1 == len(words):
            raise ValueError(f"{text!r} ends after {word!r}; write {'where' if word == 'on' else 'for how long'}")
        parts[word] = words[index + 1]
    return parts


def _parse_time(word: str, text: str) -> float:
    for_s = parse_duration(word)
    if not (math.isfinite(for_s) and 0 < for_s <= HOLD_MAX_S):
        raise ValueError(f"{text!r}: the time must be from 1ms to {duration_text(HOLD_MAX_S)}; an order has none")
    return for_s


def _refuse_bad_where(where: str, text: str) -> None:
    if where in ("signal", EVERYTHING_WORD):
        return
    for part in where.split("+"):
        if part == "signal":
            raise ValueError(f"{text!r}: 'signal' is a scope of its own and is not joined with others")
        if part in WHERE_WORDS:
            continue
        if ":" not in part:
            known = (*WHERE_WORDS, EVERYTHING_WORD)
            raise ValueError(
                f"{text!r}: unknown place {part!r}; {nearest(part, known)}known are: {', '.join(known)}, "
                "scopes such as agent:NAME, and several of these joined by `+`"
            )
        Scope.parse(part)


def _refuse_nonsense(response: Response, text: str, *, named: bool) -> None:
    verb = response.verb
    if not _has_place(verb) and (named or response.for_s is not None):
        what = "on" if named else "for"
        raise ValueError(f"{text!r}: {verb.value} is about one call and takes no {what!r}")
    if response.for_s is not None and verb not in _HELD:
        held = ", ".join(sorted(_HELD))
        raise ValueError(f"{text!r}: {verb.value} stands until it is lifted and takes no 'for'; for a time are: {held}")
    parts = [part.partition(":")[0] for part in response.where.split("+")]
    if verb in _ENDING and response.where != "signal" and not {"run", "tree", "root"} & set(parts):
        raise ValueError(
            f"{text!r}: {verb.value} ends runs for good, so a policy may do it to a run or a tree, nothing wider; "
            f"use `paused on {response.where}`, which a person can lift"
        )


def _resolved(part: str, run: RunInfo, action: str) -> Term | None:
    # A value that no scope can name would make an order that nobody can address by its scope.
    kind, colon, value = part.partition(":")
    if colon:
        return Term(kind, value)
    if part == "agent@version":
        return Term("agent", run.agent) if run.agent_version and not unnameable(run.agent) else None
    values = {
        "run": run.run_id,
        "tree": run.run_id,
        "root": run.ancestors[-1] if run.ancestors else run.run_id,
        "agent": run.agent_name,
        "tenant": run.tenant,
        "workflow": run.workflow,
        "action": action,
    }
    value = values[kind]
    return Term("tree" if kind == "root" else kind, value) if value and not unnameable(value) else None


def _narrowest(signal: Signal, run: RunInfo) -> Scope:
    # A verdict may be about an agent and no run at all; then what it names itself is the narrowest that there is.
    if not run.run_id and signal.scope.terms:
        return signal.scope
    return Scope((Term("run", run.run_id),))
