"""`rescind worker --list` and `--follow`: who lives, what each can do, and how far a plan is."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from rescind.cli.moments import to_the_second
from rescind.cli.out import Out
from rescind.cli.safe import safe
from rescind.cli.stores import find_store, journal_of
from rescind.cli.undo_result import say_workers
from rescind.cli.undo_workers import follow
from rescind.cli.words import count_of
from rescind.clock import SystemClock, from_us
from rescind.compensation.sharing.followed import result_from
from rescind.compensation.sharing.results import results_of
from rescind.compensation.sharing.submission import Submission, read_submission
from rescind.compensation.sharing.under_way import OpenSubmissions
from rescind.config import JOURNAL_NAME
from rescind.errors import UsageError
from rescind.journal.port import Journal, Query
from rescind.recovery.control import UNDO_AGENT
from rescind.recovery.places import register_of
from rescind.recovery.reading import every_run, the_one_meant
from rescind.recovery.workers import Seen, working

if TYPE_CHECKING:
    from rescind.database.address import StoreAt

_ACTIONS_SHOWN = 12


def list_workers(given: "StoreAt | None", out: Out) -> int:
    """Show the workers, and the plans that are left to them."""
    store = find_store(given)
    with closing(register_of(store)) as register:
        seen = register.look(now_us=SystemClock().now_us())
    plans: list[Submission] = []
    if not isinstance(store, Path) or (store / JOURNAL_NAME).exists():
        with journal_of(store) as journal:
            plans = OpenSubmissions(journal).read()
    if not seen:
        out.say("no worker lives here; start one with `rescind worker MODULE`")
    for each in seen:
        _say_worker(each, out)
    for plan in plans:
        state = "under way" if plan.started else "waits"
        out.say(f"plan {plan.plan_run}: {count_of(plan.submitted.steps, 'step')}, {state}")
    if plans and seen and not working(seen):
        out.say("none of these workers works, so nobody goes on with it; start one with `rescind worker MODULE`")
    out.emit(
        {
            "workers": [
                {"worker_id": each.worker_id, "state": each.state, "silent_s": each.silent_s, "info": each.info}
                for each in seen
            ],
            "plans": [
                {"plan_run": plan.plan_run, "digest": plan.submitted.plan_digest, "started": plan.started}
                for plan in plans
            ],
        }
    )
    return 0


def _say_worker(each: Seen, out: Out) -> None:
    state = each.state
    style = {"works": "green", "dead": "red", "stuck": "red"}.get(state, "yellow")
    out.say(f"{safe(each.worker_id)}  {state}", style=style)
    info = each.info
    if info is None:
        out.say("  what it says of itself cannot be read")
        return
    out.say(f"  {safe(info.module)} {safe(info.version)}".rstrip())
    out.say(f"  process {info.pid} on {safe(info.host)}, since {to_the_second(from_us(info.since_us))}")
    for tool in info.tools[:_ACTIONS_SHOWN]:
        out.say(f"    {tool.signature[:8]}  {safe(tool.action)}{'' if tool.parallel else '  (one at a time)'}")
    if len(info.tools) > _ACTIONS_SHOWN:
        out.say(f"    and {len(info.tools) - _ACTIONS_SHOWN:,} more; --json has them all")


def follow_plan(given: "StoreAt | None", name: str, out: Out) -> int:
    """Follow a plan to its end. Returns the exit status."""
    store = find_store(given)
    with journal_of(store) as journal, closing(register_of(store)) as register:
        submission = _meant(journal, name)
        if submission.is_over:
            out.say(f"{submission.plan_run} has ended")
        ended = follow(journal, submission, register, store, out)
        steps = [(step, "") for share in ended.shares for step in share.steps]
        result = result_from(ended, results_of(journal, ended, steps))
    for word, count in result.counts.items():
        out.say(f"  {count:>7,}  {word.replace('_', ' ')}")
    say_workers(result, out)
    out.emit(
        {
            "digest": result.plan_digest,
            "plan_run": result.plan_run,
            "counts": result.counts,
            "complete": result.is_complete,
            "by_worker": result.by_worker,
            "tasks": list(result.tasks),
            "stopped": None if ended.stopped is None else ended.stopped.detail,
        }
    )
    return 0 if result.is_complete else 1


def _meant(journal: Journal, name: str) -> Submission:
    known = (run.run_id for run in every_run(journal, Query(agent_name=UNDO_AGENT)))
    submission = read_submission(journal, the_one_meant(name, known, what="plan"))
    if submission is None:
        raise UsageError(f"plan {name} was not left to workers")
    return submission
