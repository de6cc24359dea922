"""`rescind stop`, with everything that a command line can be asked. The plain stop takes a shorter way; see `quick`."""

import itertools

import click

from rescind.cli.options import ACTOR_HELP, common, given_store
from rescind.cli.out import Out
from rescind.cli.stopping import LEVEL_DEFAULT, stop_now

WAIT_DEFAULT_S = 10.0


class _Stop(click.Command):
    """A command whose `--wait` may stand before the scope: nobody should have to know that its number is optional."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for place, (word, following) in enumerate(itertools.pairwise(args)):
            if word == "--wait" and not following.startswith("-") and not _is_number(following):
                args[place] = f"--wait={WAIT_DEFAULT_S}"
        return super().parse_args(ctx, args)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


@click.command(
    cls=_Stop,
    epilog="""\b
SCOPE is `everything`, or one or more of these, joined by `+`:
  agent:NAME[@VERSION]  tenant:NAME  workflow:NAME  action:NAME
  run:ID                tree:ID (a run and its descendants)

\b
Examples:
  rescind stop everything
  rescind stop agent:billing-agent@2.4.0 --level read-only --wait
  rescind stop tenant:acme+agent:billing-agent --reason "wrong customers"
""",
)
@click.argument("scope")
@click.option(
    "--level",
    default=LEVEL_DEFAULT,
    show_default=True,
    metavar="LEVEL",
    help="supervised, read-only, paused or halted.",
)
@click.option("--reason", default="", metavar="TEXT", help="Why; everybody who is refused will be told.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0.05, max=3600.0),
    is_flag=False,
    flag_value=WAIT_DEFAULT_S,
    metavar="[SECONDS]",
    help=f"Wait for the receipt; {WAIT_DEFAULT_S:g} s, if no number is given.",
)
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@common
def stop(*, scope: str, level: str, reason: str, wait_s: float | None, actor: str | None, out: Out) -> int:
    """Hold back what SCOPE covers, on this machine, until `rescind resume`.

    When this returns, the order is on disk, and every guard obeys it with its next call. With --wait, each guard's
    acknowledgement is awaited; exit status 1 if any process stays unknown.
    """
    return stop_now(scope, level=level, reason=reason, actor=actor, store=given_store(), wait_s=wait_s, out=out)
