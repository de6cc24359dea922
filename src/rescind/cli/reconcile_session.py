"""From the words of `rescind reconcile` to answers on the screen, and with `--apply` into the journal."""

from collections import Counter
from contextlib import closing
from typing import Any

import click

from rescind.cli.app import WHAT_APP_IS, load_guard
from rescind.cli.entry import explain
from rescind.cli.liveness import LiveRuns
from rescind.cli.out import Out
from rescind.cli.safe import safe, short
from rescind.cli.shown import forget_shown, last_shown, remember_shown, selection_key, was_shown
from rescind.cli.stores import command_line, find_store, journal_of, local_folder
from rescind.cli.undo_apply import DECLINED, one_at_a_time
from rescind.cli.undo_request import DIGITS_SHOWN, UndoRequest
from rescind.cli.undo_session import Session, session_of
from rescind.cli.words import count_of
from rescind.clock import SystemClock
from rescind.compensation.doubt import is_in_doubt
from rescind.compensation.execution.reconcile import (
    Reconciled,
    Reconciliation,
    Recorded,
    ask_about,
    is_recorded,
    record_answers,
)
from rescind.compensation.planning.selection import select_steps
from rescind.errors import PlanOutdated, PlanUnknown, RescindError, UsageError
from rescind.model.probe import Answer

FAULT = 1

LINES_MAX = 12
"""Steps that are listed one by one, of at most three lines each; more are grouped."""

_WHY_MAX = 240  # A target's exception may be a page; `--json` has all of it.

_MEANS = {
    Answer.FOUND: "took effect: to be recorded as completed",
    Answer.NOT_FOUND: "did not: to be recorded as failed",
    Answer.NOT_YET: "may still arrive: nothing is recorded, ask again later",
    Answer.CANNOT_TELL: "nobody can tell: to become a review task",
    Answer.NOT_ASKED: "not known to these tools: nothing is done",
}

_STYLES = {Answer.FOUND: "green", Answer.NOT_FOUND: "green", Answer.CANNOT_TELL: "yellow", Answer.NOT_ASKED: "red"}

_BEHIND = 16


class ReconcileRequest(UndoRequest, frozen=True, kw_only=True):
    """The words of one `rescind reconcile`."""

    @property
    def verb(self) -> str:
        """See `UndoRequest`."""
        return "reconcile"


class ReconcileSession(Session, frozen=True, kw_only=True):
    """All that it works with."""

    def ask(self) -> Reconciliation:
        """What the target systems say now."""
        return ask_about(
            self.journal,
            self.request.selection,
            self.compensators,
            SystemClock(),
            parallel=self.parallel,
            live_runs=LiveRuns(self.journal, self.guards.living),
        )

    @property
    def key(self) -> str:
        """See `Session`."""
        return selection_key({"reconcile": self.request.selection.as_dict()})


def run_reconcile(request: ReconcileRequest, out: Out) -> int:
    """Show what target systems say, or record it. Returns the exit status."""
    if not request.app:
        _refuse_without_app(request)
        return _nothing(out)
    guard = load_guard(request.app)
    with closing(guard):
        session = session_of(request, guard, ReconcileSession, {})
        with closing(session.guards):
            if not request.apply:
                asked = session.ask()
                _show(asked, session, out)
                out.emit(_as_json(asked, session))
                return _status(asked)
            with one_at_a_time(session.store):
                return _apply(session, out)


def _apply(session: ReconcileSession, out: Out) -> int:
    asked = session.ask()
    if asked.is_settled:
        _show(asked, session, out)
        out.emit(_as_json(asked, session) | _recorded_as_json(Recorded(steps=())))
        return _status(asked)
    _check_shown(asked, session, out)
    if not session.request.sure and out.can_ask and not click.confirm("Record these answers now?", default=False):
        out.say("nothing was recorded")
        out.emit({"declined": True})
        return DECLINED
    forget_shown(local_folder(session.store), session.key)
    request = session.request
    recorded = record_answers(asked, session.journal, SystemClock(), actor=request.actor, reason=request.reason)
    _say_recorded(recorded, session, out)
    out.emit(_as_json(asked, session) | _recorded_as_json(recorded))
    return _status(asked)


def _check_shown(asked: Reconciliation, session: ReconcileSession, out: Out) -> None:
    """Let nothing be recorded but what was shown; answers that never were are shown now.

    Raises: PlanOutdated, PlanUnknown.
    """
    folder = local_folder(session.store)
    wanted = session.request.shown or last_shown(folder, session.key)
    if wanted is None:
        _show(asked, session, out)
    elif not asked.digest.startswith(wanted):
        raise _outdated(asked, session, wanted)
    else:
        out.say(_summary(asked), style="bold")


def _outdated(asked: Reconciliation, session: ReconcileSession, wanted: str) -> RescindError:
    error: RescindError = PlanOutdated(shown=wanted, current=asked.digest)
    if not was_shown(local_folder(session.store), wanted):
        error = PlanUnknown(named=wanted, current=asked.digest, known_by="was shown on this machine lately")
    look = session.request.command(store=session.store)
    explain(error, f"the target systems say something else by now; to see it:\n  {look}", current=asked.digest)
    return error


