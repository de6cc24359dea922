"""What a switch does with requests, without HTTP: placing, lifting, merging, guards, and its own upkeep."""

import asyncio
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from builders import NOON, a_lift, an_order
from rescind.clock import SystemClock, SystemIds
from rescind.errors import OrdersUnavailable
from rescind.model.order import Consent, Lift, LiftRule, Order
from rescind.switch.service import switchboard as switchboards
from rescind.switch.service import writer as writers
from rescind.switch.service.hub import Listener
from rescind.switch.service.intake import AGENT_ORDERS_MAX
from rescind.switch.service.ledger import Ledger, Note
from rescind.switch.service.records import Record, record_of
from rescind.switch.service.switchboard import Switchboard
from rescind.switch.wire import IDS_MAX, LiftDoc, OrderDoc, Report
from rescind.web.problems import Refused
from rescind.web.tokens import Caller, Role, new_token
from switch.service.board import AGENT, ALICE, BOB, OLGA, told, until
from switch.service.board import running as run_switch


def an_ask(order_id: str = "", scope: str = "agent:x", level: str = "halted", **fields: object) -> OrderDoc:
    return OrderDoc(order_id=order_id, scope=scope, level=level, **fields)  # type: ignore[arg-type]


async def refused(work: object) -> Refused:
    with pytest.raises(Refused) as error:
        await work  # type: ignore[misc]
    return error.value


def standing(board: Switchboard) -> list[str]:
    return [order.order_id for order in board.book.standing]


# --- orders ---


def test_an_order_is_on_disk_and_on_the_streams_when_it_is_answered(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path) as switch:
            listener = Listener()
            switch.board.hub.join(listener)
            switch.board.hub.take(listener)
            placed = await switch.board.place(an_ask("ord-1", reason="why"), OLGA)
            assert b'"ord-1"' in switch.board.hub.take(listener)
            assert (placed.sequence, placed.known_before, placed.order.actor) == (1, False, "olga")
            (line,) = await switch.board.audit(0, 10)
            assert (line.what, line.subject, line.actor, line.person, line.origin, line.detail) == (
                ("order.placed", "ord-1", "olga", "olga", "10.0.0.2", "halted agent:x: why")
            )
            assert len(switch.alerts) == 1
        async with run_switch(tmp_path) as switch:
            assert standing(switch.board) == ["ord-1"]

    told(story)


def test_the_same_order_again_changes_nothing_and_another_one_with_its_id_is_a_conflict(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path) as switch:
            first = await switch.board.place(an_ask("ord-1"), OLGA)
            again = await switch.board.place(an_ask("ord-1"), ALICE)
            assert again.known_before
            assert again.order == first.order
            for other in (
                an_ask("ord-1", scope="agent:y"),
                an_ask("ord-1", level="paused"),
                an_ask("ord-1", reason="another"),
                an_ask("ord-1", placed_at=NOON),
            ):
                assert (await refused(switch.board.place(other, OLGA))).status == 409
            assert len(await switch.board.audit(0, 10)) == 1
            assert len(switch.alerts) == 1

    told(story)


def test_the_same_order_twice_at_the_same_moment_is_one_order(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path) as switch:
            answers = await asyncio.gather(*(switch.board.place(an_ask("ord-1"), OLGA) for _ in range(20)))
            assert sorted(answer.known_before for answer in answers) == [False] + [True] * 19
            assert len({answer.order for answer in answers}) == 1
            assert switch.board.sequence == 1

    told(story)


def test_of_two_orders_with_one_id_at_the_same_moment_one_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path) as switch:
            asks = [an_ask("ord-1", scope=f"agent:{name}") for name in "xyz"]
            ends = await asyncio.gather(*(switch.board.place(ask, OLGA) for ask in asks), return_exceptions=True)
            assert [getattr(end, "status", 201) for end in ends] == [201, 409, 409]
            assert standing(switch.board) == ["ord-1"]

    told(story)


