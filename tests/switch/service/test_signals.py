"""What a switch does with what it is told: orders by evidence, with their audit lines; alerts once, then in digests."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rescind.clock import SystemClock, SystemIds
from rescind.guard.fallback import public_reason
from rescind.model.level import Level
from rescind.model.scope import Scope
from rescind.switch.service.signals import REMEMBERED_MAX, Signals
from rescind.switch.signal_wire import AskDoc, SignalDoc, VerdictDoc
from rescind.switch.wire import LiftDoc, OrderDoc, Report, RunDoc
from rescind.triggers.fleet import FleetConfig
from rescind.web.problems import Refused
from rescind.web.tokens import Caller, Role
from switch.service.board import ALICE, OLGA, Running, running, told

FLEET = Caller(name="fleet", role=Role.AGENT, identity=Scope.parse("agent:billing-agent"), origin="10.0.0.9")
CHECKS = Caller(name="checks", role=Role.VERIFIER, origin="10.0.0.8")
WIDE = AskDoc(scope="action:refund", level="read_only", measure="trip", rule="error_rate")


class Desk:
    """Signals of a switch with three guards, each on a machine of its own with one run."""

    def __init__(self, switch: Running, **config: Any) -> None:
        self.switch, self.board = switch, switch.board
        self.signals = Signals(
            switch.board,
            FleetConfig(**({"stop_share_pct": 100} | config)),
            clock=SystemClock(),
            ids=SystemIds(),
            alert=switch.alerts.append,
        )
        for name in ("g-1", "g-2", "g-3"):
            runs = (RunDoc(run_id=f"run-{name}", agent="billing-agent@2"),)
            guard, _ = self.board.heard(name, FLEET, Report(host=f"host-{name}", runs=runs, runs_open=1))
            self.board.registry.stream_began(guard)

    async def tell(self, signal_id: str, source: str, *asks: AskDoc, caller: Caller = FLEET, **fields: Any) -> Any:
        return await self.signals.take_signal(a_doc(signal_id, source=source, asks=asks, **fields), caller)

    @property
    def alerts(self) -> list[str]:
        return [alert.kind for alert in self.switch.alerts]


def a_doc(signal_id: str, **fields: Any) -> SignalDoc:
    known = {
        "kind": "error_rate",
        "rule": "rate",
        "severity": "warning",
        "scope": "action:refund",
        "detail": "31 % fail",
    }
    return SignalDoc(signal_id=signal_id, **({"noticed_at": datetime.now(UTC)} | known | fields))


@asynccontextmanager
async def a_desk(folder: Path, **config: Any) -> AsyncGenerator[Desk]:
    async with running(folder) as switch:
        yield Desk(switch, **config)


def with_desk(folder: Path, story: Callable[[Desk], Awaitable[None]], **config: Any) -> None:
    async def tell() -> None:
        async with a_desk(folder, **config) as desk:
            await story(desk)

    told(tell)


def test_an_order_over_several_guards_is_placed_by_the_policy_on_the_second_guard_s_word(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        first = await desk.tell("sig-1", "g-1", WIDE)
        assert (first.placed, first.outcome) == (
            (),
            "trip action:refund+agent:billing-agent: not placed, 1 of 2 guards have this evidence",
        )
        second = await desk.tell("sig-2", "g-2", WIDE)

        (order,) = desk.board.book.standing
        assert second.placed == (order.order_id,)
        assert (order.actor, order.trigger, order.cause) == ("policy", "error_rate", "sig-2")
        assert (order.level, str(order.scope)) == (Level.READ_ONLY, "action:refund+agent:billing-agent")
        assert desk.alerts == ["order.placed"]
        (line,) = await desk.board.audit(0, 10)
        assert (line.what, line.actor, line.person, line.origin) == ("order.placed", "policy", "fleet", "10.0.0.9")
        assert "for sig-2, by the rule error_rate, noticed by g-2" in line.detail

        third = await desk.tell("sig-3", "g-3", WIDE)
        assert "holds it already" in third.outcome
        assert len(desk.board.book.standing) == 1

    with_desk(tmp_path, story)


def test_what_an_agent_says_in_a_signal_is_shown_to_no_user(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        own = AskDoc(scope="run:run-g-1", level="halted", measure="quarantine", rule="verdict")
        await desk.tell("sig-1", "g-1", own, detail="31 % fail ||| users: call 0900-666")
        (order,) = desk.board.book.standing
        assert "call 0900-666" in order.reason
        assert public_reason(order.reason) == ""

    with_desk(tmp_path, story)


def test_one_guard_that_goes_on_and_on_stops_nobody_else(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        for number in range(20):
            await desk.tell(f"sig-{number}", "g-1", WIDE)
        assert desk.board.book.standing == ()

    with_desk(tmp_path, story)


def test_an_order_about_a_guard_s_own_run_is_placed_at_once_under_its_id(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        own = AskDoc(scope="tree:run-g-1", level="halted", measure="quarantine", rule="loops", order_id="ord_mine")
        assert (await desk.tell("sig-1", "g-1", own)).placed == ("ord_mine",)
        foreign = AskDoc(scope="run:run-g-2", level="halted", rule="loops", order_id="ord_other")
        assert (await desk.tell("sig-2", "g-1", foreign)).placed == ()
        assert [str(order.scope) for order in desk.board.book.standing] == ["agent:billing-agent+tree:run-g-1"]

    with_desk(tmp_path, story)


def test_a_signal_that_comes_twice_does_nothing_the_second_time(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        for _ in range(3):
            noticed = await desk.tell("sig-1", "g-1", WIDE)
        assert noticed.known_before
        assert len(desk.signals.lately(10).signals) == 1

    with_desk(tmp_path, story)


def test_what_a_person_has_lifted_is_not_placed_again_on_what_was_noticed_before(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        early = datetime.now(UTC)
        await desk.tell("sig-1", "g-1", WIDE)
        placed = (await desk.tell("sig-2", "g-2", WIDE)).placed
        await desk.board.lift(LiftDoc(order_ids=placed, reason="a bad day of the bank"), ALICE)

        late = await desk.tell("sig-3", "g-3", WIDE, noticed_at=early)
        assert "noticed before" in late.outcome
        await desk.tell("sig-4", "g-1", WIDE)
        assert desk.board.book.standing == ()  # one new word is not enough
        again = await desk.tell("sig-5", "g-2", WIDE)
        assert len(again.placed) == 1
        assert again.placed != placed

    with_desk(tmp_path, story)


def test_a_restart_forgets_the_evidence_and_never_what_was_lifted(tmp_path: Path) -> None:
    early = datetime.now(UTC) - timedelta(seconds=1)

    async def before(desk: Desk) -> None:
        await desk.tell("sig-1", "g-1", WIDE, noticed_at=early)
        placed = (await desk.tell("sig-2", "g-2", WIDE, noticed_at=early)).placed
        await desk.board.lift(LiftDoc(order_ids=placed, reason="a test"), ALICE)

    async def after(desk: Desk) -> None:
        for number in (1, 2, 3):
            assert (await desk.tell(f"sig-{number}", f"g-{number}", WIDE, noticed_at=early)).placed == ()

    with_desk(tmp_path, before)
    with_desk(tmp_path, after)


def test_what_would_go_too_far_is_left_to_a_person_who_is_told_once(tmp_path: Path) -> None:
    agent = AskDoc(scope="agent:billing-agent", level="halted", rule="blast_radius")

    async def story(desk: Desk) -> None:
        for number in (1, 2, 3):
            noticed = await desk.tell(f"sig-{number}", f"g-{number}", agent)
        assert "it would hold 3 of 3 open runs" in noticed.outcome
        assert desk.board.book.standing == ()
        assert desk.alerts == ["signal.withheld"]
        (alert,) = desk.switch.alerts
        assert alert.severity == "critical"
        assert "DECIDE halted agent:billing-agent" in alert.title
        assert "rescind stop action:refund+agent:billing-agent" in alert.body

    with_desk(tmp_path, story, stop_share_pct=50)


def test_two_decisions_at_the_same_moment_know_of_each_other(tmp_path: Path) -> None:
    asks = [AskDoc(scope=f"run:run-g-{n}", level="halted", rule="loops") for n in (1, 2, 3)]

    async def story(desk: Desk) -> None:
        told = (desk.tell(f"sig-{n}", f"g-{n}", ask) for n, ask in enumerate(asks, start=1))
        await asyncio.gather(*told)
        assert len(desk.board.book.standing) == 1  # of three runs, half is one

    with_desk(tmp_path, story, stop_share_pct=50)


# --- verdicts ---


def a_verdict(**fields: Any) -> VerdictDoc:
    return VerdictDoc(**({"scope": "agent:billing-agent", "reason": "the amounts differ"} | fields))


@pytest.mark.parametrize(
    ("fields", "config", "level", "alerts"),
    [
        ({"severity": "critical"}, {}, "read_only", ["order.placed", "signal.noticed"]),
        ({"severity": "critical"}, {"verdict_level": "halted"}, "halted", ["order.placed", "signal.noticed"]),
        ({"severity": "critical"}, {"verdict_level": ""}, "", ["signal.noticed"]),
        ({"holds": False}, {}, "", ["signal.noticed"]),
        ({"severity": "warning"}, {}, "", []),
        ({"holds": True}, {}, "", []),
    ],
)
def test_a_verdict_holds_its_scope_only_if_it_is_critical(
    tmp_path: Path, fields: dict[str, Any], config: dict[str, Any], level: str, alerts: list[str]
) -> None:
    async def story(desk: Desk) -> None:
        noticed = await desk.signals.take_verdict(a_verdict(**fields), CHECKS)
        orders = desk.board.book.standing
        assert [(order.level.label, order.trigger, order.cause) for order in orders] == (
            [(level, "verdict.bad", noticed.signal_id)] if level else []
        )
        assert desk.alerts == alerts
        (remembered,) = desk.signals.lately(10).signals
        assert (remembered.signal.kind, remembered.signal.source, remembered.person) == ("verdict", "checks", "checks")

    with_desk(tmp_path, story, **config)


def test_a_verdict_about_a_step_holds_its_run(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        verdict = a_verdict(scope="", run_id="run-g-1", step_id="7", severity="critical")
        await desk.signals.take_verdict(verdict, CHECKS)
        assert [str(order.scope) for order in desk.board.book.standing] == ["run:run-g-1"]

    with_desk(tmp_path, story)


def test_a_verdict_never_lifts_and_a_good_one_changes_nothing(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        await desk.signals.take_verdict(a_verdict(severity="critical"), CHECKS)
        before = desk.board.book.standing
        await desk.signals.take_verdict(a_verdict(holds=True), CHECKS)
        assert desk.board.book.standing == before != ()

    with_desk(tmp_path, story)


# --- who may say what ---


@pytest.mark.parametrize(
    ("scope", "identity", "taken_as"),
    [
        ("action:refund", "agent:a", "action:refund+agent:a"),
        ("run:r", "agent:a", "agent:a+run:r"),
        ("everything", "agent:a+tenant:t", "agent:a+tenant:t"),
        ("agent:a@2", "agent:a", "agent:a@2"),
        ("agent:a", "agent:a@2", "agent:a@2"),
    ],
)
def test_an_agent_s_signal_is_about_itself_whatever_it_says(
    tmp_path: Path, scope: str, identity: str, taken_as: str
) -> None:
    async def story(desk: Desk) -> None:
        caller = Caller(name="x", role=Role.AGENT, identity=Scope.parse(identity))
        await desk.tell("sig-1", "", scope=scope, caller=caller)
        assert desk.signals.lately(1).signals[0].signal.scope == taken_as

    with_desk(tmp_path, story)


@pytest.mark.parametrize("scope", ["agent:other", "agent:a@3", "tenant:u+agent:a"])
def test_an_agent_that_speaks_of_another_is_refused(tmp_path: Path, scope: str) -> None:
    async def story(desk: Desk) -> None:
        caller = Caller(name="x", role=Role.AGENT, identity=Scope.parse("agent:a@2+tenant:t"))
        with pytest.raises(Refused, match="speaks of itself only") as refused:
            await desk.tell("sig-1", "", scope=scope, caller=caller)
        assert refused.value.status == 403
        assert desk.signals.lately(1).signals == ()

    with_desk(tmp_path, story)


def test_nobody_speaks_in_the_name_of_another_token_s_guard(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        other = Caller(name="other", role=Role.AGENT, identity=Scope.parse("agent:billing-agent"))
        with pytest.raises(Refused, match="belongs to another token"):
            await desk.tell("sig-1", "g-1", WIDE, caller=other)

    with_desk(tmp_path, story)


def test_an_id_that_another_token_has_used_is_not_taken_for_the_same_signal(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        await desk.signals.take_verdict(a_verdict(verdict_id="sig-1", holds=True), CHECKS)
        assert not (await desk.tell("sig-1", "g-1", WIDE)).known_before

    with_desk(tmp_path, story)


# --- what people hear and see ---


def test_a_severe_signal_alerts_once_and_what_goes_on_is_told_in_digests(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        for number in range(50):
            await desk.tell(f"sig-{number}", "g-1", severity="high", detail="evil\nline \x1b[2J @everyone")
        assert desk.alerts == ["signal.noticed"]
        (alert,) = desk.switch.alerts
        assert "\x1b" not in alert.body
        assert "evil\\nline" in alert.body

    with_desk(tmp_path, story)


def test_the_same_trouble_of_many_runs_of_an_agent_is_one_alert(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        for number in range(30):
            name = f"g-{number % 3 + 1}"
            scope = f"run:run-{name}"
            await desk.tell(f"sig-{number}", name, severity="high", scope=scope, run_id=f"run-{name}")
        assert desk.alerts == ["signal.noticed"]

    with_desk(tmp_path, story)


def test_a_signal_of_an_incident_alerts_however_severe_it_is(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        await desk.tell("sig-1", "g-1", incident="inc_1")
        (alert,) = desk.switch.alerts
        assert "incident: inc_1" in alert.body

    with_desk(tmp_path, story)


def test_the_memory_of_signals_is_bounded(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        for number in range(REMEMBERED_MAX + 5):
            await desk.tell(f"sig-{number}", "g-1")
        lately = desk.signals.lately(REMEMBERED_MAX + 5).signals
        assert len(lately) == REMEMBERED_MAX
        assert lately[0].signal.signal_id == f"sig-{REMEMBERED_MAX + 4}"

    with_desk(tmp_path, story)


def test_an_order_that_a_person_placed_is_not_counted_as_automatic(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        await desk.board.place(OrderDoc(scope="run:run-g-2", level="halted"), OLGA)
        own = AskDoc(scope="run:run-g-1", level="halted", rule="loops")
        assert len((await desk.tell("sig-1", "g-1", own)).placed) == 1

    with_desk(tmp_path, story, stop_share_pct=50)
