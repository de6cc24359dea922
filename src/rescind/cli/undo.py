"""`rescind undo`: show what would be undone, and with `--apply` do exactly that."""

import click

from rescind.cli.app import APP_VARIABLE
from rescind.cli.identity import whoami
from rescind.cli.options import ACTOR_HELP, common, given_store
from rescind.cli.out import Out
from rescind.cli.selecting import Chosen, selecting
from rescind.cli.undo_request import UndoRequest
from rescind.errors import UsageError

DIGITS_MIN = 8
"""Digits of a digest that are enough to mean it."""


def _read_within(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    """The time that `--within` names, in seconds; None if it was not given."""
    from rescind.cli.durations import parse_duration

    try:
        return None if text is None else parse_duration(text, least_s=1.0, most_s=604_800.0)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(
    epilog="""\b
Examples:
  rescind undo --trace 4bf92f35 --app shop.tools
  rescind undo --trace 4bf92f35 --app shop.tools --apply
  rescind undo --agent billing-agent@2.4.0 --since 06:00 --app shop.tools
  rescind undo --trace 4bf92f35 --app shop.tools --apply --workers
  rescind undo --run run_77 --exclude run_77/4 --app shop.tools
"""
)
@selecting
@click.option(
    "--app", envvar=APP_VARIABLE, metavar="MODULE[:GUARD]", help=f"Where your tools are declared, or {APP_VARIABLE}."
)
@click.option("--cascade", is_flag=True, help="With it, the later steps that depend on it: see `rescind impact`.")
@click.option("--apply", "apply", is_flag=True, help="Do it. See above.")
@click.option("--force", is_flag=True, help="Overwrite later changes where the action allows it. See below.")
@click.option("--plan", "shown", metavar="DIGEST", help="With --apply: only this plan, or the rest of it.")
@click.option("--stop-first", is_flag=True, help="With --apply: hold runs that may still write at read_only.")
@click.option("--yes", "-y", is_flag=True, help="With --apply: do not ask.")
@click.option(
    "--within",
    "within_s",
    callback=_read_within,
    metavar="TIME",
    help="With --apply: begin no step after so long, such as 10m; the rest is left to a later undo.",
)
@click.option("--parallel", type=click.IntRange(1, 64), metavar="N", help="Steps undone at once; 8 by default.")
@click.option("--workers/--here", default=None, help="With --apply: leave it to `rescind worker`, or do it here.")
@click.option("--no-wait", is_flag=True, help="With --workers: do not wait for its end.")
@click.option("--tree", is_flag=True, help="Show the plan by dependency.")
@click.option("--all", "every", is_flag=True, help="Show every step of a long plan.")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@click.option("--reason", default="", metavar="TEXT", help="Why; kept in the journal.")
@common
def undo(
    *,
    chosen: Chosen,
    cascade: bool,
    app: str | None,
    apply: bool,
    force: bool,
    shown: str | None,
    stop_first: bool,
    yes: bool,
    within_s: float | None,
    parallel: int | None,
    workers: bool | None,
    no_wait: bool,
    tree: bool,
    every: bool,
    actor: str | None,
    reason: str,
    out: Out,
) -> int:
    """Plan the undo of what was selected: what is restored, what is offset, what is left to a person, and why.

    Nothing is changed without --apply. With it, the plan that this selection showed you last is done, and refused if
    it has changed since. If none was shown, it is shown now: a terminal is then asked, while a script goes on and
    does it; --plan DIGEST holds a script to a plan that was seen. All conditions that are given must hold. TIME is
    like 2026-11-21T06:00:00Z, or 06:00 for today by this machine's clock.

    What somebody has changed since is left alone, and with --force it is overwritten for actions that were declared
    with on_conflict="force": only what the plan shows, only with a --reason and, where switches are configured, with
    an approver's token.

    Exit status 1 if the undo left something undone by fault; what is for a person to decide is no fault.
    """
    only_applied: dict[str, object] = {
        "--plan": shown,
        "--stop-first": stop_first,
        "--yes": yes,
        "--within": within_s,
        "--workers": workers,
    }
    refuse_without_apply(apply, only_applied)
    refuse_no_digest("--plan", shown)
    if force and not reason.strip():
        raise UsageError("--force overwrites later changes of somebody else's, which takes a reason; add --reason")
    if force and workers:
        raise UsageError("--force is done here, so that it overwrites only what was shown here; leave --workers out")
    from rescind.cli.undo_session import run_undo

    return run_undo(
        UndoRequest(
            selection=chosen.selection(to="undo", cascade=cascade),
            as_typed={"since": chosen.since or "", "until": chosen.until or ""},
            app=app,
            store=given_store(),
            apply=apply,
            shown=shown.lower() if shown else None,
            stop_first=stop_first,
            sure=yes,
            within_s=within_s,
            parallel=parallel,
            workers=workers,
            wait=not no_wait,
            tree=tree,
            every=every,
            actor=actor or whoami(),
            reason=reason,
            force=force,
        ),
        out,
    )


def refuse_no_digest(name: str, text: str | None) -> None:
    """Refuse what was given under this name, if it cannot be the beginning of a digest. Raises: UsageError."""
    if text is not None and (len(text) < DIGITS_MIN or not set(text.lower()) <= set("0123456789abcdef")):
        raise UsageError(f"{name} {text!r} is no digest; give {DIGITS_MIN} or more of the digits that were shown")


def refuse_without_apply(apply: bool, options: dict[str, object]) -> None:
    """Refuse options that say how to apply, without `--apply`. Raises: UsageError."""
    given = [name for name, value in options.items() if value]
    if given and not apply:
        raise UsageError(f"{' and '.join(given)} only mean something with --apply; add it, or leave them out")