def test_a_request_that_is_given_up_does_not_stop_what_it_began(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path) as switch:
            listener = Listener()
            switch.board.hub.join(listener)
            switch.board.hub.take(listener)
            with switch.hung_disk():
                placing = asyncio.create_task(switch.board.place(an_ask("ord-1"), OLGA))
                await asyncio.sleep(0.02)
                placing.cancel()
                await asyncio.gather(placing, return_exceptions=True)
                assert standing(switch.board) == []
            await until(lambda: standing(switch.board) == ["ord-1"], "the order to stand")
            assert b'"ord-1"' in switch.board.hub.take(listener)

    told(story)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "2026-11-21T12:00:00"])
def test_a_moment_that_is_none_is_refused(tmp_path: Path, moment: str) -> None:
    async def story() -> None:
        async with run_switch(tmp_path) as switch:
            ask = an_ask("ord-1", placed_at=datetime.fromisoformat(moment))
            assert (await refused(switch.board.place(ask, OLGA))).status == 400
            assert switch.board.sequence == 0

    told(story)


def test_an_agent_may_stop_itself_so_often_and_the_same_order_any_number_of_times(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path) as switch:
            for number in range(AGENT_ORDERS_MAX):
                await switch.board.place(an_ask(f"ord-{number}", scope="agent:billing-agent+run:r"), AGENT)
            more = an_ask("ord-more", scope="agent:billing-agent")
            assert (await refused(switch.board.place(more, AGENT))).status == 429
            again = an_ask("ord-0", scope="agent:billing-agent+run:r")
            assert (await switch.board.place(again, AGENT)).known_before
            await switch.board.place(an_ask("ord-olga", scope="agent:billing-agent"), OLGA)
            other = an_ask("ord-other", scope="agent:other")
            assert (await refused(switch.board.place(other, AGENT))).status == 403

    told(story)


def test_an_id_that_was_lifted_does_not_come_back_as_another_order(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path) as switch:
            # Another switch has told of a lift before it told of the order.
            lift = a_lift("ord-1")
            consent = Consent(
                lift_id=lift.lift_id,
                order_ids=lift.order_ids,
                switch_id="sw_other",
                person="alice",
                consented_at=NOON,
            )
            await switch.board.merge([record_of(lift), record_of(consent)], "sw_other")
            assert (await refused(switch.board.place(an_ask("ord-1"), OLGA))).status == 409

    told(story)


# --- lifts ---


def test_a_lift_names_what_was_seen_here_and_has_a_reason(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path) as switch:
            await switch.board.place(an_ask("ord-1"), OLGA)
            for doc, status in (
                (LiftDoc(order_ids=("ord-2",), reason="over"), 404),
                (LiftDoc(order_ids=("ord-1", "ord-2"), reason="over"), 404),
                (LiftDoc(order_ids=("ord-1",), reason=" "), 400),
                (LiftDoc(order_ids=(), reason="over"), 400),
                (LiftDoc(order_ids=("ord-1",) * (IDS_MAX + 1), reason="over"), 400),
                (LiftDoc(order_ids=("ord-1",), reason="over", lift_id="../x"), 400),
            ):
                assert (await refused(switch.board.lift(doc, ALICE))).status == status
            assert (await refused(switch.board.lift(LiftDoc(order_ids=("ord-1",), reason="o"), OLGA))).status == 403
            assert standing(switch.board) == ["ord-1"]

            lifted = await switch.board.lift(LiftDoc(order_ids=("ord-1",), reason="over", lift_id="l1"), ALICE)
            assert lifted.in_force
            assert standing(switch.board) == []
            other = LiftDoc(order_ids=("ord-1",), reason="another", lift_id="l1")
            assert (await refused(switch.board.lift(other, ALICE))).status == 409
            again = await switch.board.lift(LiftDoc(order_ids=("ord-1",), reason="late"), BOB)
            assert again.lifted_before == ("ord-1",)

    told(story)


