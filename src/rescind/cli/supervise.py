"""`rescind supervise -- CMD…`: any program, ended from outside when an order covers it."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from rescind.cli.options import common, given_store
from rescind.cli.out import Out, answers
from rescind.cli.supervise_words import words_of
from rescind.clock import SystemClock, SystemIds
from rescind.config import Settings, load_settings
from rescind.errors import UsageError
from rescind.guard.attributes import new_info
from rescind.guard.lineage import PARENT_VARIABLE, ancestors_of_environment, said_to_children
from rescind.guard.report import SUPERVISOR_VARIABLE
from rescind.model.level import Level
from rescind.model.step import RunInfo
from rescind.switch.supervisor.channels import Channels, Following, open_orders
from rescind.switch.supervisor.loop import Result, Supervisor, Terms
from rescind.switch.supervisor.ruling import ends_on_silence
from rescind.switch.supervisor.run import SupervisedRun
from rescind.switch.supervisor.signals import Signals
from rescind.switch.supervisor.voice import Voice

GRACE_DEFAULT_S = 5.0


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog="""\b
Examples:
  rescind supervise --agent billing-agent@2.4.0 --tenant acme -- node agent.js
  rescind supervise --agent crawler --act-at read-only \\
      --restart on-failure -- ./crawl.sh

\b
Exit status: that of CMD, or 128 and the number of the signal that ended it;
75 if an order forbids the start, 2 bad input, 1 if orders cannot be followed.
""",
)
@click.option("--agent", required=True, metavar="NAME[@VERSION]", help="Whom orders may cover.")
@click.option("--tenant", default="", metavar="NAME", help="On whose behalf it acts.")
@click.option("--workflow", default="", metavar="NAME", help="Its class of task.")
@click.option("--run-id", default="", metavar="ID", help="A run id of your choosing; a new one by default.")
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(0.0, 3600.0),
    default=GRACE_DEFAULT_S,
    show_default=True,
    metavar="SECONDS",
    help="From SIGTERM to SIGKILL.",
)
@click.option(
    "--act-at",
    default=Level.HALTED.label,
    show_default=True,
    metavar="LEVEL",
    help="The lowest level that ends it. Milder orders it cannot obey; that is reported.",
)
@click.option(
    "--on-silence",
    type=click.Choice(["kill", "as-configured", "keep"]),
    default="kill",
    show_default=True,
    help="When nobody can be heard who could stop it. As configured: switch.on_silence, measured by --act-at.",
)
@click.option(
    "--restart",
    type=click.Choice(["never", "on-failure"]),
    default="never",
    show_default=True,
    help="Whether to start it again; never after an order.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- CMD…")
@common
def supervise(
    *,
    agent: str,
    tenant: str,
    workflow: str,
    run_id: str,
    grace_s: float,
    act_at: str,
    on_silence: str,
    restart: str,
    command: tuple[str, ...],
    out: Out,
) -> int:
    """Run CMD, and end it when a standing order covers it: SIGTERM, then SIGKILL after the grace.

    Everything that CMD has started ends with it, also if this command is killed. What is said here goes to stderr, with
    --json one object as its last line; stdin and stdout belong to CMD.
    """
    level = _level(act_at)
    settings = load_settings()
    ancestors = ancestors_of_environment()
    run = new_info(
        run_id=run_id or SystemIds().new_id("run"),
        agent=agent,
        tenant=tenant,
        workflow=workflow,
        session="",
        trace_id=SystemIds().new_trace_id(),
        ancestors=ancestors,
    )
    silent_level = Level.parse(settings.switch.on_silence)
    terms = Terms(
        grace_s=grace_s,
        ends_on_silence=ends_on_silence(on_silence, on_silence=silent_level, act_at=level),
        starts_in_silence=on_silence == "keep",
        restarts=restart == "on-failure",
    )
    result = _supervise(command, run, terms, act_at=level, settings=settings, out=out)
    return result.status


def _supervise(
    command: Sequence[str], run: RunInfo, terms: Terms, *, act_at: Level, settings: Settings, out: Out
) -> Result:
    clock = SystemClock()
    following = Following(
        store=given_store() or settings.store,
        switch=settings.switch,
        token=settings.token,
        guard_id=SystemIds().new_id("guard"),
        ends_on_silence=terms.ends_on_silence,
        grace_s=terms.grace_s,
    )
    voice = Voice(sys.stderr)
    with Signals() as signals:
        orders = open_orders(following, clock)
        supervised = SupervisedRun(run, orders, act_at=act_at, clock=clock, wake=signals.wake)
        channels = Channels(following, orders, supervised, clock)
        linger = False
        try:
            channels.start()
            supervisor = Supervisor(
                command,
                _environment(run, following.guard_id),
                supervised,
                terms,
                signals=signals,
                tell=lambda told: _say(voice, words_of(told, run=run, act_at=act_at, store=following.store)),
                silence=channels.silence,
                clock=clock,
                stdout=_stdout(),
            )
            result = supervisor.supervise()
            linger = bool(result.reason.orders and result.ended)
        finally:
            channels.close(linger=linger)
    if out.json:
        voice.say(json.dumps(_as_json(result, run), ensure_ascii=True))
    voice.close()
    return result


def _environment(run: RunInfo, guard_id: str) -> dict[str, str]:
    # Guards inside name this run as their ancestor, and the supervisor as who saw them end.
    lineage = said_to_children(run.run_id, run.ancestors)
    return {**os.environ, SUPERVISOR_VARIABLE: guard_id, PARENT_VARIABLE: lineage}


def _level(text: str) -> Level:
    try:
        level = Level.parse(text)
    except ValueError as error:
        raise UsageError(f"--act-at: {error}") from error
    if level is Level.NORMAL:
        raise UsageError("--act-at normal would end the program without any order; give supervised or higher")
    return level


def _say(voice: Voice, lines: Sequence[str]) -> None:
    for line in lines:
        voice.say(line)


def _stdout() -> int:
    # With --json, descriptor 1 is made that of stderr for the whole process, to keep answers apart; the program gets
    # what this command was given.
    try:
        return answers().fileno()
    except (OSError, ValueError):
        return 1


def _as_json(result: Result, run: RunInfo) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "agent": run.agent,
        "outcome": result.outcome,
        "status": result.status,
        "order_ids": [order.order_id for order in result.reason.orders],
        "silence": result.reason.silence,
        "ended": msgspec.to_builtins(result.ended),
    }
