"""Approvals at a switch: asked by agents for themselves, decided once by approvers, on disk, one in a federation."""

import asyncio
import sqlite3
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from builders import a_run
from rescind.clock import SystemClock, from_us
from rescind.model.entry import ApprovalAsked
from rescind.model.scope import Scope
from rescind.model.step import digest_of
from rescind.switch import database
from rescind.switch.approval_wire import ApprovalDoc, Asked, DecisionDoc, Ruled
from rescind.switch.service.approval_book import ApprovalBook
from rescind.switch.service.approvals import ASKED_MAX, Approvals
from rescind.switch.service.ledger import LEDGER, Ledger
from rescind.web.problems import Refused
from rescind.web.tokens import Caller, Role
from switch.service.board import AGENT, ALICE, BOB, OLGA, Running, running, told

OTHER = Caller(name="mailer", role=Role.AGENT, identity=Scope.parse("agent:mailer"), origin="10.0.0.4")


def now() -> datetime:
    return from_us(SystemClock().now_us())


def an_asking(approval_id: str = "approval-1", *, expires_s: float = 600, cents: int = 5, **fields: Any) -> Asked:
    arguments = {"to": "ada", "cents": cents}
    given: dict[str, Any] = {
        "approval_id": approval_id,
        "run": a_run(),
        "action": "pay",
        "arguments": arguments,
        "arguments_digest": digest_of("pay", arguments),
        "because": "payments need a look",
        "expires_at": now() + timedelta(seconds=expires_s),
    }
    return Asked(asked=ApprovalAsked(**(given | fields)), asked_at=now())


def approvals_of(switch: Running) -> Approvals:
    return Approvals(switch.board, SystemClock(), switch.alerts.append)


YES, NO = DecisionDoc(decision="approved"), DecisionDoc(decision="denied", note="not ada")