def test_two_persons_are_two_names_and_each_consent_is_in_the_log(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path, rule=LiftRule(persons=2)) as switch:
            await switch.board.place(an_ask("ord-1"), OLGA)
            lifted = await switch.board.lift(LiftDoc(order_ids=("ord-1",), reason="over", lift_id="l1"), ALICE)
            assert (lifted.in_force, lifted.waits_for) == (False, "one more person")
            assert not (await switch.board.consent("l1", ALICE)).in_force
            assert standing(switch.board) == ["ord-1"]
            assert [each.lift.lift_id for each in switch.board.standing().waiting] == ["l1"]

            assert (await switch.board.consent("l1", BOB)).in_force
            assert standing(switch.board) == []
            lines = await switch.board.audit(0, 10)
            assert [(line.what, line.person) for line in lines] == [
                ("order.placed", "olga"),
                ("lift.placed", "alice"),
                ("consent.given", "bob"),
            ]
            assert (await refused(switch.board.consent("l2", BOB))).status == 404

    told(story)


def test_nobody_borrows_a_consent_by_giving_another_lift_the_same_id(tmp_path: Path) -> None:
    async def story() -> None:
        rule = LiftRule(persons=2)
        async with run_switch(tmp_path / "a", rule=rule) as one, run_switch(tmp_path / "b", rule=rule) as two:
            for switch in (one, two):
                await switch.board.place(an_ask("harmless", placed_at=NOON), OLGA)
                await switch.board.place(an_ask("grave", actor="olga", placed_at=NOON), OLGA)
            await one.board.lift(LiftDoc(order_ids=("harmless",), reason="over", lift_id="l1"), ALICE)
            # Bob hurries to the other switch, which has not heard of it.
            await two.board.lift(LiftDoc(order_ids=("grave",), reason="over", lift_id="l1"), BOB)
            await exchange(one.board, two.board)

            for switch in (one, two):
                assert sorted(standing(switch.board)) == ["grave", "harmless"]
                assert (await refused(switch.board.consent("l1", BOB))).status == 409

    told(story)


async def exchange(one: Switchboard, two: Switchboard) -> None:
    for giver, taker in ((one, two), (two, one)):
        records = [record for _, record in await giver.records(0, 1_000)]
        assert not (await taker.merge(records, giver.switch_id)).not_understood


def test_a_lift_at_two_switches_is_in_force_at_both_once_both_were_told(tmp_path: Path) -> None:
    async def story() -> None:
        rule = LiftRule(switches=2)
        async with run_switch(tmp_path / "a", rule=rule) as one, run_switch(tmp_path / "b", rule=rule) as two:
            await one.board.place(an_ask("ord-1"), OLGA)
            await exchange(one.board, two.board)
            doc = LiftDoc(order_ids=("ord-1",), reason="over", lift_id="l1", lifted_at=NOON)
            assert (await one.board.lift(doc, ALICE)).waits_for == "one more switch"
            await exchange(one.board, two.board)
            assert standing(two.board) == ["ord-1"], "a record that arrives is no consent of its own"

            assert (await two.board.lift(doc, ALICE)).in_force
            assert standing(one.board) == ["ord-1"]
            await exchange(one.board, two.board)
            assert standing(one.board) == standing(two.board) == []

    told(story)


def test_an_order_that_was_placed_elsewhere_at_the_same_time_survives_the_lift(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path / "a") as one, run_switch(tmp_path / "b") as two:
            await one.board.place(an_ask("ord-1"), OLGA)
            await two.board.place(an_ask("ord-2"), OLGA)
            await one.board.lift(LiftDoc(order_ids=("ord-1",), reason="over"), ALICE)
            await exchange(one.board, two.board)
            assert standing(one.board) == standing(two.board) == ["ord-2"]

    told(story)


# --- what other switches say ---


def test_what_was_merged_is_told_logged_and_merged_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path) as switch:
            woken: list[str] = []
            switch.board.on_records = lambda: woken.append("!")
            listener = Listener()
            switch.board.hub.join(listener)
            switch.board.hub.take(listener)
            record = record_of(an_order("ord-1"))
            merged = await switch.board.merge([record, record], "sw_other", "peer-b")
            again = await switch.board.merge([record], "sw_other", "peer-b")
            assert (merged.new, again.new) == (1, 0)
            assert woken == ["!"]
            assert b'"ord-1"' in switch.board.hub.take(listener)
            (line,) = await switch.board.audit(0, 10)
            assert (line.what, line.subject, line.actor, line.person, line.origin) == (
                ("record.merged", "ord-1", "ops", "peer-b", "sw_other")
            )
            assert switch.alerts == [], "the switch that was told has told people"

    told(story)


