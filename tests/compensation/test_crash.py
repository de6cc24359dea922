"""Dying before and after every request of an undo, and going on in a new process.

The process dies by an exception that nothing catches; from then on, nothing of it reaches the world or the journal.
What stands in the journal then is all the next process knows.
"""

import random
from collections import Counter
from typing import Any

import pytest

from compensation.dying import Died, Fuse, FusedJournal
from compensation.undo_world import Charging, Rows, RowSetting, Shop, nothing_appended, row_of
from rescind.compensation.planning.selection import read_steps
from rescind.errors import Conflict, Transient
from rescind.journal.memory import MemoryJournal
from rescind.model.action import IN_DOUBT_AFTER, Action, EffectClass, OnConflict
from rescind.model.entry import CompensationIntended, Disposition, Overwrites, StepRef
from rescind.model.history import StepRecord
from rescind.model.outcome import Failed, Unknown
from rescind.model.step import Snapshot
from rescind.recovery.review import list_tasks

LOST = Unknown("lost reply")
NEVER = object()
RUNS = ("run-1", "run-2", "run-3")


class FusedSetting(RowSetting):
    """Its handlers die, and now and then they fail."""

    def __init__(self, rows: Rows, fuse: Fuse, chance: random.Random, policy: OnConflict) -> None:
        super().__init__(rows, Action(name="row.set", effect_class=EffectClass.REVERSIBLE, on_conflict=policy))
        self._fuse, self._chance = fuse, chance

    def observe(self, record: StepRecord) -> Any:
        return self._fuse.around(lambda: super(FusedSetting, self).observe(record))

    def undo(self, record: StepRecord, idempotency_key: str) -> Any:
        maybe_fail(self._chance, Transient("busy"), TimeoutError(), ValueError("no"))
        self._fuse.around(lambda: super(FusedSetting, self).undo(record, idempotency_key))
        maybe_fail(self._chance, TimeoutError())

    def merge(self, record: StepRecord, idempotency_key: str, now: Snapshot) -> Any:
        maybe_fail(self._chance, Transient("busy"), TimeoutError(), ValueError("no"), Conflict("cannot be told apart"))
        return self._fuse.around(lambda: super(FusedSetting, self).merge(record, idempotency_key, now))


class FusedCharging(Charging):
    def __init__(self, shop: "World", name: str, **declared: Any) -> None:
        super().__init__(name=name, **declared)
        self._shop = shop

    def probe(self, record: StepRecord, idempotency_key: str) -> Any:
        maybe_fail(self._shop.chance, TimeoutError(), ValueError("no"))
        return self._shop.fuse.around(lambda: super(FusedCharging, self).probe(record, idempotency_key))

    def undo(self, record: StepRecord, idempotency_key: str) -> Any:
        known = {each.ref: each for each in read_steps(self._shop.journal, [record.run.run_id])}
        assert known[record.ref].compensation_open, "U8: no durable intent"
        maybe_fail(self._shop.chance, Transient("busy"), TimeoutError(), ValueError("no"))
        self._shop.fuse.around(lambda: super(FusedCharging, self).undo(record, idempotency_key))
        maybe_fail(self._shop.chance, TimeoutError())


def maybe_fail(chance: random.Random, *errors: Exception) -> None:
    if chance.random() < 0.1:
        raise chance.choice(errors)


