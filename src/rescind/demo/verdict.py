"""What came of it, as one value: the numbers, what holds and what does not."""

import msgspec


class StopResult(msgspec.Struct, frozen=True, kw_only=True):
    """How the stop went.

    Attributes:
        by: Who stopped the agent: `trigger`, a rule of the desk's policy, or `operator`.
        acknowledged: Guards that acknowledged it.
        unknown: Guards of which it is not known; must be 0.
        ms: To the receipt: from the operator's press; or from the signal, which is noticed at the call that would have
            crossed the limit, to the acknowledgement of the last guard, which completes the receipt.
    """

    by: str
    acknowledged: int
    unknown: int
    ms: float


class UndoResult(msgspec.Struct, frozen=True, kw_only=True):
    """Where the writes of the stopped agent ended; the first four add up to all of them.

    Attributes:
        restored: Steps whose target is as it was before.
        compensated: Steps that were offset.
        review: Steps that nobody can take back, left to a person.
        conflicts: Steps that were not touched, because somebody had changed their target since; left to a person too.
        ms: From the plan that was shown to the last step accounted for.
    """

    restored: int
    compensated: int
    review: int
    conflicts: int
    ms: float


class HandoverResult(msgspec.Struct, frozen=True, kw_only=True):
    """How the undo went on two workers, one of which was killed.

    Attributes:
        processes: The workers' process ids.
        shares: In how many shares they were given the plan.
        killed: The process that was killed; None if the undo was over before that.
        undone_by_killed: Writes that it had restored or offset until then.
        undone_by_others: Writes that the other one restored or offset, before and after that.
        left_at_kill: Steps of the share it was at that it had not brought to an end; 0 if it was not at any.
        unreported_at_kill: Credits among them that it had booked, and could tell nobody of.
        taken_over_ms: From its end to the first step of that share by the other one; None if nobody took it over.
        asked_again: Credits that were asked for once more, under the same idempotency key.
        credited_twice: Charges that have more than one credit; must be 0.
    """

    processes: tuple[int, ...]
    shares: int
    killed: int | None
    undone_by_killed: int
    undone_by_others: int
    left_at_kill: int
    unreported_at_kill: int
    taken_over_ms: float | None
    asked_again: int
    credited_twice: int


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The one object of `rescind demo --json`.

    Attributes:
        customers_wronged: Customers whose subscription the agent changed, or whom it charged or wrote to, until it was
            stopped; counted in the database and the outbox.
        guards: Guards that were at work when the stop came.
        stop: See `StopResult`.
        writes_after_stop: Rows and mails of the stopped agent that began after the first acknowledgement, counted in
            the database and the outbox.
        undo: See `UndoResult`.
        workers: See `HandoverResult`; None if the extra `workers` is not installed, and the undo was done without any.
        invariants: What must hold at the end, by name.
        bystander_writes_lost: Writes of the other agents that were refused, or that they made and that are not there.
        chain_intact: Whether the audit of the journal found nothing changed, missing or reordered.
    """

    customers_wronged: int
    guards: int
    stop: StopResult
    writes_after_stop: int
    undo: UndoResult
    workers: HandoverResult | None
    invariants: dict[str, bool]
    bystander_writes_lost: int
    chain_intact: bool

    @property
    def holds(self) -> bool:
        """Whether all of it holds: the exit status is 0 then, and only then."""
        return (
            self.stop.acknowledged > 0
            and self.stop.unknown == 0
            and self.writes_after_stop == 0
            and self.bystander_writes_lost == 0
            and self.chain_intact
            and all(self.invariants.values())
        )
