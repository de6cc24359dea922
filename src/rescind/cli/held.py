"""`rescind held`: effects that are journaled and not done yet, and who lets them go."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from rescind.cli.identity import whoami
from rescind.cli.moments import ago, to_the_second
from rescind.cli.options import ACTOR_HELP, common, given_store
from rescind.cli.out import Out
from rescind.cli.safe import safe, short
from rescind.cli.stores import command_line, find_store, journal_of
from rescind.cli.words import count_of
from rescind.clock import SystemClock, from_us
from rescind.errors import EntryUnreadable, UsageError
from rescind.recovery.held import drop_held, find_held, list_held

if TYPE_CHECKING:
    from rescind.recovery.held_run import Held
    from rescind.recovery.release import Round

_SHOWN = 20

FAULT = 1
"""Exit status: something that is held cannot be told, or a tool failed."""


@click.group(
    epilog="""\b
Examples:
  rescind held list
  rescind held drop run_5f0c/3 --reason "wrong price"
  rescind held release --due --app shop.tools
"""
)
def held() -> None:
    """Effects that are held: journaled, and not done yet."""


@held.command("list", short_help="List what is held, and what each waits for.")
@click.option("--all", "every", is_flag=True, help="List all, however many they are.")
@common
def list_(*, every: bool, out: Out) -> int:
    """List what is held, oldest first, and what each waits for, as far as the journal knows."""
    store, now = find_store(given_store()), _now()
    gaps: list[EntryUnreadable] = []
    with journal_of(store) as journal:
        found = list_held(journal, now=now, gaps=gaps)
    for gap in gaps:
        out.note(f"what run {safe(gap.run_id)} holds cannot be told: {safe(str(gap))}", style="red")
    for each in found if every else found[:_SHOWN]:
        _say(each, out)
    if not every and len(found) > _SHOWN:
        out.say(f"and {len(found) - _SHOWN:,} more; --all shows them")
    if found:
        out.say()
        out.say(command_line("held", "drop", "RUN/STEP", "--reason", "TEXT", store=store))
        out.say(command_line("held", "release", "RUN/STEP", "--app", "MODULE", store=store))
    else:
        out.say("nothing is held" if not gaps else "nothing else is held")
    out.emit({"held": [_as_json(each) for each in found], "unreadable": [gap.sequence for gap in gaps]})
    return FAULT if gaps else 0


@held.command()
@click.argument("step", metavar="RUN/STEP")
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the journal.")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@common
def drop(*, step: str, reason: str, actor: str | None, out: Out) -> int:
    """Drop one: it is never done. The beginning of its name will do."""
    if not reason.strip():
        raise UsageError("dropping takes a reason; say it with --reason")
    with journal_of(find_store(given_store())) as journal:
        found = find_held(journal, step, now=_now())
        run_id, step_id = found.ref.run_id, found.ref.step_id
        by = actor or whoami()
        dropped = drop_held(journal, run_id, (step_id,), because=reason, actor=by, clock=SystemClock())
    if not dropped:
        raise UsageError(f"{found.ref} is held no more; somebody released or dropped it just now")
    out.say(f"{safe(found.ref)} is dropped: {safe(found.record.step.action)} will not be done")
    out.emit({"dropped": [str(found.ref)], "actor": by})
    return 0


@held.command(short_help="Do what is held, one by name or all that is due.")
@click.argument("step", metavar="[RUN/STEP]", required=False)
@click.option("--due", is_flag=True, help="Everything whose time has come, in order, once.")
@click.option("--app", metavar="MODULE[:GUARD]", help="Where the actions are declared, with their credentials.")
@common
def release(*, step: str | None, due: bool, app: str | None, out: Out) -> int:
    """Do what is held. A worker does this by itself; here a person does, whatever the step waits for.

    Never against the orders that stand. Exit status 1 if a released tool failed, or what a run holds cannot be told.
    """
    from rescind.cli.app import WHAT_APP_IS, load_guard
    from rescind.recovery.release import Round, release_due, release_now

    if due == (step is not None):
        raise UsageError("say which one to release, or --due for all whose time has come")
    if app is None:
        raise UsageError(f"releasing runs the tools of your application; name it with --app. {WHAT_APP_IS}")
    guard = load_guard(app)
    try:
        if step is None:
            done = release_due(guard)
        else:
            found = find_held(guard.journal, step, now=_now())
            done = Round(released=((found.ref, release_now(guard, found.ref)),))
    finally:
        guard.close()
    _say_round(done, out)
    out.emit(msgspec.to_builtins(done))
    return FAULT if done.unread or any(how != "done" for _, how in done.released) else 0


def _say_round(done: "Round", out: Out) -> None:
    for ref, how in done.released:
        out.say(f"{safe(ref)}  released: {safe(how)}", style="green" if how == "done" else "red")
    for ref, why in done.dropped:
        out.say(f"{safe(ref)}  dropped: {safe(why)}", style="yellow")
    if done.waiting:
        out.say(f"{count_of(len(done.waiting), 'effect')} still held:")
    for ref, why in done.waiting[:_SHOWN]:
        out.say(f"  {safe(ref)}  {safe(why)}")
    for run_id, why in done.unread:
        out.note(f"what run {safe(run_id)} holds is neither released nor dropped: {safe(why)}", style="red")
    if not (done.released or done.dropped or done.waiting or done.unread):
        out.say("nothing is held")


def _say(held: "Held", out: Out) -> None:
    step = held.record.step
    target = f" on {safe(step.target)}" if step.target else ""
    out.say(f"{safe(held.ref)}  {safe(step.action)}{target}", style="bold")
    until = "once its run has ended" if held.until is None else f"after {to_the_second(held.until)}"
    out.say(f"  held for {ago(held.record.intended_at)}, to be done {until}; its run: {held.run_end.value}")
    arguments = ", ".join(f"{name}={short(value, 40)}" for name, value in step.arguments.items())
    if arguments:
        out.say(f"  {safe(arguments)}", style="dim")


def _as_json(held: "Held") -> dict[str, Any]:
    return {
        "step": str(held.ref),
        "run_end": held.run_end.value,
        "until": held.until,
        "record": msgspec.to_builtins(held.record),
    }


def _now() -> datetime:
    return from_us(SystemClock().now_us())
