"""How far an undo is, in words, in one line, and as JSON."""

from typing import TYPE_CHECKING, Any

import msgspec

from rescind.cli.moments import to_the_second
from rescind.cli.out import Out, print_json
from rescind.cli.safe import safe
from rescind.cli.words import count_of, list_of, why_left

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rescind.clock import Clock
    from rescind.compensation.result import StepResult
    from rescind.database.address import StoreAt
    from rescind.recovery.undo_status import StepSeen, UndoStatus
    from rescind.recovery.undos import OpenUndo

TOLD_EVERY_S = 5.0
"""How often an undo says how far it is where nothing can be redrawn: a log is to stay readable."""

_DIGITS = 16
_STYLES = {"paused": "yellow", "cancelling": "yellow", "left": "red", "cancelled": "yellow", "finished": "green"}


def status_line(status: "UndoStatus") -> tuple[str, str]:
    """One line that fits 80 columns, and its style: digest, state, how far, by whom."""
    line = f"{status.plan_digest[:_DIGITS]}  {status.state:<10} {_far(status)}  by {safe(status.actor)[:20]}"
    return line, _STYLES.get(status.state, "")


def line_about(status: "UndoStatus") -> str:
    """The line below it: what it is about, when it was begun, and why."""
    because = f": {safe(status.reason)}" if status.reason else ""
    return f"{what_it_is_about(status.selection)}, begun {to_the_second(status.begun_at)}{because}"


def what_it_is_about(selection: "Mapping[str, Any]") -> str:
    """What a plan with this selection takes back, such as `undo of trace 4bf92f35, action card.charge`; safe."""
    from rescind.cli.undo_request import conditions_of
    from rescind.compensation.planning.redo import redone_by
    from rescind.compensation.planning.selection import Selection

    if (undone := redone_by(selection)) is not None:
        return f"redo of plan {safe(undone)[:_DIGITS]}"
    try:
        chosen = msgspec.convert(selection, Selection)
    except msgspec.ValidationError:  # a newer rescind's
        return "undo of what this rescind knows no words for"
    words = ", ".join(f"{name} {safe(value)}" for name, value in conditions_of(chosen))
    return f"undo of {words or 'everything'}{', with what depends on it' if chosen.cascade else ''}"


def say_steps(steps: "Sequence[StepSeen]", out: Out) -> None:
    """Each step with when, where it stands, and which worker it was."""
    for each in steps:
        by = f"  {safe(each.by)}" if each.by else ""
        out.say(f"  {each.at:%H:%M:%S}  {safe(each.word).replace('_', ' '):<17}  {safe(each.step)}{by}")


def say_status(status: "UndoStatus", out: Out, *, held: "OpenUndo | None" = None) -> None:
    """All that there is to say, in a few lines; of one that nobody goes on with (`held`), no pace."""
    from rescind.cli.undo_holder import LEFT

    is_left = held is not None and held.holder in LEFT
    state = f"{status.state}, and nobody goes on with it" if is_left else status.state
    out.say(f"plan {status.plan_digest[:_DIGITS]}: {state}", style="bold")
    for name, value in _rows(status):
        if is_left and name == "pace":
            continue
        out.say(f"  {name:<9} {value}")


def status_as_json(status: "UndoStatus") -> dict[str, Any]:
    """The status as an answer."""
    answer: dict[str, Any] = msgspec.to_builtins(status)
    return {**answer, "percent": round(status.percent, 1), "ended": status.has_ended}


def say_whose(undo: "OpenUndo | None", store: "StoreAt", out: Out, *, indent: int) -> None:
    """That nobody who is known to live goes on with it, and what to type then; nothing of one that is held or ended."""
    from rescind.cli.undo_holder import LEFT, next_of, whose

    if undo is None or undo.is_held:
        return
    blank = " " * indent
    out.tell(f"{blank}{whose(undo)}", behind=indent, style="red" if undo.holder in LEFT else "yellow")
    if undo.holder in LEFT:
        out.say(f"{blank}{next_of(undo, store)}")


def holder_as_json(undo: "OpenUndo | None") -> dict[str, Any]:
    """Who goes on with it, as in the answer of `rescind status`; both null of one that has ended."""
    return {"holder": None, "heard_at": None} if undo is None else {"holder": undo.holder, "heard_at": undo.heard_at}


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


def _unread(status: "UndoStatus") -> str:
    if not status.unreadable:
        return ""
    entries = "1 entry" if len(status.unreadable) == 1 else f"{len(status.unreadable):,} entries"
    which = list_of((str(each) for each in status.unreadable), most=3)
    return f"{entries} of its runs ({which}), so more may be done; see `rescind audit verify`"


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
    rows = [
        ("done", _far(status).strip() + (f", {counts}" if counts else "")),
        ("unread", _unread(status)),
        ("pace", _pace(status)),
        ("begun", f"{to_the_second(status.begun_at)} by {safe(status.actor)}{because}"),
        (held, f"by {safe(status.held_by)}{why}" if held and status.held_by else ""),
        ("left", why_left(status.left_because, status.left_detail) if status.state in ("left", "continued") else ""),
        *(("worker", f"{safe(name)}: {count_of(count, 'step')}") for name, count in status.by_worker.items()),
        ("last sign", to_the_second(status.last_at)),
    ]
    return [("about", what_it_is_about(status.selection)), *((name, value) for name, value in rows if value)]
