"""A shop under a conflict policy, with what really happened to its rows and its money beside it.

Each write has a value that no other one has, so that of each row it is known what it is made of: the writes that are in
it, oldest first. Rows that merge hold the sum of them, any others the last of them. The tool tells what it takes out as
it does that, and the truth looks whether it may. Nothing of this reads the journal, but for what it must say
before somebody else's change may be replaced.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from builders import NOON_US
from compensation.dying import Fuse, FusedJournal
from compensation.undo_world import Charging, RowSetting, Shop, row_of
from rescind.compensation.planning.impact import NO_END
from rescind.compensation.planning.selection import read_run
from rescind.compensation.port import Compensator, idempotency_key_of
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Query
from rescind.model.action import IN_DOUBT_AFTER, Action, EffectClass, OnConflict
from rescind.model.entry import CompensationIntended, Disposition, Overwrites, Read, Released, StepRef
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed
from rescind.model.probe import Probe, ProbeResult
from rescind.model.step import HeldUntil, Snapshot

RUNS = ("run-1", "run-2")
ROWS = ("tea", "jam")


class Write(msgspec.Struct, frozen=True):
    """Something that was written to a row: by a step, or by somebody else (None)."""

    by: StepRef | None
    number: int
    adds: int


class Made(msgspec.Struct):
    """What really became of a step, besides what the journal says of it.

    Attributes:
        row: The row that it writes to; empty for charges and mails.
        number: Of its write, among all writes.
        before, after: Of the row, when the step was made; `after` is what it left, or would have left.
        needs: A step of its run that it was declared to depend on.
        doubt: Whether nobody recorded its end.
        happened: Whether its effect took place.
        mute: Whether its target system can tell nobody about it.
        at_us: When it was begun.
        end: Where an undo left it; None if none has.
        settled: Whether a person has decided about it for good.
        retries: How often a person has asked for another try.
        dropped: Whether it was held, and dropped.
        sequences: Where in the journal it was intended, and where it ended, if it did.
    """

    ref: StepRef
    action: str
    row: str = ""
    number: int = 0
    before: int = 0
    after: int = 0
    needs: "Made | None" = None
    doubt: bool = False
    happened: bool = True
    mute: bool = False
    at_us: int = NOON_US
    end: Disposition | None = None
    settled: bool = False
    retries: int = 0
    dropped: bool = False
    sequences: tuple[int, int] = (0, NO_END)

    @property
    def is_for_good(self) -> bool:
        return self.action == "mail.send"

    @property
    def may_stay(self) -> bool:
        """Whether its effect stays for now, so that what it was declared to depend on has to stay (U5)."""
        return not (self.is_for_good or self.settled or self.dropped) and self.end in (None, Disposition.REVIEW)


class Truth:
    """What the rows are made of, and what the tool did that it must not do."""

    def __init__(self, policy: OnConflict) -> None:
        self.policy = policy
        self.writes: dict[str, list[Write]] = {row: [] for row in ROWS}
        self.numbers = 0
        self.faults: list[str] = []

    @property
    def next(self) -> int:
        """What the next write adds: no others add up to the same."""
        return 1 << self.numbers if self.policy is OnConflict.MERGE else self.numbers + 1

    def write(self, row: str, by: StepRef | None) -> None:
        self.writes[row].append(Write(by, self.numbers, self.next))
        self.numbers += 1

    def value(self, row: str) -> int:
        return self.value_of(self.writes[row])

    def value_of(self, writes: Iterable[Write]) -> int:
        added = [write.adds for write in writes]
        return sum(added) if self.policy is OnConflict.MERGE else added[-1] if added else 0

    def without(self, writes: list[Write], made: Made) -> list[Write]:
        """The writes without the step's; where rows are forced, without all that came after it as well."""
        if self.policy is OnConflict.FORCE:
            return [write for write in writes if write.number < made.number]
        return [write for write in writes if write.by != made.ref]

    def holds(self, made: Made) -> bool:
        """Whether the step's part is in its row."""
        return any(write.by == made.ref for write in self.writes[made.row])

    def take_out(self, made: Made, left: int, recorded: Overwrites | None) -> None:
        """The step was undone at its row: the world is now the one without it, or somebody must have said otherwise."""
        found, writes = self.value(made.row), self.without(self.writes[made.row], made)
        foreign = [write for write in self.writes[made.row] if write not in writes and write.by != made.ref]
        if found != made.after or foreign:
            if recorded is None or (recorded.version, recorded.leaves) != (version_of(found), version_of(left)):
                self.faults.append(f"{made.ref} replaced {found} by {left}, and nothing says so before (CF1)")
            elif recorded.policy != self.policy:
                self.faults.append(f"{made.ref} replaced a later change by {recorded.policy} (CF1)")
        if left != self.value_of(writes):
            self.faults.append(f"{made.ref} left {left}; without it, the row is {self.value_of(writes)}")
        self.writes[made.row] = writes


def version_of(value: int) -> str:
    return Snapshot.of(value).version


class PolicyRows(RowSetting):
    """`row.set` under a policy. Its target system knows its own writes, unless it is mute."""

    def __init__(self, shop: "PolicyShop", policy: OnConflict) -> None:
        action = Action(name="row.set", effect_class=EffectClass.REVERSIBLE, on_conflict=policy, probed=True)
        super().__init__(shop.rows, action)
        self._shop = shop

    def undo(self, record: StepRecord, idempotency_key: str) -> None:
        written = len(self.writes)
        super().undo(record, idempotency_key)
        if len(self.writes) > written:
            self._shop.was_undone(record.ref, self.writes[-1][2])

    def probe(self, record: StepRecord, idempotency_key: str) -> ProbeResult:
        made = self._shop.made[record.ref]
        if made.mute:
            return ProbeResult(answer=Probe.CANNOT_TELL)
        if not made.happened:
            return ProbeResult(answer=Probe.NOT_FOUND)
        return ProbeResult(answer=Probe.FOUND, after=Snapshot.of(made.after))


