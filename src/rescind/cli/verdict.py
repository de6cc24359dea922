"""`rescind verdict`: what a rule engine, another model or a person has found, told to switches or to the store."""

from typing import Any

import click
import msgspec

from rescind.cli.identity import whoami
from rescind.cli.judging import Judged, judge_here
from rescind.cli.options import common, given_places, switches
from rescind.cli.out import Out
from rescind.cli.places import Places, find_places
from rescind.cli.safe import safe, short
from rescind.cli.stopping import order_as_json, resume_command
from rescind.cli.stores import command_line
from rescind.cli.trouble import failed, reply_as_json, trouble_line
from rescind.clock import SystemClock, SystemIds, from_us
from rescind.errors import UsageError
from rescind.model.scope import EVERYTHING_WORD, Scope, Term, unnameable
from rescind.model.signal import Severity, Signal, SignalKind
from rescind.switch.client.asking import WITHIN_S
from rescind.switch.client.signals import post_verdict
from rescind.switch.signal_wire import FACTS_BYTES_MAX, RULE_LENGTH_MAX, RULE_WORD, VerdictDoc
from rescind.switch.wire import ID_LENGTH_MAX, TEXT_LENGTH_MAX, is_id


@click.command(
    epilog="""\b
WHAT is a scope as for `rescind stop`, such as agent:billing-agent@2.4.0,
or RUN, or RUN/STEP.

\b
Examples:
  rescind verdict run_1m7y/7 --bad --reason "the invoice has another amount"
  rescind verdict agent:billing-agent@2.4.0 --bad --severity critical \\
      --reason "12 refunds have no order" --fact sampled=20 --fact bad=12
  rescind verdict run_1m7y --good --reason "all totals agree"

What follows is the policy's business, and never gives power back. The same
--id twice is one verdict.
"""
)
@click.argument("what", metavar="WHAT")
@click.option("--bad", is_flag=True, help="It is not as it should be.")
@click.option("--good", is_flag=True, help="It is.")
@click.option("--severity", metavar="S", help="warning, high or critical; high, if --bad says no more.")
@click.option("--reason", required=True, metavar="TEXT", help="What was checked, and what was found.")
@click.option("--rule", default="", metavar="WORD", help="What was checked, in one lower-case word.")
@click.option("--fact", "facts", multiple=True, metavar="NAME=VALUE", help="Evidence; may be repeated.")
@click.option("--id", "verdict_id", default="", metavar="ID", help="To be able to say it again.")
@click.option("--source", metavar="NAME", help="Who judges, where no token says it; you by default.")
@switches
@common
def verdict(
    *,
    what: str,
    bad: bool,
    good: bool,
    severity: str | None,
    reason: str,
    rule: str,
    facts: tuple[str, ...],
    verdict_id: str,
    source: str | None,
    out: Out,
) -> int:
    """Say whether an agent, a run or a step is as it should be.

    It goes to every switch of rescind.yaml and RESCIND_URL, signed by your token, whose role may be `verifier`. Without
    a switch it goes into the journal of this machine's store, and is answered there.
    """
    if verdict_id and not is_id(verdict_id):
        raise UsageError(f"--id is of letters, digits, `_`, `-` and `.`, at most {ID_LENGTH_MAX} of them")
    if bad and good:
        raise UsageError("--bad and --good contradict each other; leave out one of them")
    is_bad = bad if bad or good else None
    signal = _signal(what, is_bad, severity, reason, rule, facts, verdict_id, source or whoami())
    places = find_places(given_places())
    if places.switches.urls:
        return _post(signal, places, out)
    assert places.store is not None, "there is a switch or a store"
    judged = judge_here(places.store, signal)
    _say_judged(signal, judged, places, out)
    out.emit(
        {
            "verdict": _as_json(signal),
            "known_before": judged.known_before,
            "orders": [order_as_json(order) for order in judged.orders],
            "incident_id": judged.incident_id or None,
            "rule": judged.rule,
            "shadow": judged.shadow,
            "responses": list(judged.responses),
        }
    )
    return 0


def _signal(
    what: str,
    is_bad: bool | None,
    severity: str | None,
    reason: str,
    rule: str,
    facts: tuple[str, ...],
    verdict_id: str,
    source: str,
) -> Signal:
    if not reason.strip() or len(reason) > TEXT_LENGTH_MAX:
        raise UsageError(f"--reason says what was checked and found, in {TEXT_LENGTH_MAX:,} characters at most")
    scope, run_id, step_id = _about(what)
    level = _severity(is_bad, severity)
    holds = level is Severity.INFO
    if rule and RULE_WORD.fullmatch(rule) is None:
        raise UsageError(
            f"--rule {rule!r} is no word of lower-case letters, digits and `_`, at most {RULE_LENGTH_MAX} of them"
        )
    clock, ids = SystemClock(), SystemIds()
    return Signal(
        signal_id=verdict_id or ids.new_id("sig"),
        kind=SignalKind.VERDICT,
        rule=rule or ("good" if holds else "bad"),
        severity=level,
        scope=scope,
        detail=reason,
        facts={**_facts(facts), "holds": holds},
        noticed_at=from_us(clock.now_us()),
        run_id=run_id,
        step_id=step_id,
        source=source,
    )


