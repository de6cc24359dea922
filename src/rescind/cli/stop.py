"""`rescind stop`, with everything that a command line can be asked. The plain stop takes a shorter way; see `quick`."""

import itertools

import click

from rescind.cli.durations import is_duration
from rescind.cli.options import WAIT_DEFAULT, common, given_places, placing
from rescind.cli.out import Out
from rescind.cli.stopping import LEVEL_DEFAULT, stop_now


class _Stop(click.Command):
    """A command whose `--wait` may stand before the scope: nobody should have to know that its number is optional."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for place, (word, following) in enumerate(itertools.pairwise(args)):
            if word == "--wait" and not following.startswith("-") and not is_duration(following):
                args[place] = f"--wait={WAIT_DEFAULT}"
        return super().parse_args(ctx, args)


@click.command(
    cls=_Stop,
    epilog="""\b
SCOPE is `everything`, or one or more of these, joined by `+`:
  agent:NAME[@VERSION]  tenant:NAME  workflow:NAME  action:NAME
  run:ID                tree:ID (a run and its descendants)

\b
Examples:
  rescind stop everything
  rescind stop agent:billing-agent@2.4.0 --level read-only --wait 10s
  rescind stop tenant:acme+agent:billing-agent --reason "wrong customers"
  rescind stop everything --switch https://stop-2:7443
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
@click.option(
    "--reason",
    default="",
    metavar="TEXT",
    help="Why. Who is refused is told; users see what follows `|| users:`.",
)
@placing
@common
def stop(*, scope: str, level: str, reason: str, wait_s: float | None, actor: str | None, out: Out) -> int:
    """Hold back what SCOPE covers, until `rescind resume`.

    The order goes to every switch of rescind.yaml and RESCIND_URL, and to this machine's store, if there is one. When
    it is said to be durable, every guard obeys that hears of it.

    Exit status 0 if a switch has it, and the local store where there is one. With --wait each guard's acknowledgement
    is awaited, and status 1 if any process may still act.
    """
    return stop_now(scope, level=level, reason=reason, actor=actor, given=given_places(), wait_s=wait_s, out=out)
