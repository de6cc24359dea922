"""From a posted signal or verdict to a value: what it takes for it to be taken. Nothing is stored here.

What is wrong is `Refused`, with a status and a remedy.
"""

from datetime import datetime

import msgspec

from rescind.clock import Clock, IdSource, from_us
from rescind.model.level import Level
from rescind.model.order import Measure
from rescind.model.scope import Scope, Term, unnameable
from rescind.model.signal import Severity, Signal, SignalKind
from rescind.switch.service.evidence import Ask, may_meet
from rescind.switch.service.intake import checked_id
from rescind.switch.signal_wire import (
    ASKS_MAX,
    FACTS_BYTES_MAX,
    RULE_LENGTH_MAX,
    RULE_WORD,
    AskDoc,
    SignalDoc,
    VerdictDoc,
)
from rescind.switch.wire import TEXT_LENGTH_MAX, utc
from rescind.web.problems import Refused
from rescind.web.tokens import Caller

NAME_LENGTH_MAX = 200
"""Of the ids of runs and steps, which agents choose, and of the rules of policies."""


class Noticing:
    """Makes signals of what callers send."""

    def __init__(self, clock: Clock, ids: IdSource) -> None:
        self._clock, self._ids = clock, ids

    def signal(self, doc: SignalDoc, caller: Caller) -> Signal:
        """The signal that is posted. Raises: Refused."""
        _refuse_long(detail=doc.detail)
        _refuse_large(doc.facts)
        kind, severity = _kind(doc.kind), _severity(doc.severity)
        if kind is SignalKind.VERDICT:
            raise Refused(400, "a verdict is posted to /v1/verdicts, by a token that may judge")
        return Signal(
            signal_id=checked_id("signal_id", doc.signal_id),
            kind=kind,
            rule=_rule(doc.rule),
            severity=severity,
            scope=_within(_scope(doc.scope), caller.identity),
            detail=doc.detail,
            facts=doc.facts,
            noticed_at=self._moment("noticed_at", doc.noticed_at),
            run_id=_name("run_id", doc.run_id),
            step_id=_name("step_id", doc.step_id),
            source=checked_id("source", doc.source) if doc.source else caller.name,
        )

    def asks(self, docs: tuple[AskDoc, ...], caller: Caller) -> dict[Ask, str]:
        """The orders that a signal asks for, and the ids that their sender has for them. Raises: Refused."""
        if len(docs) > ASKS_MAX:
            raise Refused(400, f"a signal asks for at most {ASKS_MAX} orders")
        return {_ask(doc, caller): checked_id("order_id", doc.order_id) if doc.order_id else "" for doc in docs}

    def verdict(self, doc: VerdictDoc, caller: Caller) -> Signal:
        """The signal that a verdict is. Raises: Refused."""
        _refuse_long(reason=doc.reason)
        _refuse_large(doc.facts)
        if not doc.reason.strip():
            raise Refused(400, "a verdict takes a reason: what was checked, and what was found")
        run_id, step_id = _name("run_id", doc.run_id), _name("step_id", doc.step_id)
        severity = _verdict_severity(doc)
        holds = severity is Severity.INFO if doc.holds is None else doc.holds
        return Signal(
            signal_id=checked_id("verdict_id", doc.verdict_id) if doc.verdict_id else self._ids.new_id("sig"),
            kind=SignalKind.VERDICT,
            rule=_rule(doc.rule) if doc.rule else "good" if holds else "bad",
            severity=severity,
            scope=_verdict_scope(doc.scope, run_id, step_id),
            detail=doc.reason,
            facts=doc.facts | {"holds": holds},
            noticed_at=self._moment("judged_at", doc.judged_at),
            run_id=run_id,
            step_id=step_id,
            source=caller.name,
        )

    def _moment(self, what: str, given: datetime | None) -> datetime:
        now = from_us(self._clock.now_us())
        try:
            # Whose clock is ahead has noticed it by now, and no later.
            return now if given is None else min(now, utc(what, given))
        except ValueError as error:
            raise Refused(400, str(error)) from error


