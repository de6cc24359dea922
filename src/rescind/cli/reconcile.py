"""`rescind reconcile`: ask target systems about steps in doubt, and with `--apply` record what they said."""

import click

from rescind.cli.app import APP_VARIABLE
from rescind.cli.applying import refuse_no_digest, refuse_without_apply
from rescind.cli.identity import whoami
from rescind.cli.options import ACTOR_HELP, common, given_store
from rescind.cli.out import Out
from rescind.cli.selecting import Chosen, selecting


@click.command(
    epilog="""\b
Examples:
  rescind reconcile --run run_77 --app shop.tools
  rescind reconcile --run run_77 --app shop.tools --apply
  rescind reconcile --agent billing-agent --since 06:00 --app shop.tools
"""
)
@selecting
@click.option(
    "--app", envvar=APP_VARIABLE, metavar="MODULE[:GUARD]", help=f"Where your tools are declared, or {APP_VARIABLE}."
)
@click.option("--apply", "apply", is_flag=True, help="Record the answers, and open review tasks. See above.")
@click.option("--plan", "shown", metavar="DIGEST", help="With --apply: only these answers.")
@click.option("--yes", "-y", is_flag=True, help="With --apply: do not ask.")
@click.option("--parallel", type=click.IntRange(1, 64), metavar="N", help="Questions at once; 8 by default.")
@click.option("--all", "every", is_flag=True, help="Show every step.")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@click.option("--reason", default="", metavar="TEXT", help="Why; kept in the journal.")
@common
def reconcile(
    *,
    chosen: Chosen,
    app: str | None,
    apply: bool,
    shown: str | None,
    yes: bool,
    parallel: int | None,
    every: bool,
    actor: str | None,
    reason: str,
    out: Out,
) -> int:
    """Ask about steps in doubt: calls whose reply was lost, so that nobody knows whether they took effect.

    Each is asked about by the .probe of its action, which changes nothing. With --apply, what was found is recorded as
    completed, what was not as failed, and what nobody can tell goes to a person as a review task. As with undo, that
    is what was shown; if the answers are others by then, nothing is recorded.

    A repeated call with the same key is then answered with the recorded result, or made. No target is touched:
    `rescind undo` undoes what took effect.

    Exit status 1 if a step could not be asked about with the tools of --app.
    """
    refuse_without_apply(apply, {"--plan": shown, "--yes": yes})
    refuse_no_digest("--plan", shown)
    from rescind.cli.reconcile_session import ReconcileRequest, run_reconcile

    return run_reconcile(
        ReconcileRequest(
            selection=chosen.selection(to="reconcile"),
            as_typed={"since": chosen.since or "", "until": chosen.until or ""},
            app=app,
            store=given_store(),
            apply=apply,
            shown=shown.lower() if shown else None,
            stop_first=False,
            sure=yes,
            parallel=parallel,
            tree=False,
            every=every,
            actor=actor or whoami(),
            reason=reason,
        ),
        out,
    )