class Cards(Charging):
    def __init__(self, shop: "PolicyShop", name: str, **declared: Any) -> None:
        super().__init__(name=name, **declared)
        self._shop = shop

    def probe(self, record: StepRecord, idempotency_key: str) -> ProbeResult:
        if self._shop.made[record.ref].mute:
            raise ConnectionError("no answer")
        answer: ProbeResult = super().probe(record, idempotency_key)
        return answer


class PolicyShop(Shop):
    """Rows under a policy, charges that are sent once and points that may be sent again, and mails."""

    def __init__(self, policy: OnConflict) -> None:
        self.fuse = Fuse()
        super().__init__(FusedJournal(MemoryJournal(), self.fuse))
        self.truth = Truth(policy)
        self.made: dict[StepRef, Made] = {}
        self.rows.update(dict.fromkeys(ROWS, 0))
        self.setting = PolicyRows(self, policy)
        self.charging = Cards(self, "card.charge", probed=True, compensation_probed=True)
        self.points = Cards(self, "points.add", idempotent=True)

    @property
    def compensators(self) -> dict[str, Compensator]:
        return super().compensators | {"points.add": self.points}

    def was_undone(self, ref: StepRef, left: int) -> None:
        said = [
            entry.event.overwrites
            for entry in self.journal.entries(Query(run_id=ref.run_id))
            if isinstance(entry.event, CompensationIntended) and entry.event.step_id == ref.step_id
        ]
        if not said:
            self.truth.faults.append(f"{ref} was undone without an intent (U8)")
        recorded = said[-1] if said and isinstance(said[-1], Overwrites) else None
        self.truth.take_out(self.made[ref], left, recorded)

    # --- what agents and others do ---

    def change(self, run: str, row: str, *, happened: bool = True, ends: bool = True, **known: Any) -> None:
        """A step sets a row; or dies, before its effect or after it."""
        before, adds = self.truth.value(row), self.truth.next
        after = before + adds if self.truth.policy is OnConflict.MERGE else adds
        ref = self.begin(run, "row.set", target=row_of(row), before=Snapshot.of(before), **known)
        made = self.made[ref]
        made.row, made.before, made.after, made.doubt, made.happened = row, before, after, not ends, happened
        made.number = self.truth.numbers
        if happened:
            self.rows[row] = after
            self.truth.write(row, ref)
        else:
            self.truth.numbers += 1
        if ends:
            self.end(ref, Completed(), Snapshot.of(after))
            self.find(made)

    def change_as_somebody_else(self, row: str) -> None:
        self.truth.write(row, None)
        self.rows[row] = self.truth.value(row)

    def take_back_as_somebody_else(self, row: str) -> None:
        """Others make it as it was before their changes, if nobody else has changed it since."""
        writes = self.truth.writes[row]
        while writes and writes[-1].by is None:
            writes.pop()
        self.rows[row] = self.truth.value(row)

    def charge_card(self, run: str, action: str, *, happened: bool = True, ends: bool = True, **known: Any) -> None:
        ref = self.begin(run, action, **known)
        made = self.made[ref]
        made.doubt, made.happened = not ends, happened
        if happened:
            self.charging.charged[str(ref)] = 12
        if ends:
            self.end(ref, Completed(12))
            self.find(made)

    def send(self, run: str) -> None:
        ref = self.begin(run, "mail.send")
        self.end(ref, Completed())
        self.find(self.made[ref])

    def hold(self, run: str, **known: Any) -> None:
        ref = self.begin(run, "card.charge", held=HeldUntil(), **known)
        self.made[ref].happened = False

    def release(self, made: Made) -> None:
        """A worker does what was held."""
        self.put(made.ref.run_id, Released(step_id=made.ref.step_id, releaser="worker-1"))
        self.charging.charged[str(made.ref)] = 12
        made.happened = True
        self.end(made.ref, Completed(12))
        self.find(made)

    def read(self, run: str, row: str) -> int:
        """Where in the journal the read stands."""
        self.put(run, Read(action="row.get", target=row_of(row)))
        return self.entries()[-1].sequence

    def begin(self, run: str, action: str, *, needs: Made | None = None, mute: bool = False, **fields: Any) -> StepRef:
        if needs is not None:
            fields["depends_on"] = (needs.ref.step_id,)
        effect_class = self.compensators[action].action.effect_class
        ref = self.intend(action, effect_class, run, **fields)
        self.made[ref] = Made(ref, action, needs=needs, mute=mute, at_us=self.clock.now_us())
        self.find(self.made[ref])
        return ref

    def find(self, made: Made) -> None:
        record = self.record_of(made)
        made.sequences = record.intended_sequence, record.ended_sequence or NO_END

    # --- what the journal says ---

    def record_of(self, made: Made) -> StepRecord:
        return next(each for each in read_run(self.journal, made.ref.run_id)[0] if each.ref == made.ref)

    def is_young(self, made: Made) -> bool:
        """Whether something of it may still arrive (DT2)."""
        return self.clock.now_us() - made.at_us < IN_DOUBT_AFTER.total_seconds() * 1_000_000

    def is_refunded(self, made: Made) -> bool:
        key = idempotency_key_of(self.record_of(made))
        return bool(self.charging.refunds[key] + self.points.refunds[key])
