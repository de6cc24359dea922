"""`rescind policy test`: what a policy would have noticed and done in a history that is on record."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from rescind.cli.log import query_of
from rescind.cli.moments import spoken, time_of_day
from rescind.cli.options import common, given_store
from rescind.cli.out import Out
from rescind.cli.safe import safe, short
from rescind.cli.stores import find_store, journal_of
from rescind.cli.words import count_of
from rescind.database.address import store_at
from rescind.errors import UsageError
from rescind.journal.pages import every_entry

if TYPE_CHECKING:
    from collections.abc import Generator

    from rescind.journal.port import Journal
    from rescind.triggers.replay import Fired, Replay

EXAMPLES_MAX = 3
"""Examples of each rule: the first ones."""

CANNOT_SEE = (
    "a journal holds writes: no reads, no refused calls, no child's work before it wrote. Rates, loops, steps and "
    "budgets that count reads would fire earlier than here",
    "it holds nothing that tools said of their own calls: lost identity, uncertainty and verdicts are taken from the "
    "signals that were recorded at the time, and costs in dollars are not seen",
    "rates are counted as if one process had made all calls; limits on data that was redacted are not seen",
    "the history went on: what came after a decision is looked at as it happened, though it would have been another",
)


class Tried(msgspec.Struct, kw_only=True):
    """What one rule would have done.

    Attributes:
        rule, origin: Which rule.
        responses: What it does, in words.
        shadow, recoverable: As in `Decision`.
        signals: How many it answered.
        runs: In how many runs.
        examples: The first ones.
    """

    rule: str
    origin: str
    responses: tuple[str, ...]
    shadow: bool
    recoverable: bool
    signals: int = 0
    runs: set[int] = msgspec.field(default_factory=set[int])  # of hashes: ids may be long, and many
    examples: "list[Fired]" = msgspec.field(default_factory=list[Any])


@click.command(short_help="Say what it would have done in a history on record.")
@click.argument("file", type=click.Path(), required=False)
@click.option(
    "--against", type=click.Path(), metavar="STORE|JOURNAL", help="The history; this folder's store by default."
)
@click.option("--agent", metavar="NAME[@VERSION]", help="Only this agent.")
@click.option("--since", metavar="TIME", help="From this moment on.")
@click.option("--until", metavar="TIME", help="Before this moment.")
@common
def test(
    *, file: str | None, against: str | None, agent: str | None, since: str | None, until: str | None, out: Out
) -> int:
    """Say what the policy in FILE would have done, when and on which run, in a history that is on record.

    FILE is a rescind.yaml or a policy by itself; without it, the policy in force. Nothing is written or stopped.
    """
    from rescind.triggers.policy_file import policy_in_force
    from rescind.triggers.recorded import facts_of
    from rescind.triggers.replay import Replay

    policy = policy_in_force(file)
    query = query_of(run_id=None, trace_id=None, agent=agent, tenant=None, target=None, since=since, until=until)
    replay, tried = Replay(policy), dict[str, Tried]()
    contained: set[int] = set()
    with _history(against) as journal:
        for fact in facts_of(every_entry(journal, query)):
            for fired in replay.feed(fact):
                _count(tried, fired)
                if not (fired.decision.shadow or fired.decision.recoverable):
                    contained.add(hash(fired.run.run_id))
    rules = sorted(tried.values(), key=lambda each: (each.shadow, each.recoverable, -len(each.runs), each.rule))
    if out.json:
        out.emit(_as_json(replay, rules, policy.source, contained))
    else:
        _say(replay, rules, policy.source, contained, out)
    return 0


@contextmanager
def _history(against: str | None) -> "Generator[Journal]":
    given = given_store() if against is None else store_at(against)
    if against is None or not Path(against).is_file():
        with journal_of(find_store(given)) as journal:
            yield journal
        return
    from rescind.journal.sqlite import SqliteJournal

    if Path(against).stat().st_size == 0:  # SQLite would make a journal of it
        raise UsageError(f"--against {against} is empty, so it is no journal; give a store's folder or its journal.db")
    found = SqliteJournal(Path(against))
    try:
        yield found
    finally:
        found.close()


def _count(tried: dict[str, Tried], fired: "Fired") -> None:
    decision = fired.decision
    known = tried.get(decision.rule_name)
    if known is None:
        known = tried[decision.rule_name] = Tried(
            rule=decision.rule_name,
            origin=decision.origin,
            responses=decision.words,
            shadow=decision.shadow,
            recoverable=decision.recoverable,
        )
    known.signals += 1
    known.runs.add(hash(fired.run.run_id))
    if len(known.examples) < EXAMPLES_MAX:
        known.examples.append(fired)


def _say(replay: "Replay", rules: list[Tried], source: str, contained: set[int], out: Out) -> None:
    noticed = _noticed(rules)
    runs, writes = count_of(replay.runs, "run"), count_of(replay.writes, "write")
    out.say(f"{safe(source) or 'the built-in policy'} over {runs} with {writes}:")
    out.say(
        f"{noticed:,} would have been noticed, {len(contained):,} contained{_share(len(contained), replay.runs)}; "
        f"{count_of(replay.refused, 'write')} refused{_share(replay.refused, replay.writes)}",
        style="bold",
    )
    for rule in rules:
        out.say()
        kind = "in shadow, would " if rule.shadow else "" if rule.recoverable else "contains: "
        done = ", ".join(rule.responses)
        out.say(
            f"{safe(rule.rule)}  {count_of(rule.signals, 'signal')} in {count_of(len(rule.runs), 'run')}", style="bold"
        )
        out.tell(f"  {kind}{safe(done)}  ({safe(rule.origin)})", behind=4)
        for fired in rule.examples:
            out.tell(f"  {_example(fired)}", behind=4, style="dim")
        if rule.signals > len(rule.examples):
            out.say(f"  and {rule.signals - len(rule.examples):,} more", style="dim")
    out.say()
    for sentence in CANNOT_SEE:
        out.tell(f"Note: {sentence}.", behind=6, note=True)


def _example(fired: "Fired") -> str:
    step = f"/{fired.signal.step_id}" if fired.signal.step_id else ""
    late = ", though refused by then" if fired.already_refused else ""
    where = f"{short(fired.run.run_id, 40)}{safe(step)} {short(fired.run.agent, 40)}"
    return f"{time_of_day(fired.at)}  {where}  {short(fired.signal.detail, 120)}{late}"


def _noticed(rules: list[Tried]) -> int:
    runs: set[int] = set()
    return len(runs.union(*(rule.runs for rule in rules)))


def _share(part: int, whole: int) -> str:
    return f" ({part * 100 / whole:.1f} %)" if part and whole else ""


def _as_json(replay: "Replay", rules: list[Tried], source: str, contained: set[int]) -> dict[str, Any]:
    return {
        "source": source,
        "runs": replay.runs,
        "writes": replay.writes,
        "runs_noticed": _noticed(rules),
        "runs_contained": len(contained),
        "writes_refused": replay.refused,
        "rules": [
            {
                "rule": rule.rule,
                "origin": rule.origin,
                "responses": list(rule.responses),
                "shadow": rule.shadow,
                "recoverable": rule.recoverable,
                "signals": rule.signals,
                "runs": len(rule.runs),
                "examples": [
                    {
                        "at": spoken(fired.at),
                        "run_id": fired.run.run_id,
                        "step_id": fired.signal.step_id,
                        "agent": fired.run.agent,
                        "action": fired.action,
                        "signal": fired.signal.name,
                        "severity": fired.signal.severity.label,
                        "scope": str(fired.signal.scope),
                        "detail": fired.signal.detail,
                        "facts": fired.signal.facts,
                        "already_refused": fired.already_refused,
                    }
                    for fired in rule.examples
                ],
            }
            for rule in rules
        ],
        "cannot_see": list(CANNOT_SEE),
    }