def _show(asked: Reconciliation, session: ReconcileSession, out: Out) -> None:
    request = session.request
    out.say(f"{count_of(len(asked.steps), 'step')} in doubt", style="bold")
    for name, value in request.conditions:
        out.say(f"  {name:<7} {value}")
    if asked.steps:
        out.say()
    if request.every or len(asked.steps) <= LINES_MAX:
        for each in asked.steps:
            _say_step(each, out)
    else:
        _say_groups(asked, out)
    if asked.steps:
        out.say()
    if asked.in_review:
        in_review = count_of(len(asked.in_review), "further step")
        out.say(f"{in_review} in review already; to have them asked about, resolve their tasks as retry:")
        out.say(f"  {command_line('review', 'list', store=session.store)}")
    if not asked.steps:
        out.say("nothing of it is in doubt, so there is nothing to reconcile")
        return
    out.say(_summary(asked), style="bold")
    if asked.is_settled:
        out.say("there is nothing to record")
        return
    remembered = remember_shown(local_folder(session.store), session.key, asked.digest)
    if not request.apply:
        out.say("nothing was recorded. To record exactly these answers:")
        out.say(f"  {_apply_command(asked, session)}", style="bold")
        if not remembered:
            out.note("the store cannot be written, so that this was shown is not remembered; use --plan as above")


def _say_step(each: Reconciled, out: Out) -> None:
    answer = each.answer.value.replace("_", " ")
    out.say(f"  {answer:<12}  {safe(each.step)}  {safe(each.action)}", style=_STYLES.get(each.answer, ""))
    blank = " " * _BEHIND
    if each.target is not None:
        out.tell(f"{blank}on {safe(each.target)}", behind=_BEHIND + 3, style="dim")
    if each.detail:
        out.tell(f"{blank}{short(each.detail, _WHY_MAX)}", behind=_BEHIND)


def _say_groups(asked: Reconciliation, out: Out) -> None:
    groups = Counter((each.answer, each.action) for each in asked.steps)
    for answer in Answer:
        for (_, action), count in sorted(item for item in groups.items() if item[0][0] is answer):
            word = answer.value.replace("_", " ")
            out.say(f"  {word:<12}  {count:>7,}  {safe(action)}", style=_STYLES.get(answer, ""))
    out.say("  --all shows every step", style="dim")


def _summary(asked: Reconciliation) -> str:
    lines = [f"answers {asked.digest[:DIGITS_SHOWN]}"]
    lines += [f"  {count:>7,}  {_MEANS[Answer(answer)]}" for answer, count in asked.counts.items()]
    return "\n".join(lines)


def _say_recorded(recorded: Recorded, session: ReconcileSession, out: Out) -> None:
    counts = Counter(each.answer for each in recorded.steps)
    ended = counts[Answer.FOUND] + counts[Answer.NOT_FOUND]
    out.say(
        f"recorded: {counts[Answer.FOUND]:,} completed, {counts[Answer.NOT_FOUND]:,} failed"
        if ended
        else "no end was recorded",
        style="green" if ended else "",
    )
    if recorded.moved_on:
        out.say(f"{count_of(len(recorded.moved_on), 'step')} got an end meanwhile, which stands", style="yellow")
    if recorded.tasks:
        opened = count_of(len(recorded.tasks), "review task")
        out.say(f"{opened} opened, about {count_of(counts[Answer.CANNOT_TELL], 'step')}:", style="yellow")
        out.say(f"  {command_line('review', 'list', store=session.store)}")


def _status(asked: Reconciliation) -> int:
    return FAULT if any(each.answer is Answer.NOT_ASKED for each in asked.steps) else 0


def _apply_command(asked: Reconciliation, session: ReconcileSession) -> str:
    return session.request.command("--apply", "--plan", asked.digest[:DIGITS_SHOWN], store=session.store)


def _as_json(asked: Reconciliation, session: ReconcileSession) -> dict[str, Any]:
    return {
        "steps": asked.steps,
        "counts": asked.counts,
        "in_review": asked.in_review,
        "digest": asked.digest,
        "settled": asked.is_settled,
        "store": str(session.store),
        "apply": _apply_command(asked, session),
    }


def _recorded_as_json(recorded: Recorded) -> dict[str, Any]:
    return {
        "recorded": [str(each.step) for each in recorded.steps if is_recorded(each)],
        "moved_on": [str(step) for step in recorded.moved_on],
        "tasks": list(recorded.tasks),
    }


def _refuse_without_app(request: ReconcileRequest) -> None:
    """Without the app's tools nobody can be asked, except where nothing is in doubt. Raises: UsageError."""
    with journal_of(find_store(request.store)) as journal:
        in_doubt = [each for each in select_steps(journal, request.selection) if is_in_doubt(each) and not each.is_held]
    if in_doubt:
        raise UsageError(
            f"--app is missing: {count_of(len(in_doubt), 'step')} in doubt can be asked about only with the probes of "
            f"the tools that made them. Give {WHAT_APP_IS}"
        )


def _nothing(out: Out) -> int:
    out.say("nothing of it is in doubt, so there is nothing to reconcile")
    out.emit({"steps": [], "counts": {}, "settled": True})
    return 0
