"""`rescind policy`: what is looked for, what is done about it, and how a change of that is tried before it is made."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from rescind.cli.options import common
from rescind.cli.out import Out
from rescind.cli.policy_explain import explain
from rescind.cli.policy_trial import test
from rescind.cli.safe import safe
from rescind.cli.words import count_of

if TYPE_CHECKING:
    from rescind.triggers.policy import Policy

FILE_HELP = "FILE is a rescind.yaml or a policy by itself; without it, the nearest rescind.yaml from here upwards."


@click.group(
    epilog="""\b
Examples:
  rescind policy check
  rescind policy test new.yaml --against .rescind
  rescind policy explain run_1m7yne1b
"""
)
def policy() -> None:
    """What is looked for, and what is done then: try, show and check it."""


@policy.command(epilog=FILE_HELP, short_help="Print all that is in force, and where it comes from.")
@click.argument("file", type=click.Path(), required=False)
@common
def show(*, file: str | None, out: Out) -> int:
    """Print the whole policy in force, and where each line of it comes from.

    What is built in is printed as comments, so that what is printed is a policy that decides the same.
    """
    from rescind.cli.policy_view import as_json, lines_of
    from rescind.triggers.policy_file import policy_in_force

    found = policy_in_force(file)
    out.emit(as_json(found))
    if not out.json:
        for line in lines_of(found):
            out.say(line)
    return 0


@policy.command(epilog=FILE_HELP, short_help="Say whether a policy can be used.")
@click.argument("file", type=click.Path(), required=False)
@common
def check(*, file: str | None, out: Out) -> int:
    """Say whether a policy can be used, and what in it has no effect. Exit status 2 for one that cannot."""
    from rescind.triggers.policy_file import policy_in_force

    found = policy_in_force(file)
    remarks = remarks_on(found)
    own = [name for name, limits in found.limits.items() if limits.written or limits.config is None]
    what = f"{count_of(len(found.rules), 'rule')}, own limits for {', '.join(own) or 'nothing'}"
    out.say(f"{safe(found.source) or 'no file, so the built-in policy'}: {safe(what)}")
    for remark in remarks:
        out.tell(f"  {safe(remark)}", behind=4, style="yellow")
    out.emit({"source": found.source, "rules": len(found.rules), "limits": own, "remarks": remarks})
    return 0


def remarks_on(found: "Policy") -> list[str]:
    """What in a policy has no effect, or less than one may think; one line each, to be made safe."""
    from rescind.triggers.fleet import FleetConfig
    from rescind.triggers.policy import EVERY_SIGNAL, Mode

    remarks: list[str] = []
    if found.mode is Mode.SHADOW:
        remarks.append("mode is shadow: every rule reports, and none acts")
    for index, rule in enumerate(found.rules):
        wider = next((each for each in found.rules[:index] if each.covers(rule)), None)
        if wider is not None:
            remarks.append(f"{rule.origin}: never reached, since the rule of {wider.origin} matches all that it does")
    remarks += _limits_nobody_wrote(found)
    for name, limits in found.limits.items():
        if limits.config is None:
            remarks.append(f"{name} is off: nothing is looked for there")
    if any(rule.signal == EVERY_SIGNAL and not rule.scope.terms and rule.times == 1 for rule in found.rules):
        remarks.append("a rule for every signal of everybody stands before all built-in rules")
    if found.fleet != FleetConfig():
        remarks.append("fleet is for switches: no guard reads it, `rescind switch --policy FILE` does")
    return remarks


def _limits_nobody_wrote(found: "Policy") -> Iterator[str]:
    from rescind.model.signal import SignalKind
    from rescind.triggers.known import detector_of, rules_of
    from rescind.triggers.policy import EVERY_SIGNAL, Mode
    from rescind.triggers.response import Verb

    if found.mode is Mode.SHADOW:
        return
    for rule in found.rules:
        acts = rule.mode is Mode.ENFORCE and any(response.verb is not Verb.REPORT for response in rule.then)
        if not acts or rule.signal == EVERY_SIGNAL or "." in rule.signal:
            continue
        kind = SignalKind(rule.signal)
        limits = found.limits.get(detector_of(kind))
        if limits is None or limits.config is None:
            continue
        waiting = {each.signal for each in found.defaults if each.mode is Mode.IF_LIMITED}
        unwritten = [
            name
            for name in rules_of(kind)
            if waiting & {rule.signal, f"{rule.signal}.{name}"} and not found.is_limited(kind, name)
        ]
        if unwritten:
            yield (
                f"{rule.origin}: acts on built-in limits too, which you have not written: {', '.join(unwritten)}; "
                f"name one ({rule.signal}.{unwritten[0]}), or write `mode: if_limited`"
            )


policy.add_command(test)
policy.add_command(explain)
