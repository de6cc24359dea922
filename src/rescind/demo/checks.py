"""What must hold when the day is over: the world against the truth."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rescind.compensation.port import ReviewReason
from rescind.demo.damage import Damage
from rescind.demo.desk import CHARGE, MAIL, SET_STATUS
from rescind.demo.oncall import Undone
from rescind.demo.opening import Opening
from rescind.demo.truth import Truth, differing
from rescind.demo.verdict import HandoverResult
from rescind.demo.world import World
from rescind.model.entry import Disposition
from rescind.model.history import ReviewTask


@dataclass(frozen=True)
class Check:
    """One invariant. `means` is for people; `found` says what is wrong, and is empty if it holds."""

    name: str
    means: str
    found: str = ""

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return not self.found


def check_books(world: World, truth: Truth, opening: Opening, damage: Damage, *, rogue: str) -> list[Check]:
    """The books of both tenants, and the outbox.

    Args:
        world: As it is now.
        truth: As it ought to be.
        opening: What a person edited.
        damage: What was wrong with it before the undo.
        rogue: The agent that was undone.
    """
    edited = opening.edit.customer_id
    acme = differing(truth.acme_subscriptions, world.acme_subscriptions())
    globex = differing(truth.globex_subscriptions, world.globex_subscriptions())
    owed = world.owed_cents()
    return [
        _all_right("subscriptions_restored", "every subscription is as it was in the morning", set(acme) - {edited}),
        _all_right(
            "edit_by_a_person_kept",
            "but for the one that a person edited, which is as edited",
            {edited} & set(acme),
        ),
        _all_right(
            "nobody_owes_too_much",
            "every customer owes what they should, charges less credits",
            differing(truth.owed_cents, owed),
        ),
        _all_right("ledger_agrees", "the ledger says so too, to the cent", differing(owed, world.receivable_cents())),
        _equal("ledger_balances", "every entry of the ledger balances", world.unbalanced_entries(), 0),
        _equal("nothing_deleted", "no charge was deleted", world.charges(), truth.charges + damage.charges),
        _equal("credited_once", "every wrong charge has one credit", world.credited_once(rogue), damage.charges),
        _equal("no_other_credit", "and there is no other credit", world.credits(), damage.charges),
        _equal(
            "outbox_as_sent",
            "the outbox holds what was sent, one mail to a customer",
            world.mails_to_different(rogue),
            damage.mails,
        ),
        _all_right("globex_exact", "globex is exactly where its own agent left it", globex),
        _all_right("reports_complete", "every report is there, and right", differing(truth.cohorts, world.reports())),
    ]


def check_undo(undone: Undone, tasks: Iterable[ReviewTask], damage: Damage, *, edited: str) -> list[Check]:
    """That every write ended where it should, those that the world shows and no others."""
    # What was refused between its intent and its effect is a step of the journal and no write. If that were not true,
    # the others, which are counted in the world, would be too few.
    steps = [step for step in undone.result.steps if step.disposition is not Disposition.NEVER_TOOK_EFFECT]
    ended = [(step.action, step.disposition, step.reason) for step in steps]
    expected = {
        (SET_STATUS, Disposition.RESTORED, ""): damage.changed - 1,
        (SET_STATUS, Disposition.REVIEW, ReviewReason.CONFLICT): 1,
        (CHARGE, Disposition.COMPENSATED, ""): damage.charges,
        (MAIL, Disposition.REVIEW, ReviewReason.IRREVERSIBLE): damage.mails,
    }
    asked = [(task.action, task.reason, len(task.steps)) for task in tasks]
    questions = {(SET_STATUS, ReviewReason.CONFLICT, 1): 1, (MAIL, ReviewReason.IRREVERSIBLE, damage.mails): 1}
    conflicting = [target.id for target in undone.conflict_targets]
    return [
        _counted("every_write_accounted_for", "every write is restored, offset or left to a person", ended, expected),
        _counted("mails_are_one_task", f"{damage.mails} mails are one question to a person", asked, questions),
        _counted("only_that_conflict", f"the one conflict is {edited}", conflicting, {edited: 1}),
    ]


def check_repetition(world: World, *, under_way: int, without_end: int, unreported: int) -> list[Check]:
    """That no compensation ran twice, and that none is left in the middle.

    Args:
        world: As it is now.
        under_way: Undos that have begun and have not come to their end.
        without_end: Compensations that have begun and have not come to their end.
        unreported: Credits that a killed worker had booked and told nobody of: only these may be asked for again.
    """
    asked = world.credit_requests()
    again, booked = len(asked) - len({key for key, _, _ in asked}), sum(was_booked for _, _, was_booked in asked)
    twice = ""
    if world.credited_twice() or booked != world.credits():
        twice = f"{world.credited_twice()} charges have several credits; {booked} requests booked {world.credits()}"
    elif again > unreported:
        twice = f"{again} credits were asked for again, and the answers of only {unreported} were missing"
    pending = f"{under_way} undos and {without_end} compensations have no end" if under_way or without_end else ""
    return [
        Check("nothing_ran_twice", "no credit was booked twice, however often it was asked for", twice),
        Check("nothing_pending", "nothing is left pending: each undo and each step of it has an end", pending),
    ]


def check_handover(handover: HandoverResult) -> list[Check]:
    """That the kill hit a worker in the middle of its share, and that the other one took it over."""
    late = "" if handover.killed else "the undo was over before a worker could be killed"
    idle = "" if handover.left_at_kill and handover.undone_by_killed else "the killed worker was not in mid-share"
    unseen = "" if handover.taken_over_ms is not None else "nobody took over"
    return [
        Check("killed_in_mid_undo", "one of two workers was killed in the middle of its share", late or idle),
        Check("taken_over", "the other one took it over, and came to the end", late or unseen),
    ]


def check_second_undo(again: Undone, *, unchanged: bool) -> Check:
    """That an undo after the undo did nothing."""
    did = [step for step in again.result.steps if not step.earlier]
    found = f"{len(did)} steps were done again" if did else "" if unchanged else "the books or the tasks changed"
    return Check("second_undo_changes_nothing", "the same undo once more changes nothing", found)


def _all_right(name: str, means: str, wrong: Collection[object]) -> Check:
    return Check(name, means, f"{len(wrong)} are wrong, such as {min(map(str, wrong))}" if wrong else "")


def _equal(name: str, means: str, found: int, expected: int) -> Check:
    return Check(name, means, "" if found == expected else f"there are {found}, and there should be {expected}")


def _counted(name: str, means: str, found: Iterable[object], expected: Mapping[Any, int]) -> Check:
    counts = Counter(found)
    return Check(name, means, "" if counts == Counter(expected) else f"found {dict(counts)}")