def test_the_same_records_by_two_ways_at_once_are_logged_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path) as switch:
            records = [record_of(an_order(f"ord-{number}")) for number in range(6)]
            merged = await asyncio.gather(
                switch.board.merge(records[:4], "sw_other"), switch.board.merge(records[2:], "sw_other")
            )
            assert sum(each.new for each in merged) == 6
            assert len(await switch.board.audit(0, 100)) == 6

    told(story)


def encoded(content: Order | Lift, **changes: object) -> Record:
    record = record_of(content)
    body = msgspec.json.decode(record.body) | changes
    return Record(kind=record.kind, subject=record.subject, body=msgspec.json.encode(body).decode())


@pytest.mark.parametrize(
    "bad",
    [
        Record(kind="order", subject="x", body="{"),
        Record(kind="order", subject="x", body="[" * 100_000),
        Record(kind="verdict", subject="x", body="{}"),
        encoded(an_order("x"), newer_field=1),
        encoded(an_order("x"), level="normal"),
        encoded(an_order("x"), order_id="../x"),
        encoded(an_order("x"), reason="y" * 5_000),
        encoded(an_order("x"), placed_at="0001-01-01T00:00:00+01:00"),
        encoded(a_lift("x"), order_ids=[]),
        encoded(a_lift("x"), order_ids=["a b"]),
    ],
    ids=lambda record: f"{record.kind} {record.body[:30]}",
)
def test_what_cannot_be_understood_is_named_and_keeps_no_stop_behind_it_from_arriving(
    tmp_path: Path, bad: Record
) -> None:
    async def story() -> None:
        async with run_switch(tmp_path) as switch:
            merged = await switch.board.merge([bad, record_of(an_order("ord-1"))], "sw_newer")
            assert (merged.new, len(merged.not_understood)) == (1, 1)
            assert standing(switch.board) == ["ord-1"]

    told(story)


def test_nobody_consents_on_our_behalf(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path) as switch:
            await switch.board.place(an_ask("ord-1"), OLGA)
            lift = a_lift("ord-1")
            forged = Consent(
                lift_id=lift.lift_id,
                order_ids=lift.order_ids,
                switch_id=switch.board.switch_id,
                person="mallory",
                consented_at=NOON,
            )
            await switch.board.merge([record_of(lift), record_of(forged)], "sw_other")
            assert standing(switch.board) == ["ord-1"]

    told(story)


# --- guards ---


def test_a_guard_that_says_to_have_bound_what_is_not_there_is_not_believed(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path) as switch:
            await switch.board.place(an_ask("ord-1"), OLGA)
            switch.board.heard("g1", AGENT, Report(bound=1))
            with pytest.raises(Refused) as error:
                switch.board.heard("g1", AGENT, Report(bound=2))
            assert error.value.status == 400
            await switch.board.place(an_ask("ord-2"), OLGA)
            receipt = switch.board.registry.receipt(switch.board.placement("ord-2"))
            assert [guard.state.value for guard in receipt.guards] == ["unknown"]

    told(story)


def test_of_two_orders_with_one_id_a_receipt_waits_for_both(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path) as switch:
            switch.board.heard("g1", AGENT, Report())
            await switch.board.place(an_ask("ord-1", scope="agent:x"), OLGA)
            await switch.board.merge([record_of(an_order("ord-1", "agent:billing-agent"))], "sw_other")
            switch.board.heard("g1", AGENT, Report(bound=1))
            receipt = switch.board.registry.receipt(switch.board.placement("ord-1"))
            assert [guard.state.value for guard in receipt.guards] == ["unknown"]

    told(story)


