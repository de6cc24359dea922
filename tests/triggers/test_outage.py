"""A tool that is down is told from a run that is out of order."""

import functools
from typing import Any

import pytest

from builders import a_call, a_run, at_once
from rescind.model.outcome import Completed, Outcome, Unknown
from rescind.triggers.facts import End
from rescind.triggers.outage import ACTIONS_MAX, RUNS_MAX, Cause, OutageConfig, Outages

LOST = Unknown("no reply")
GOOD = Completed()


def an_outcome(
    outages: Outages, run_id: str, outcome: Outcome, *, agent: str = "", at_s: float = 10.0, action: str = "pay"
) -> None:
    run = a_run(run_id, agent_name=agent or f"agent-of-{run_id}")
    outages.ended(End(call=a_call(action, run=run, at_s=at_s), at_s=at_s, outcome=outcome))


def judged(outcomes: dict[str, Outcome], run_id: str = "r1", **agents: str) -> Cause:
    outages = Outages()
    for name, outcome in outcomes.items():
        an_outcome(outages, name, outcome, agent=agents.get(name, ""))
    return outages.judge("pay", run_id)


def test_where_everybody_fails_the_tool_is_down() -> None:
    assert judged({"r1": LOST, "r2": LOST, "r3": LOST}) is Cause.OUTAGE
    assert judged({"r1": LOST, "r2": LOST, "r3": LOST, "r4": GOOD, "r5": GOOD}) is Cause.OUTAGE  # 60 %


def test_where_only_one_fails_it_is_that_one() -> None:
    assert judged({"r1": LOST, "r2": GOOD, "r3": GOOD}) is Cause.ROGUE


def test_where_few_have_called_or_they_are_of_two_minds_nobody_can_tell() -> None:
    assert judged({"r1": LOST, "r2": GOOD}) is Cause.UNCLEAR
    assert judged({"r1": LOST, "r2": LOST, "r3": GOOD, "r4": GOOD}) is Cause.UNCLEAR  # 50 %, and 1 of 3 others


def test_an_agent_that_fails_in_all_its_runs_is_no_outage_while_others_succeed() -> None:
    outcomes: dict[str, Outcome] = {"r1": LOST, "r2": LOST, "r3": LOST, "r4": LOST, "r5": GOOD, "r6": GOOD}
    assert judged(outcomes, r1="bad", r2="bad", r3="bad", r4="bad") is Cause.ROGUE


def test_a_run_that_has_not_failed_is_not_judged() -> None:
    assert judged({"r1": GOOD, "r2": LOST, "r3": LOST}) is Cause.UNCLEAR
    assert judged({"r1": LOST, "r2": LOST, "r3": LOST}, run_id="r9") is Cause.UNCLEAR
    assert Outages().judge("pay", "r1") is Cause.UNCLEAR


def test_only_the_latest_outcome_of_each_run_counts() -> None:
    outages = Outages()
    for run_id in ("r1", "r2", "r3"):
        an_outcome(outages, run_id, LOST, at_s=1)
    for run_id in ("r2", "r3"):
        an_outcome(outages, run_id, GOOD, at_s=2)
    assert outages.judge("pay", "r1") is Cause.ROGUE
    an_outcome(outages, "r2", LOST, at_s=1.5)  # a late fact changes nothing
    assert outages.judge("pay", "r1") is Cause.ROGUE


def test_old_outcomes_do_not_count() -> None:
    outages = Outages()
    an_outcome(outages, "r2", GOOD, at_s=1)
    an_outcome(outages, "r3", GOOD, at_s=1)
    for run_id in ("r1", "r4", "r5"):
        an_outcome(outages, run_id, LOST, at_s=100)
    assert outages.judge("pay", "r1") is Cause.OUTAGE
    assert outages.judge("pay", "r1", at_s=161) is Cause.UNCLEAR


def test_actions_are_judged_apart() -> None:
    outages = Outages()
    for run_id in ("r1", "r2", "r3"):
        an_outcome(outages, run_id, LOST)
        an_outcome(outages, run_id, GOOD, action="mail")
    an_outcome(outages, "r1", LOST, action="mail")
    assert outages.judge("pay", "r1") is Cause.OUTAGE
    assert outages.judge("mail", "r1") is Cause.ROGUE


def test_what_is_remembered_is_bounded() -> None:
    outages = Outages()
    for number in range(RUNS_MAX + 50):
        an_outcome(outages, f"r{number}", LOST)
    for number in range(ACTIONS_MAX + 50):
        an_outcome(outages, "r1", GOOD, action=f"action-{number}")
    actions = getattr(outages, "_actions")  # noqa: B009  # a look inside: that is the question
    assert len(actions) == ACTIONS_MAX
    assert max(len(runs) for runs in actions.values()) <= RUNS_MAX


def test_threads_may_tell_and_ask_at_once() -> None:
    outages, causes = Outages(), []

    def work(name: str) -> None:
        for number in range(200):
            an_outcome(outages, f"{name}-{number % 7}", LOST)
            causes.append(outages.judge("pay", f"{name}-{number % 7}"))

    at_once(functools.partial(work, f"thread-{number}") for number in range(6))
    assert causes.count(Cause.OUTAGE) > 1_000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"runs_min": 1}, "runs_min is 1; it must be from 2 to 256"),
        ({"share_pct": 50}, "share_pct is 50; it must be more than 50"),
        ({"share_pct": 101}, "share_pct is 101"),
        ({"window_seconds": 0}, "window_seconds is 0; it must be from 1 to 86400"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_with_its_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OutageConfig(**fields)
