"""`rescind` itself: its commands, grouped by what a person wants, each imported when it is called."""

import difflib
from importlib import import_module
from typing import Any

import click

from rescind.cli.options import DEBUG_HELP, STORE_HELP, remember_store

INTENTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Stop": {
        "stop": ("SCOPE", "hold agents back, now; --wait for the receipt"),
        "resume": ("SCOPE|ORDER|RUN", "give power back, or carry a run on; takes a reason"),
        "status": ("", "what stands, what is unfinished, who obeys"),
        "supervise": ("-- CMD…", "run an agent in any language; kill it if halted"),
    },
    "Detect": {
        "policy": ("test|explain…", "what is looked for, and what is done then"),
        "verdict": ("SCOPE|RUN[/STEP]", "say whether it is as it should be"),
        "baseline": ("learn", "learn what healthy runs look like"),
    },
    "Contain": {
        "contain": ("SCOPE --isolate…", "stop its spread: leases, fan-out, queues"),
        "breaker": ("list|force-open…", "circuit breakers: which are open, open one, reset"),
        "lease": ("RUN", "whether it may act, and under which number"),
        "queues": ("watch|list…", "hold jobs back in their queues"),
        "approvals": ("list|approve…", "what waits for a person's yes or no"),
        "held": ("list|drop|release", "effects that are journaled and not done yet"),
        "incidents": ("list|show…", "what was noticed, done about it, and is held"),
    },
    "Undo": {
        "impact": ("", "who acted on what these steps wrote"),
        "undo": ("", "show what would be undone; --apply does it"),
        "checkpoints": ("RUN", "from where a run could be carried on"),
        "plan": ("list|follow|pause…", "undos: how far they are; pause, cancel"),
        "redo": ("PLAN", "undo an undo: put back what the plan undid"),
        "reconcile": ("", "ask what became of calls that lost their reply"),
        "review": ("list|resolve…", "what only a person can decide"),
    },
    "Prove": {
        "audit": ("verify|log|orders…", "check, read and export what was recorded"),
        "demo": ("", "watch an agent go wrong, be stopped and be undone"),
    },
    "Serve": {
        "worker": ("MODULE[:GUARD]", "hold tools and credentials; carry out undos"),
        "serve": ("", "undos, review tasks and incidents over HTTP"),
        "switch": ("", "a stop service of its own; any one can stop you"),
        "token": ("create|list|revoke", "who may stop, lift and look"),
    },
}
"""Every command: where help lists it, what it takes, and what it is for."""

MODULES = {
    "stop": "rescind.cli.stop:stop",
    "resume": "rescind.cli.resume:resume",
    "status": "rescind.cli.status:status",
    "verdict": "rescind.cli.verdict:verdict",
    "policy": "rescind.cli.policy:policy",
    "contain": "rescind.cli.contain:contain",
    "breaker": "rescind.cli.breaker:breaker",
    "lease": "rescind.cli.lease:lease",
    "queues": "rescind.cli.queues:queues",
    "approvals": "rescind.cli.approvals:approvals",
    "held": "rescind.cli.held:held",
    "incidents": "rescind.cli.incidents:incidents",
    "baseline": "rescind.cli.baseline:baseline",
    "impact": "rescind.cli.impact:impact",
    "undo": "rescind.cli.undo:undo",
    "checkpoints": "rescind.cli.checkpoints:checkpoints",
    "worker": "rescind.cli.worker:worker",
    "plan": "rescind.cli.plan:plan",
    "redo": "rescind.cli.redo:redo",
    "reconcile": "rescind.cli.reconcile:reconcile",
    "review": "rescind.cli.review:review",
    "audit": "rescind.cli.audit:audit",
    "serve": "rescind.cli.serve:serve",
    "supervise": "rescind.cli.supervise:supervise",
    "switch": "rescind.cli.switch:switch",
    "token": "rescind.cli.token:token",
    "demo": "rescind.cli.demo:demo",
}

EXAMPLES = (
    'rescind stop agent:billing-agent --reason "wrong customers" --wait',
    "rescind undo --trace 4bf92f35 --app shop.tools",
    "rescind undo --trace 4bf92f35 --app shop.tools --apply",
    'rescind resume agent:billing-agent --reason "fixed in 2.4.1"',
)


_COLUMN = 26  # one for all sections, so that the purposes stand below each other


class IntentionGroup(click.Group):
    """A group that knows its commands' names without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of help."""
        return [name for commands in INTENTIONS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None if there is none of this name."""
        place = MODULES.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest known command in the message."""
        if args and args[0] not in MODULES and not args[0].startswith("-"):
            nearest = difflib.get_close_matches(args[0], MODULES, n=1)
            hint = f"Did you mean `rescind {nearest[0]}`?" if nearest else f"There are: {', '.join(MODULES)}."
            ctx.fail(f"no such command: {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Help by intention, on one screen."""
        formatter.write_text("rescind: the stop button and the undo button for AI agents.")
        formatter.write_paragraph()
        for intention, commands in INTENTIONS.items():
            formatter.write(f"{intention}:\n")  # no blanks between them, or it would not fit one screen
            with formatter.indentation():
                for name, (takes, purpose) in commands.items():
                    _write_line(formatter, f"{f'{name} {takes}':<{_COLUMN}}{purpose}")
        with formatter.section("Examples"):
            for example in EXAMPLES:
                _write_line(formatter, example)
        with formatter.section("Options"):
            for name, purpose in filter(None, (param.get_help_record(ctx) for param in self.get_params(ctx))):
                _write_line(formatter, f"{name:<{_COLUMN}}{purpose}")
        formatter.write_paragraph()
        formatter.write_text(
            "`rescind COMMAND --help` tells more. Exit status: 0 success, 1 something is not as it should be, "
            "2 bad input, and then nothing was changed."
        )


def _write_line(formatter: click.HelpFormatter, line: str) -> None:
    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def _print_version(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        from rescind import __version__

        click.echo(f"rescind {__version__}")
        ctx.exit()


@click.group(
    cls=IntentionGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--store", type=click.Path(), metavar="STORE", help=STORE_HELP, callback=remember_store, expose_value=False
)
@click.option("--debug", is_flag=True, expose_value=False, help=DEBUG_HELP)
@click.option(
    "-V", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Say the version."
)
def root() -> None:
    """The stop button and the undo button for AI agents."""