def test_a_guard_is_remembered_with_its_owner_after_any_crash_once_it_was_given_a_lease(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path, lives=True) as switch:
            guard, _ = switch.board.heard("g1", AGENT, Report(pid=7, runs_open=3))
            await switch.upkeep.kept(guard)
            (seen,) = switch.ledger.guards()
            assert (seen.guard_id, seen.owner, seen.report.pid, seen.report.runs_open) == ("g1", "billing", 7, 0)
        async with run_switch(tmp_path) as switch:
            assert list(switch.board.registry.guards) == ["g1"]
            with pytest.raises(Refused):
                switch.board.heard("g1", Caller(name="evil", role=AGENT.role, identity=AGENT.identity), Report())

    told(story)


# --- the disk ---


def test_a_disk_that_hangs_is_said_so_renews_nothing_and_people_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "HANGS_AFTER_S", 0.2)
    monkeypatch.setattr(switchboards, "ANSWER_WITHIN_S", 0.3)

    async def story() -> None:
        async with run_switch(tmp_path, lives=True) as switch:
            with switch.hung_disk():
                with pytest.raises(OrdersUnavailable, match="not known whether this will stand"):
                    await switch.board.place(an_ask("ord-1"), OLGA)
                await until(lambda: not switch.board.renews, "the lease to be renewed no more")
                await until(lambda: len(switch.alerts) == 1, "people to be told while it hangs")
                guard, heard = switch.board.heard("g1", AGENT, Report())
                assert not heard.renews
                await switch.upkeep.kept(guard)
            await until(lambda: len(switch.alerts) == 3, "people to be told that it is over")
            assert switch.board.renews
            await until(lambda: standing(switch.board) == ["ord-1"], "what was begun to be finished")

    told(story)


def test_a_full_disk_renews_nothing_however_often_it_is_read(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path, lives=True) as switch:
            await until(lambda: switch.ledger.audit_break() is None)
            await switch.writer.read(lambda: switch.ledger._connection.execute("PRAGMA query_only = ON"))
            await until(lambda: not switch.board.renews, "the disk to be found full")
            for _ in range(30):
                await switch.board.records(0, 10)
                assert not switch.board.renews
            await switch.writer.read(lambda: switch.ledger._connection.execute("PRAGMA query_only = OFF"))
            await until(lambda: switch.board.renews, "the disk to be found well")

    told(story)


def test_a_guard_that_could_not_be_written_down_is_written_down_later(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path, lives=True) as switch:
            await switch.writer.read(lambda: switch.ledger._connection.execute("PRAGMA query_only = ON"))
            guard, _ = switch.board.heard("g1", AGENT, Report(pid=7))
            await switch.upkeep.kept(guard)
            assert not guard.is_kept
            await switch.writer.read(lambda: switch.ledger._connection.execute("PRAGMA query_only = OFF"))
            await until(lambda: guard.is_kept, "the guard to be kept")

    told(story)


def test_new_and_revoked_tokens_are_noticed(tmp_path: Path) -> None:
    async def story() -> None:
        async with run_switch(tmp_path, lives=True) as switch:
            assert switch.board.caller("", "10.0.0.1").role is None
            secret, token = new_token(Role.VIEWER, "vera", "", clock=SystemClock(), ids=SystemIds())
            elsewhere = Ledger(tmp_path, clock=SystemClock())
            elsewhere.add_token(token, Note(what="token.created", subject="vera"))
            await until(lambda: not switch.board.tokens.is_empty, "the token to be known")
            assert switch.board.caller(f"Bearer {secret}", "10.0.0.1").name == "vera"
            for wrong in ("", "Bearer", f"Basic {secret}", f"Bearer {secret}x"):
                with pytest.raises(Refused):
                    switch.board.caller(wrong, "10.0.0.1")
            elsewhere.revoke_token(token.token_id, Note(what="token.revoked", subject="vera"))
            elsewhere.close()
            await until(lambda: switch.board.tokens.find(secret) is None, "the token to be worthless")
            assert not switch.board.tokens.is_empty

    told(story)
