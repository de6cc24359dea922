"""`rescind undo`: show what would be undone, and with `--apply` do exactly that."""

import click

from rescind.cli.applying import Applying, applying
from rescind.cli.options import common
from rescind.cli.out import Out
from rescind.cli.selecting import Chosen, selecting
from rescind.cli.undo_request import UndoRequest
from rescind.errors import UsageError


@click.command(
    epilog="""\b
Examples:
  rescind undo --trace 4bf92f35 --app shop.tools
  rescind undo --trace 4bf92f35 --app shop.tools --apply
  rescind undo --agent billing-agent@2.4.0 --since 06:00 --app shop.tools
  rescind undo --trace 4bf92f35 --workers    without --app: workers plan it
  rescind undo --run run_77 --exclude run_77/4 --app shop.tools
"""
)
@selecting
@click.option("--cascade", is_flag=True, help="With it, the later steps that depend on it: see `rescind impact`.")
@click.option("--force", is_flag=True, help="Overwrite later changes where the action allows it. See below.")
@applying
@common
def undo(*, chosen: Chosen, cascade: bool, force: bool, how: Applying, out: Out) -> int:
    """Plan the undo of what was selected: what is restored, what is offset, what is left to a person, and why.

    Nothing is changed without --apply. With it, the plan that this selection showed you last is done, and refused if
    it has changed since. If none was shown, it is shown now: a terminal is then asked, while a script goes on and
    does it; --plan DIGEST holds a script to a plan that was seen. With --workers and without --app, workers that have
    the tools make the plan, too. All conditions that are given must hold. TIME is like 2026-11-21T06:00:00Z, or 06:00
    for today by this machine's clock.

    What somebody has changed since is left alone, and with --force it is overwritten for actions that were declared
    with on_conflict="force": only what the plan shows, only with a --reason and, where switches are configured, with
    an approver's token.

    Exit status 1 if the undo left something undone by fault; what is for a person to decide is no fault.
    """
    how_asked = how.fields()
    if force and not how.reason.strip():
        raise UsageError("--force overwrites later changes of somebody else's, which takes a reason; add --reason")
    from rescind.cli.undo_session import run_undo

    request = UndoRequest(
        selection=chosen.selection(to="undo", cascade=cascade),
        as_typed={"since": chosen.since or "", "until": chosen.until or ""},
        force=force,
        **how_asked,
    )
    return run_undo(request, out)
