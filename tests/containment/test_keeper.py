"""The keeper: it holds what stands, gives free what is known to be lifted, and nothing else."""

from collections.abc import Mapping
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from rescind.containment.keeper import Plan, plan, reconcile
from rescind.containment.queues.port import CannotHold, QueuePort, QueueUnavailable
from rescind.model.level import Level
from rescind.model.order import Measure, Order
from rescind.model.scope import Scope


def a_pause(order_id: str, scope: str = "tenant:acme", measure: Measure = Measure.PAUSE_QUEUE) -> Order:
    return Order(
        order_id=order_id,
        scope=Scope.parse(scope),
        level=max(Level.NORMAL if measure is Measure.PAUSE_QUEUE else Level.SUPERVISED, measure.level),
        reason="",
        actor="ada",
        placed_at=datetime(2026, 1, 1, tzinfo=UTC),
        measure=measure,
    )


class Shelf:
    """A queue that knows tenants alone: how many jobs of each wait, and which order holds whose."""

    def __init__(self, name: str = "shelf", **waiting: int) -> None:
        self.name = name
        self.waiting = dict(waiting)
        self.by_order: dict[str, dict[str, int]] = {}
        self.calls: list[str] = []

    def hold(self, scope: Scope, order_id: str) -> int:
        self.calls.append(f"hold {order_id}")
        (term,) = scope.terms
        if term.kind != "tenant":
            raise CannotHold(queue=self.name, scope=scope, why="it knows tenants alone")
        mine = self.by_order.setdefault(order_id, {})
        taken = self.waiting.pop(term.value, 0)
        mine[term.value] = mine.get(term.value, 0) + taken
        return taken

    def release(self, order_id: str) -> int:
        self.calls.append(f"release {order_id}")
        freed = self.by_order.pop(order_id, {})
        self.waiting |= freed
        return sum(freed.values())

    def held(self) -> Mapping[str, int]:
        return {order_id: sum(jobs.values()) for order_id, jobs in self.by_order.items()}


class Broken(Shelf):
    def held(self) -> Mapping[str, int]:
        raise QueueUnavailable(f"{self.name} is away")


def test_what_stands_is_held_and_what_was_lifted_is_free() -> None:
    shelf = Shelf(acme=3, bank=2)
    ports: list[QueuePort] = [shelf]

    (kept,) = reconcile([a_pause("ord-1")], [], ports)
    assert (kept.held, kept.holding, shelf.waiting) == (3, {"ord-1": 3}, {"bank": 2})

    (kept,) = reconcile([], ["ord-1"], ports)
    assert (kept.freed, kept.holding, shelf.waiting) == (3, {}, {"bank": 2, "acme": 3})


def test_jobs_of_an_order_that_nobody_here_knows_stay_held_and_are_named() -> None:
    shelf = Shelf(acme=3)
    reconcile([a_pause("ord-1")], [], [shelf])

    (kept,) = reconcile([], [], [shelf])

    assert (kept.strange, kept.holding) == (("ord-1",), {"ord-1": 3})


def test_other_measures_hold_no_job() -> None:
    shelf = Shelf(acme=3)

    reconcile([a_pause(measure.value, measure=measure) for measure in Measure if "queue" not in measure], [], [shelf])

    assert shelf.calls == []


def test_jobs_are_held_for_the_new_order_before_the_old_one_gives_them_free() -> None:
    shelf = Shelf()
    reconcile([a_pause("ord-1")], [], [shelf])
    shelf.calls.clear()

    reconcile([a_pause("ord-2", "tenant:bank")], ["ord-1"], [shelf])

    assert shelf.calls == ["hold ord-2", "release ord-1"]


def test_a_queue_that_fails_and_an_order_that_one_cannot_obey_keep_nothing_from_the_others() -> None:
    shelf, away = Shelf(acme=1), Broken("away")

    kept = reconcile([a_pause("ord-1", "run:r"), a_pause("ord-2")], [], [away, shelf])

    assert kept[0].problems == ("away is away",)
    assert kept[1].problems == ("order ord-1: queue shelf cannot hold run:r: it knows tenants alone",)
    assert kept[1].holding == {"ord-2": 1}


@given(
    standing=st.sets(st.sampled_from("abcdef")),
    lifted=st.sets(st.sampled_from("abcdef")),
    holding=st.sets(st.sampled_from(["", *"abcdef"])),
)
def test_every_order_that_holds_something_is_held_again_released_or_named(
    standing: set[str], lifted: set[str], holding: set[str]
) -> None:
    found: Plan = plan([a_pause(order_id) for order_id in sorted(standing)], lifted, holding)

    held, free, strange = {order.order_id for order in found.hold}, set(found.release), set(found.strange)
    assert held == standing - lifted  # a lift is for good (law O3)
    assert held | free | strange >= holding
    assert not held & free
    assert free <= lifted | {""}
    assert not strange & (lifted | standing)
