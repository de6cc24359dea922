"""Signals that arrive twice, late and in any order: the same orders at a switch and the same incidents, over seeds."""

import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from builders import NOON
from rescind.clock import SystemIds
from rescind.containment.incident import close, incident_of, list_incidents, open_or_join
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Journal
from rescind.journal.sqlite import SqliteJournal
from rescind.model.order import Order
from rescind.model.scope import Scope
from rescind.model.signal import Severity, Signal, SignalKind
from rescind.switch.service.signals import Signals
from rescind.switch.signal_wire import AskDoc, SignalDoc
from rescind.switch.wire import LiftDoc, Report, RunDoc
from rescind.testing import ManualClock
from rescind.triggers.fleet import FleetConfig
from rescind.web.tokens import Caller, Role
from switch.service.board import ALICE, Running, running, told

QUICK, SLOW = range(20), range(20, 60)

# --- a switch ---

GUARDS = ("g-1", "g-2", "g-3", "g-4")
FLEET = Caller(name="fleet", role=Role.AGENT, identity=Scope(), origin="10.0.0.9")
WIDE = (
    ("action:refund", "read_only", "trip", "error_rate"),
    ("agent:billing-agent", "paused", "level", "blast_radius"),
    ("tenant:acme", "supervised", "level", "policy_violation"),
)


def order_of(order: Order) -> tuple[str, str, str]:
    """What makes two orders the same to those that they hold."""
    return str(order.scope), order.what, order.trigger


class Desk:
    """A switch with four guards, each on a machine of its own with one run; its evidence is judged by a clock of ours.

    What a person does is timed by the same clock.
    """

    def __init__(self, switch: Running, clock: ManualClock) -> None:
        self.board, self.clock = switch.board, clock
        config = FleetConfig(evidence_guards=2, stop_share_pct=100)
        self.signals = Signals(switch.board, config, clock=clock, ids=SystemIds(), alert=switch.alerts.append)
        for name in GUARDS:
            runs = (RunDoc(run_id=f"run-{name}", agent="billing-agent@2", tenant="acme"),)
            guard, _ = self.board.heard(name, FLEET, Report(host=f"host-{name}", runs=runs, runs_open=1))
            self.board.registry.stream_began(guard)

    async def tell(self, docs: list[SignalDoc]) -> None:
        """Each of them arrives."""
        for doc in docs:
            await self.signals.take_signal(doc, FLEET)

    @property
    def orders(self) -> set[tuple[str, str, str]]:
        """What stands, whatever its ids are."""
        standing = self.board.book.standing
        orders = {order_of(order) for order in standing}
        assert len(orders) == len(standing), "the same order stands twice"
        return orders


def some_signals(chance: random.Random, now: datetime, prefix: str = "") -> list[SignalDoc]:
    """What four guards have noticed within the last minute, oldest first; some of it is about a run of their own."""
    docs = [
        a_doc(f"{prefix}sig-{number}", chance.choice(GUARDS), now - timedelta(seconds=chance.uniform(1, 60)), chance)
        for number in range(chance.randrange(4, 12))
    ]
    return sorted(docs, key=lambda doc: doc.noticed_at)


def a_doc(signal_id: str, source: str, noticed_at: datetime, chance: random.Random) -> SignalDoc:
    if chance.random() < 0.3:
        asks = [AskDoc(scope=f"run:run-{source}", level="read_only", rule="loops", order_id=f"ord_{signal_id}")]
    else:
        scope, level, measure, rule = chance.choice(WIDE)
        asks = [AskDoc(scope=scope, level=level, measure=measure, rule=rule)]
    return SignalDoc(
        signal_id=signal_id,
        kind="error_rate",
        rule="rate",
        severity="warning",
        scope="action:refund",
        detail="31 % fail",
        source=source,
        noticed_at=noticed_at,
        asks=tuple(asks),
    )


def twice_and_in_any_order(chance: random.Random, docs: list[Any]) -> list[Any]:
    """All of them, many twice."""
    arriving = docs + [doc for doc in docs if chance.random() < 0.7]
    chance.shuffle(arriving)
    return arriving


def at_a_desk(folder: Path, story: Callable[[Desk], Awaitable[None]]) -> None:
    folder.mkdir()

    async def tell() -> None:
        # The switch's own clock is the machine's; what guards have noticed is a little before that.
        async with running(folder) as switch:
            clock = ManualClock(datetime.now(tz=NOON.tzinfo))
            await story(Desk(switch, clock))

    told(tell)