def _about(what: str) -> tuple[Scope, str, str]:
    """Scope, run and step of what was typed. A run may be named by itself: no kind of scope is without a colon."""
    if ":" in what or what.strip() == EVERYTHING_WORD:
        try:
            return Scope.parse(what), "", ""
        except ValueError as error:
            raise UsageError(f"{error}; or name a run as RUN, or a step as RUN/STEP") from error
    run_id, _, step_id = what.strip().partition("/")
    problem = unnameable(run_id) if run_id else "is empty"
    if problem:
        raise UsageError(f"cannot read {what!r}: the run {problem}; write a scope, RUN, or RUN/STEP")
    return Scope((Term("run", run_id),)), run_id, step_id


def _severity(is_bad: bool | None, text: str | None) -> Severity:
    if is_bad is None and text is None:
        raise UsageError("say --bad or --good, or how bad it is with --severity")
    if text is None:
        return Severity.HIGH if is_bad else Severity.INFO
    try:
        severity = Severity.parse(text)
    except ValueError as error:
        raise UsageError(f"--severity: {error}") from error
    if is_bad is not None and is_bad == (severity is Severity.INFO):
        said = "--bad" if is_bad else "--good"
        raise UsageError(f"{said} and --severity {severity.label} contradict each other; leave out one of them")
    return severity


def _facts(words: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--fact {word!r} is no fact; write NAME=VALUE")
        try:
            found[name.strip()] = msgspec.json.decode(value)
        except ValueError:
            found[name.strip()] = value  # a text need not be quoted
    if len(msgspec.json.encode(found)) > FACTS_BYTES_MAX:
        raise UsageError(f"facts take at most {FACTS_BYTES_MAX:,} bytes as JSON")
    return found


def _post(signal: Signal, places: Places, out: Out) -> int:
    doc = VerdictDoc(
        verdict_id=signal.signal_id,
        scope="" if signal.run_id else str(signal.scope),
        run_id=signal.run_id,
        step_id=signal.step_id,
        severity=signal.severity.label,
        reason=signal.detail,
        rule=signal.rule,
        facts=signal.facts,
        judged_at=signal.noticed_at,
    )
    replies = post_verdict(places.switches, doc, within_s=WITHIN_S, clock=SystemClock()).every()
    taken = [reply.answer for reply in replies if reply.answer is not None]
    if not taken:
        raise failed("no switch has this verdict", replies, then="Repeat the command with --id, and it counts once.")
    _say_signal(signal, out)
    for reply in replies:
        if reply.answer is None:
            out.say(f"  lacks   {trouble_line(reply)}", style="yellow")
        else:
            again = ", as before" if reply.answer.known_before else ""
            out.say(f"  {safe(reply.url)}{again}: {short(reply.answer.outcome, 300)}")
    placed = tuple(dict.fromkeys(order_id for answer in taken for order_id in answer.placed))
    for order_id in placed:
        out.say(f'  lift    rescind resume {safe(order_id)} --reason "…"')
    answers = [
        reply_as_json(reply) if reply.answer is None else {"url": reply.url, **msgspec.to_builtins(reply.answer)}
        for reply in replies
    ]
    out.emit({"verdict": _as_json(signal), "placed": list(placed), "switches": answers})
    return 0


def _say_judged(signal: Signal, judged: Judged, places: Places, out: Out) -> None:
    store = places.store
    assert store is not None
    _say_signal(signal, out)
    if judged.known_before:
        out.say("  the journal has this verdict already; nothing was done")
        return
    would = "would have: " if judged.shadow else ""
    out.say(f"  rule    {safe(judged.rule)}: {would}{safe(', '.join(judged.responses))}")
    for order in judged.orders:
        out.say(f"  order   {safe(order.what)}, {safe(order.order_id)}", style="yellow")
        out.say(f"  lift    {resume_command([order.order_id], store)}")
    if judged.incident_id:
        out.say(f"  incident  {command_line('incidents', 'show', judged.incident_id, store=store)}")


def _say_signal(signal: Signal, out: Out) -> None:
    about = f"{signal.run_id}/{signal.step_id}" if signal.step_id else signal.run_id or str(signal.scope)
    word = "good" if signal.severity is Severity.INFO else f"bad ({signal.severity.label})"
    out.say(f"{word}: {safe(about)}", style="bold")
    out.say(f"  verdict {safe(signal.signal_id)}: {short(signal.detail, 300)}")


def _as_json(signal: Signal) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(signal)
    return fields | {"severity": signal.severity.label, "scope": str(signal.scope)}
