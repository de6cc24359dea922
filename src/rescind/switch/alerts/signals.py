"""The alerts of signals: the first word of something, its digests, and what the switch leaves to a person."""

import hashlib
import shlex
from datetime import UTC, datetime

import msgspec

from rescind.model.signal import Severity, Signal
from rescind.switch.alerts.alert import Alert
from rescind.switch.alerts.text import line_of
from rescind.switch.signal_wire import signal_doc
from rescind.triggers.digest import Word

_TITLE_LENGTH_MAX = 160


def alert_of_signal(signal: Signal, *, switch_id: str, incident: str = "", outcome: str = "") -> Alert:
    """The first word of something that was noticed.

    Args:
        signal: What was noticed.
        switch_id: The switch that says so.
        incident: The incident that it belongs to, if there is one.
        outcome: What was done about it.
    """
    lines = {
        "noticed": line_of(signal.detail),
        "severity": signal.severity.label,
        "scope": line_of(signal.scope),
        "run": line_of(_where(signal)),
        "by": line_of(signal.source),
        "at": f"{signal.noticed_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "incident": line_of(incident),
        "done": line_of(outcome),
        "switch": line_of(switch_id),
        "to stop": f'rescind stop {shlex.quote(line_of(signal.scope))} --reason "…"',
    }
    return Alert(
        alert_id=_id("signal-noticed", signal.signal_id),
        kind="signal.noticed",
        severity="critical" if signal.severity is Severity.CRITICAL else "warning",
        title=line_of(f"NOTICED {signal.name} {signal.scope}", _TITLE_LENGTH_MAX),
        body=_body(lines),
        subject=f"signal/{signal.signal_id}",
        switch_id=switch_id,
        at=signal.noticed_at,
        data={"signal": msgspec.to_builtins(signal_doc(signal, incident=incident))},
    )


def alert_of_digest(word: Word, *, switch_id: str, at: datetime) -> Alert:
    """What has gone on since the last word of it."""
    lines = {"since then": word.text, "at": f"{at:%Y-%m-%d %H:%M:%S} UTC", "switch": line_of(switch_id)}
    return Alert(
        alert_id=_id("signal-digest", switch_id, word.subject, str(word.total)),
        kind="signal.digest",
        severity="info",
        title=line_of(f"GOES ON {word.subject}", _TITLE_LENGTH_MAX),
        body=_body(lines),
        subject=f"signal/{_id('cause', word.subject)}",
        switch_id=switch_id,
        at=at,
        data={"cause": word.subject, "more": word.more, "total": word.total},
    )


def alert_of_withheld(signal: Signal, wanted: str, why: str, *, switch_id: str) -> Alert:
    """What the switch does not do by itself, so that a person has to decide.

    Args:
        signal: What was noticed.
        wanted: The order that was asked for: `halted agent:a`.
        why: Why it was not placed.
        switch_id: The switch that says so.
    """
    lines = {
        "wanted": line_of(wanted),
        "not done": line_of(why),
        "noticed": line_of(signal.detail),
        "by": line_of(signal.source),
        "at": f"{signal.noticed_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "switch": line_of(switch_id),
        "to stop": f'rescind stop {shlex.quote(line_of(signal.scope))} --reason "…"',
    }
    return Alert(
        alert_id=_id("signal-withheld", signal.cause, wanted, str(signal.noticed_at.date())),
        kind="signal.withheld",
        severity="critical",
        title=line_of(f"DECIDE {wanted}: not done automatically", _TITLE_LENGTH_MAX),
        body=_body(lines),
        subject=f"signal/{signal.signal_id}",
        switch_id=switch_id,
        at=signal.noticed_at,
        data={"signal": msgspec.to_builtins(signal_doc(signal)), "wanted": wanted, "why": why},
    )


def _where(signal: Signal) -> str:
    return f"{signal.run_id}/{signal.step_id}" if signal.step_id else signal.run_id


def _id(kind: str, *parts: str) -> str:
    return f"{kind}_{hashlib.sha256(chr(0).join(parts).encode('utf-8', 'backslashreplace')).hexdigest()[:32]}"


def _body(lines: dict[str, str]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in lines.items() if value)