def _ask(doc: AskDoc, caller: Caller) -> Ask:
    scope = _within(_scope(doc.scope), caller.identity)
    _refuse_long(rule=doc.rule)
    try:
        level, measure = Level.parse(doc.level), Measure(doc.measure)
    except ValueError as error:
        raise Refused(400, str(error)) from error
    if measure is Measure.FORCED_OPEN:
        raise Refused(400, "a breaker is forced open by a person, and by nothing else")
    if level < measure.level:
        raise Refused(400, f"an order of {measure.value} holds {measure.level.label} at the least")
    if not doc.rule.strip() or not doc.rule.isprintable() or len(doc.rule) > NAME_LENGTH_MAX:
        raise Refused(
            400, f"an order that is asked for names its rule, printable, {NAME_LENGTH_MAX} characters at most"
        )
    return Ask(scope=scope, level=level, measure=measure, rule=doc.rule)


def _verdict_scope(text: str, run_id: str, step_id: str) -> Scope:
    if bool(text) == bool(run_id):
        raise Refused(400, "a verdict is about a scope or about a run_id: name one of them")
    if step_id and not run_id:
        raise Refused(400, "a step_id needs the run_id of its run")
    return _scope(text) if text else Scope((Term("run", run_id),))


def _verdict_severity(doc: VerdictDoc) -> Severity:
    if doc.holds is None and not doc.severity:
        raise Refused(400, "a verdict says whether what was checked holds (`holds`), or how bad it is (`severity`)")
    if not doc.severity:
        return Severity.INFO if doc.holds else Severity.HIGH
    severity = _severity(doc.severity)
    if doc.holds and severity > Severity.INFO:
        raise Refused(400, f"what holds is of severity info, not {severity.label}; leave out one of the two")
    return severity


def _kind(text: str) -> SignalKind:
    try:
        return SignalKind(text)
    except ValueError:
        known = ", ".join(kind.value for kind in SignalKind)
        raise Refused(400, f"unknown kind of signal {text[:NAME_LENGTH_MAX]!r}; they are: {known}") from None


def _severity(text: str) -> Severity:
    try:
        return Severity.parse(text)
    except ValueError as error:
        raise Refused(400, str(error)[:TEXT_LENGTH_MAX]) from error


def _scope(text: str) -> Scope:
    _refuse_long(scope=text)
    try:
        return Scope.parse(text)
    except ValueError as error:
        raise Refused(400, str(error)) from error


def _rule(text: str) -> str:
    if RULE_WORD.fullmatch(text) is None:
        raise Refused(400, f"rule is one word of lower-case letters, digits and `_`, at most {RULE_LENGTH_MAX} of them")
    return text


def _name(what: str, text: str) -> str:
    problem = unnameable(text) if text else ""
    if problem or len(text) > NAME_LENGTH_MAX:
        raise Refused(400, f"{what} {problem or f'has more than {NAME_LENGTH_MAX} characters'}")
    return text


def _within(scope: Scope, identity: Scope) -> Scope:
    """The part of a scope that is within the identity on a token: a run of an agent's is that run, if it is its own.

    Raises: Refused (403), if it names somebody else.
    """
    if not may_meet(scope, identity):
        raise Refused(403, f"an agent speaks of itself only: {scope} is not within {identity}")
    terms = {*scope.terms, *identity.terms}
    versioned = {term for term in terms if term.kind == "agent" and "@" in term.value}
    if versioned:  # of the same agent, so that the one without a version says nothing more
        terms = {term for term in terms if term.kind != "agent"} | versioned
    return Scope(tuple(sorted(terms)))


def _refuse_long(**texts: str) -> None:
    for what, text in texts.items():
        if len(text) > TEXT_LENGTH_MAX:
            raise Refused(400, f"{what} takes at most {TEXT_LENGTH_MAX:,} characters")


def _refuse_large(facts: dict[str, object]) -> None:
    if len(msgspec.json.encode(facts)) > FACTS_BYTES_MAX:
        raise Refused(400, f"facts take at most {FACTS_BYTES_MAX:,} bytes as JSON")