class World(Shop):
    """A shop with a history decided by a seed."""

    def __init__(self, seed: int) -> None:
        self.fuse, self.chance = Fuse(), random.Random(seed)
        super().__init__(FusedJournal(MemoryJournal(), self.fuse))
        self.policy = tuple(OnConflict)[seed % 4]
        self.setting = FusedSetting(self.rows, self.fuse, self.chance, self.policy)
        self.careful = FusedCharging(self, "card.charge", probed=True, compensation_probed=seed % 3 > 0)
        self.repeatable = FusedCharging(self, "points.add", idempotent=True)
        self.charging = self.careful
        self.touched_by_others: set[str] = set()
        for _ in range(self.chance.randrange(2, 9)):
            self.something_happens()
        self.at_the_stop = dict(self.rows)

    @property
    def compensators(self) -> dict[str, Any]:
        return super().compensators | {"points.add": self.repeatable}

    def something_happens(self) -> None:
        run, row = self.chance.choice(RUNS[:2]), self.chance.choice(("tea", "jam"))
        edges: dict[str, Any] = {"depends_on": (str(self.steps),)} if self.chance.random() < 0.3 else {}
        match self.chance.randrange(10):
            case 0 | 1:
                self.set(row, self.chance.randrange(3), run, **edges)
            case 2:
                self.set(row, self.chance.randrange(3), run, outcome=Unknown("lost reply"))
            case 3:
                ref = self.intend(
                    "row.set", EffectClass.REVERSIBLE, run, target=row_of(row), before=Snapshot.of(self.rows.get(row))
                )
                self.end(ref, self.chance.choice((Unknown("?"), Failed("sold out"))))
            case 4:
                self.charge(run, **edges)
            case 5:
                self.charge(run, "points.add", **edges)
            case 6:
                self.mail(run)
            case 7:
                self.lose_charge(run, happened=self.chance.random() < 0.5, outcome=self.chance.choice((None, LOST)))
            case 8:
                self.rows[row] = self.chance.randrange(3)
            case _:
                self.set(row, self.chance.randrange(3), "run-3")  # which is not undone

    def undo_until_done(self) -> int:
        """Undo, and after each death again; how often it died."""
        for deaths in range(100):
            try:
                self.undo_once()
            except Died:
                self.fuse.left = -1
                self.clock.advance(self.chance.choice((0, IN_DOUBT_AFTER.total_seconds())))
            else:
                return deaths
        raise AssertionError("it never comes to an end")

    def undo_once(self, **options: Any) -> None:
        plan = self.plan(*self.chosen, may_force=self.policy is OnConflict.FORCE)
        self.apply(plan, reason="the rows are ours", **options)

    @property
    def chosen(self) -> tuple[str, ...]:
        return tuple(run for run in RUNS[:2] if self.journal.run(run) is not None)

    # --- the laws ---

    def check(self) -> None:
        records = {record.ref: record for record in read_steps(self.journal, self.chosen)}
        tasks = {task.task_id: task for task in list_tasks(self.journal)}
        for ref, record in records.items():
            self.is_accounted_for(ref, record, tasks)
        assert all(count == 1 for count in self.careful.refunds.values()), "U9"
        assert all(count == 1 for count in map(len, self.ends().values())), "one end each"
        self.rows_are_as_the_journal_says(list(records.values()))
        self.later_changes_were_replaced_only_as_the_journal_says()
        with nothing_appended(self):  # U13
            self.undo_once()

    def is_accounted_for(self, ref: StepRef, record: StepRecord, tasks: dict[str, Any]) -> None:
        key = f"undo:{ref.run_id}:{ref.step_id}"
        match record.disposition:
            case None:
                assert isinstance(record.outcome, Failed)
            case Disposition.REVIEW:
                assert ref in tasks[record.task_id or ""].steps, "U12"
            case Disposition.COMPENSATED:
                assert self.careful.refunds[key] + self.repeatable.refunds[key] >= 1
            case Disposition.NEVER_TOOK_EFFECT:
                assert str(ref) not in self.careful.charged, "DT2"
            case Disposition.RESTORED | Disposition.MERGED | Disposition.SUPERSEDED:
                assert record.step.action == "row.set"

    def later_changes_were_replaced_only_as_the_journal_says(self) -> None:
        """CF1 and CF3."""
        records = {record.ref: record for record in read_steps(self.journal, self.chosen)}
        recorded = set[tuple[StepRef, str, str]]()
        for entry in self.entries():
            event = entry.event
            if isinstance(event, CompensationIntended) and isinstance(event.overwrites, Overwrites):
                ref = StepRef(entry.run.run_id, event.step_id)
                recorded.add((ref, event.overwrites.version, event.overwrites.leaves))
        values = dict(self.at_the_stop)
        for ref, found, left in self.setting.writes:
            row = records[ref].step.target
            assert row is not None
            assert values.get(row.id) == found
            values[row.id] = left
            if found != image_of(records[ref].after):
                assert (ref, Snapshot.of(found).version, Snapshot.of(left).version) in recorded
        assert values == self.rows | dict.fromkeys(values.keys() - self.rows.keys())
        merged = Counter(ref for ref, _, _ in self.setting.writes)
        assert all(count == 1 for count in merged.values())

    def rows_are_as_the_journal_says(self, records: list[StepRecord]) -> None:
        """A row is as a restored step found it, or as it was at the stop; nothing else was ever written to it (U3)."""
        if self.policy in (OnConflict.FORCE, OnConflict.MERGE):
            return
        for row, value in self.rows.items():
            restored = [r for r in records if r.step.target == row_of(row) and r.disposition is Disposition.RESTORED]
            found = [image_of(r.step.before) for r in restored if image_of(r.step.before) != image_of(r.after)]
            assert value in [*found, self.at_the_stop[row]]
            if found and all(r.disposition is not Disposition.REVIEW for r in records):
                assert value == found[0]


def image_of(snapshot: Snapshot | None) -> Any:
    return NEVER if snapshot is None else snapshot.image


def burn_at(seed: int, moment: int) -> bool:
    """Undo a world that dies at this moment. Whether it died there at all."""
    world = World(seed)
    if not world.chosen:
        return False
    world.fuse.left = moment
    died = world.undo_until_done() > 0
    world.fuse.left = -1
    world.check()
    return died


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_lost_whenever_the_process_dies(seed: int) -> None:
    moment = 0
    while burn_at(seed, moment):
        moment += 1
        assert moment < 1_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40, 640))
def test_nothing_is_lost_in_more_worlds(seed: int) -> None:
    test_nothing_is_lost_whenever_the_process_dies(seed)


@pytest.mark.parametrize("seed", range(60))
def test_nothing_is_lost_if_it_dies_again_and_again(seed: int) -> None:
    world = World(seed)
    if not world.chosen:
        return
    for moment in range(0, 60, 3):
        world.fuse.left = moment % 17
        try:
            world.undo_once(parallel=3)
        except Died:
            continue
        break
    world.fuse.left = -1
    world.undo_until_done()
    world.check()
