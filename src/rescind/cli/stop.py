"""`rescind stop`, with everything that a command line can be asked. The plain stop takes a shorter way; see `quick`."""

import itertools

import click

from rescind.cli.durations import is_duration, parse_duration
from rescind.cli.options import ACTOR_HELP, common, given_places, switches
from rescind.cli.out import Out
from rescind.cli.stopping import LEVEL_DEFAULT, stop_now

WAIT_DEFAULT = "10s"


class _Stop(click.Command):
    """A command whose `--wait` may stand before the scope: nobody should have to know that its number is optional."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for place, (word, following) in enumerate(itertools.pairwise(args)):
            if word == "--wait" and not following.startswith("-") and not is_duration(following):
                args[place] = f"--wait={WAIT_DEFAULT}"
        return super().parse_args(ctx, args)


def read_wait(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    """The time that `--wait` names, in seconds; None if it was not given."""
    try:
        return None if text is None else parse_duration(text, least_s=0.05, most_s=3600.0)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


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
@click.option(
    "--wait",
    "wait_s",
    callback=read_wait,
    is_flag=False,
    flag_value=WAIT_DEFAULT,
    metavar="[TIME]",
    help=f"Wait for the receipt: 500ms, 10s, 1m; {WAIT_DEFAULT} if no time is given.",
)
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@switches
@common
def stop(*, scope: str, level: str, reason: str, wait_s: float | None, actor: str | None, out: Out) -> int:
    """Hold back what SCOPE covers, until `rescind resume`.

    The order goes to every switch of rescind.yaml and RESCIND_URL, and to this machine's store, if there is one. When
    it is said to be durable, every guard obeys that hears of it.

    Exit status 0 if a switch has it, and the local store where there is one. With --wait each guard's acknowledgement
    is awaited, and status 1 if any process may still act.
    """
    return stop_now(scope, level=level, reason=reason, actor=actor, given=given_places(), wait_s=wait_s, out=out)