def check_switch(seed: int, folder: Path) -> None:
    chance = random.Random(seed)
    now = datetime.now(tz=NOON.tzinfo)
    docs = some_signals(chance, now)
    found: list[set[tuple[str, str, str]]] = []
    wide_ids: list[set[str]] = []

    async def in_time(desk: Desk) -> None:
        await desk.tell(docs)
        found.append(desk.orders)
        wide_ids.append({order.order_id for order in desk.board.book.standing if order.order_id.startswith("ord_p")})

    async def twice_and_late(desk: Desk) -> None:
        await desk.tell(twice_and_in_any_order(chance, docs))
        found.append(desk.orders)
        standing = desk.board.book.standing
        wide_ids.append({order.order_id for order in standing if order.order_id.startswith("ord_p")})

        for order in standing:
            await desk.board.lift(LiftDoc(order_ids=(order.order_id,), reason="looked at it"), ALICE)
        assert desk.orders == set()
        await desk.tell(twice_and_in_any_order(chance, docs))
        renamed = [SignalDoc(**{**_fields(doc), "signal_id": f"late-{doc.signal_id}"}) for doc in docs]
        await desk.tell(twice_and_in_any_order(chance, renamed))  # the same evidence in another's words
        lifted = {str(order.scope) for order in standing}
        assert not [order for order in desk.orders if order[0] in lifted], "evidence from before the lift"

        desk.clock.advance(900)  # and what is noticed from now on counts
        fresh = some_signals(chance, desk.clock.now(), "fresh-")
        after = [SignalDoc(**{**_fields(doc), "noticed_at": desk.clock.now()}) for doc in fresh]
        await desk.tell(after)
        alone = [order for order in desk.orders if order[0].startswith("run:")]
        assert len(alone) >= len({doc.source for doc in after if doc.asks[0].scope.startswith("run:")})

    at_a_desk(folder / "once", in_time)
    at_a_desk(folder / "twice", twice_and_late)
    assert found[0] == found[1]
    assert wide_ids[0] == wide_ids[1], "two switches that decide the same have one order, and not two"


def _fields(doc: SignalDoc) -> dict[str, Any]:
    return {name: getattr(doc, name) for name in doc.__struct_fields__}


@pytest.mark.parametrize("seed", QUICK)
def test_a_switch_places_the_same_orders_however_signals_arrive_and_none_again_that_was_lifted(
    seed: int, tmp_path: Path
) -> None:
    check_switch(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SLOW)
def test_a_switch_places_the_same_orders_in_many_more_worlds(seed: int, tmp_path: Path) -> None:
    check_switch(seed, tmp_path)


# --- incidents ---

CAUSES = (
    (SignalKind.BLAST_RADIUS, "records_per_run", "agent:billing-agent"),
    (SignalKind.BLAST_RADIUS, "records_per_run", "agent:mail-agent"),
    (SignalKind.ERROR_RATE, "rate", "action:refund"),
)


def noticed(chance: random.Random, number: int, at_s: float) -> Signal:
    kind, rule, scope = chance.choice(CAUSES)
    return Signal(
        signal_id=f"sig-{number}",
        kind=kind,
        rule=rule,
        severity=Severity.HIGH,
        scope=Scope.parse(scope),
        detail="too much",
        noticed_at=NOON + timedelta(seconds=at_s),
        run_id="r-1",
        source="guard-1",
    )


class Desks:
    """Incidents in one journal, with the clock of those that write there."""

    def __init__(self, journal: Journal) -> None:
        self.journal, self.clock = journal, ManualClock(NOON)

    def hear(self, signals: list[Signal]) -> None:
        """They arrive, in this order."""
        for signal in signals:
            open_or_join(self.journal, signal, clock=self.clock, guard_id="guard-1")
            self.clock.advance(0.01)

    def close_all(self) -> None:
        """A person closes what is open, one minute past noon."""
        for incident in list_incidents(self.journal):
            if incident.is_open:
                close(self.journal, incident.incident_id, actor="ann", clock=self.clock)

    def belonging(self) -> dict[str, set[str]]:
        """Which signals are in which incident."""
        found: dict[str, set[str]] = {}
        for incident in list_incidents(self.journal):
            refs = [noted.ref for noted in incident_of(self.journal, incident.incident_id).of("signal")]
            assert len(refs) == len(set(refs)), "one signal is noted twice"
            found[incident.incident_id] = set(refs)
        return found


def check_incidents(seed: int, folder: Path) -> None:
    chance = random.Random(seed)
    before = [noticed(chance, number, chance.uniform(0, 59)) for number in range(12)]
    after = [noticed(chance, 100 + number, chance.uniform(61, 120)) for number in range(8)]
    in_time = Desks(MemoryJournal())
    late = Desks(SqliteJournal(folder / "journal.db") if seed % 5 == 0 else MemoryJournal())

    for desk in (in_time, late):
        first: dict[str, Signal] = {}
        for signal in before:
            first.setdefault(signal.cause, signal)
        # Of each cause one has arrived by the close, or there would be nothing to close.
        arrived = sorted(before, key=lambda each: each.noticed_at) if desk is in_time else list(first.values())
        desk.hear(arrived)
        desk.clock.advance((NOON + timedelta(seconds=60) - desk.clock.now()).total_seconds())
        desk.close_all()
        desk.clock.advance(60)
        desk.hear(after if desk is in_time else twice_and_in_any_order(chance, [*before, *after]))

    assert late.belonging() == in_time.belonging()
    assert set().union(*late.belonging().values()) == {signal.signal_id for signal in (*before, *after)}
    late.journal.close()


@pytest.mark.parametrize("seed", QUICK)
def test_incidents_hold_the_same_signals_however_they_arrive(seed: int, tmp_path: Path) -> None:
    check_incidents(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SLOW)
def test_incidents_hold_the_same_signals_in_many_more_worlds(seed: int, tmp_path: Path) -> None:
    check_incidents(seed, tmp_path)
