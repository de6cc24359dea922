"""How far an undo is, in words, in one line, and as JSON."""

from typing import TYPE_CHECKING, Any

import msgspec

from rescind.cli.moments import spoken
from rescind.cli.out import Out, print_json
from rescind.cli.safe import safe
from rescind.cli.words import count_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rescind.clock import Clock
    from rescind.compensation.result import StepResult
    from rescind.recovery.undos import UndoStatus

TOLD_EVERY_S = 5.0
"""How often an undo says how far it is where nothing can be redrawn: a log is to stay readable."""

_DIGITS = 16
_STYLES = {"paused": "yellow", "cancelling": "yellow", "left": "red", "cancelled": "yellow", "finished": "green"}


def status_line(status: "UndoStatus") -> tuple[str, str]:
    """One line that fits 80 columns, and its style: digest, state, how far, by whom."""
    line = f"{status.plan_digest[:_DIGITS]}  {status.state:<10} {_far(status)}  by {safe(status.actor)[:20]}"
    return line, _STYLES.get(status.state, "")


def say_status(status: "UndoStatus", out: Out) -> None:
    """All that there is to say, in a few lines."""
    out.say(f"undo of plan {status.plan_digest[:_DIGITS]}: {status.state}", style="bold")
    for name, value in _rows(status):
        out.say(f"  {name:<9} {value}")


def status_as_json(status: "UndoStatus") -> dict[str, Any]:
    """The status as an answer."""
    answer: dict[str, Any] = msgspec.to_builtins(status)
    return {**answer, "percent": round(status.percent, 1), "ended": status.has_ended}


def follow_plainly(statuses: "Iterator[UndoStatus]", out: Out) -> "UndoStatus":
    """A line for each change, for where nothing can be redrawn; of JSON, if that was asked for. Returns the last."""
    told: tuple[object, ...] | None = None
    last = None
    for last in statuses:
        facts = (last.plan_digest, last.state, last.done)
        if facts == told:
            continue
        told = facts
        if out.json:
            print_json(status_as_json(last))
        else:
            out.say(status_line(last)[0] + (f", {_pace(last)}" if _pace(last) else ""))
    assert last is not None, "following begins with a look"
    return last


class PlainProgress:
    """A line beside the answer now and then, for where nothing can be redrawn. A short undo needs none."""

    def __init__(self, total: int, clock: "Clock", out: Out) -> None:
        self._total, self._clock, self._out = total, clock, out
        self._done = 0
        self._begun_s = self._told_s = clock.monotonic_s()

    def advance(self, result: "StepResult") -> None:
        """One more step has its end."""
        self._done += 1
        now_s = self._clock.monotonic_s()
        if now_s - self._told_s < TOLD_EVERY_S or self._done == self._total:
            return
        self._told_s = now_s
        rate = self._done / (now_s - self._begun_s)
        left = lasting((self._total - self._done) / rate)
        percent = 100 * self._done / self._total
        self._out.note(f"undoing: {percent:.1f} %, {self._done:,} of {self._total:,}, {rate:,.1f} steps/s, {left} left")


def _far(status: "UndoStatus") -> str:
    return f"{status.percent:5.1f} %  {status.done:,} of {count_of(status.total, 'step')}"


def _pace(status: "UndoStatus") -> str:
    if status.has_ended or status.rate_per_s is None:
        return ""
    eta = "" if status.eta_s is None else f", {lasting(status.eta_s)} left"
    return f"{status.rate_per_s:,.1f} steps/s{eta}"


def lasting(duration_s: float) -> str:
    """A duration as people say it: `40 s`, `12 min`, `3.5 h`."""
    if duration_s < 90:
        return f"{duration_s:.0f} s"
    return f"{duration_s / 60:.0f} min" if duration_s < 5_400 else f"{duration_s / 3_600:.1f} h"


def _rows(status: "UndoStatus") -> list[tuple[str, str]]:
    counts = ", ".join(f"{count:,} {safe(word).replace('_', ' ')}" for word, count in status.by_disposition.items())
    because = f": {safe(status.reason)}" if status.reason else ""
    held = {"paused": "paused", "cancelling": "cancelled", "cancelled": "cancelled"}.get(status.state, "")
    why = f": {safe(status.held_because)}" if status.held_because else ""
    left = f"{status.left_because.replace('_', ' ')}{': ' if status.left_detail else ''}{safe(status.left_detail)}"
    rows = [
        ("done", _far(status).strip() + (f", {counts}" if counts else "")),
        ("pace", _pace(status)),
        ("begun", f"{spoken(status.begun_at)} by {safe(status.actor)}{because}"),
        (held, f"by {safe(status.held_by)}{why}" if held and status.held_by else ""),
        ("left", left if status.left_because and status.state != "cancelled" else ""),
        ("last sign", spoken(status.last_at)),
    ]
    return [(name, value) for name, value in rows if value]