def test_what_an_agent_asks_is_on_disk_and_there_after_a_restart_with_its_decision(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as switch:
            approvals = approvals_of(switch)
            doc, known = await approvals.ask(an_asking(), AGENT)
            assert (doc.state, known) == ("waiting", False)
            (alert,) = switch.alerts
            assert alert.title == "APPROVE? pay by billing-agent@2.4.0"
            assert "rescind approvals show approval-1" in alert.body
            assert "payments need a look" in alert.body
            await approvals.decide("approval-1", NO, ALICE)
        async with running(tmp_path) as switch:
            doc = approvals_of(switch).shown("approval-1", OLGA)
            assert doc.state == "denied"
            assert doc.decided is not None
            assert (doc.decided.actor, doc.decided.note) == ("alice", "not ada")
            lines = [(line.what, line.person) for line in await switch.board.audit(0, 10)]
            assert lines == [("approval.asked", "billing"), ("approval.denied", "alice")]

    told(story)


def test_the_same_asking_is_one_and_another_under_its_id_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as switch:
            approvals, asking = approvals_of(switch), an_asking()
            await approvals.ask(asking, AGENT)
            _, known = await approvals.ask(asking, AGENT)
            assert known
            assert len(switch.alerts) == 1
            with pytest.raises(Refused, match="another call"):
                await approvals.ask(an_asking(cents=500), AGENT)
            assert len(approvals.listed(OLGA, every=True)) == 1

    told(story)


@pytest.mark.parametrize(
    ("asking", "status", "complaint"),
    [
        (an_asking(run=a_run(agent_name="mailer")), 403, "itself only"),
        (an_asking(arguments={"to": "ada", "cents": 1}), 400, "digest"),
        (an_asking(expires_s=-1), 400, "expired"),
        (an_asking(expires_s=9 * 86_400), 400, "within 7 days"),
        (an_asking("approval 1"), 400, "approval_id"),
        (an_asking(because="x" * 2_001), 400, "at most"),
        (an_asking(arguments={"to": "x" * 20_000}), 413, "a reference"),
    ],
)
def test_what_nobody_could_answer_for_is_refused(tmp_path: Path, asking: Asked, status: int, complaint: str) -> None:
    async def story() -> None:
        async with running(tmp_path) as switch:
            with pytest.raises(Refused, match=complaint) as caught:
                await approvals_of(switch).ask(asking, AGENT)
            assert caught.value.status == status

    told(story)


def test_a_decision_is_taken_once_and_the_same_again_changes_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as switch:
            approvals = approvals_of(switch)
            await approvals.ask(an_asking(), AGENT)
            said = DecisionDoc(decision="approved", decided_at=now())
            first = await approvals.decide("approval-1", said, ALICE)
            assert await approvals.decide("approval-1", said, ALICE) == first
            for decision in (NO, YES):
                with pytest.raises(Refused, match="was approved by alice already") as caught:
                    await approvals.decide("approval-1", decision, BOB)
                assert caught.value.status == 409

    told(story)


def test_of_two_who_decide_at_once_one_wins(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as switch:
            approvals = approvals_of(switch)
            await approvals.ask(an_asking(), AGENT)
            ends = await asyncio.gather(
                approvals.decide("approval-1", YES, ALICE),
                approvals.decide("approval-1", NO, BOB),
                return_exceptions=True,
            )
            assert sum(isinstance(end, Refused) for end in ends) == 1
            assert sum(isinstance(end, ApprovalDoc) for end in ends) == 1

    told(story)


@pytest.mark.parametrize("caller", [AGENT, OTHER, OLGA, Caller(name="anyone", role=None)])
def test_nobody_but_an_approver_decides(tmp_path: Path, caller: Caller) -> None:
    async def story() -> None:
        async with running(tmp_path) as switch:
            approvals = approvals_of(switch)
            await approvals.ask(an_asking(), AGENT)
            with pytest.raises(Refused) as caught:
                await approvals.decide("approval-1", YES, caller)
            assert caught.value.status in (401, 403)
            assert approvals.shown("approval-1", OLGA).state == "waiting"

    told(story)


def test_an_agent_sees_its_own_and_does_not_learn_of_others(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as switch:
            approvals = approvals_of(switch)
            await approvals.ask(an_asking(), AGENT)
            assert approvals.shown("approval-1", AGENT).state == "waiting"
            assert [doc.asked.approval_id for doc in approvals.listed(AGENT, every=False)] == ["approval-1"]
            assert approvals.listed(OTHER, every=True) == ()
            with pytest.raises(Refused) as caught:
                approvals.shown("approval-1", OTHER)
            assert caught.value.status == 404

    told(story)


def test_an_agent_that_asks_in_a_circle_is_refused_at_some_point(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as switch:
            approvals = approvals_of(switch)
            for number in range(ASKED_MAX):
                switch.board.book.approvals.take_up(an_asking(f"approval-{number}"))
            with pytest.raises(Refused) as caught:
                await approvals.ask(an_asking("approval-x"), AGENT)
            assert caught.value.status == 429

    told(story)


def test_a_federation_has_it_once_and_a_denial_counts_where_both_were_said(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path / "one") as one, running(tmp_path / "two") as two:
            first, second = approvals_of(one), approvals_of(two)
            asking = an_asking()
            await first.ask(asking, AGENT)
            await second.ask(asking, AGENT)
            await first.decide("approval-1", YES, ALICE)
            await second.decide("approval-1", NO, BOB)  # an island: it has not heard of the other
            for here, there in ((one, two), (two, one)):
                page = await there.board.records(0, 100)
                await here.board.merge((record for _, record in page), there.board.switch_id)
            for each in (first, second):
                doc = each.shown("approval-1", OLGA)
                assert doc.state == "denied"
                assert doc.decided is not None
                assert doc.decided.actor == "bob"
            # Once asked, twice decided; each switch has all three records once.
            assert [len(await each.board.records(0, 100)) for each in (one, two)] == [3, 3]

    told(story)


def test_a_decision_that_came_late_or_is_about_something_else_counts_for_nothing() -> None:
    book, asking = ApprovalBook(), an_asking()
    book.take_up(asking)

    def ruled(at: datetime, digest: str) -> Ruled:
        from rescind.model.entry import ApprovalDecided

        decided = ApprovalDecided(approval_id="approval-1", decision="approved", actor="m", arguments_digest=digest)
        return Ruled(decided=decided, decided_at=at, person="m")

    book.take_up(ruled(asking.asked.expires_at, asking.asked.arguments_digest))
    book.take_up(ruled(now(), "other"))
    assert book.ruling("approval-1") is None
    book.take_up(ruled(now(), asking.asked.arguments_digest))
    assert book.ruling("approval-1") is not None


def test_a_ledger_of_an_older_switch_keeps_its_records_and_takes_approvals(tmp_path: Path) -> None:
    path = tmp_path / "switch.db"
    schema = "".join(resources.files("rescind.switch.service").joinpath(name).read_text() for name in LEDGER.steps[:2])
    connection = sqlite3.connect(path)
    connection.executescript(
        f"{schema} PRAGMA application_id = {LEDGER.application_id}; PRAGMA user_version = 2;"
        "INSERT INTO records VALUES (7, 'd', 'order', 'ord-old', '{}', 0);"
    )
    connection.close()

    ledger = Ledger(tmp_path, clock=SystemClock())
    assert [(sequence, record.subject) for sequence, record in ledger.records(0, 10)] == [(7, "ord-old")]
    ledger.close()
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="never changed"):
        connection.execute("UPDATE records SET subject = 'x'")
    connection.execute("INSERT INTO records VALUES (8, 'e', 'approval', 'a', '{}', 0)")
    assert connection.execute("PRAGMA user_version").fetchone() == (LEDGER.format,)
    connection.close()
    assert database.identity_of(path) is not None
