"""One suite for the laws of `QueuePort`, over every queue that there is."""

import functools
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import at_once
from containment.queues.worlds import BILLING, MAILING, World, take_all
from rescind.containment.queues.port import CannotHold
from rescind.model.scope import Scope

COVERING = (
    "everything", "run:run-1", "tree:run-1", "tree:run-0", "tenant:acme", "workflow:dunning", "agent:billing-agent",
    "agent:billing-agent@2.4.0", "tenant:acme+workflow:dunning",
)  # fmt: skip
ELSEWHERE = (
    "run:run-0", "run:run-11", "run:run", "tree:run-9", "tenant:acm", "workflow:news", "agent:billing",
    "agent:billing-agent@2.4", "tenant:acme+workflow:news",
)  # fmt: skip

ACME = Scope.parse("tenant:acme")


@pytest.mark.parametrize("scope", COVERING)
def test_qu1_a_job_that_is_covered_waits(world: World, scope: str) -> None:
    world.put("a", "b")

    assert world.port().hold(Scope.parse(scope), "ord-1") == 2

    assert world.take() is None
    assert world.names_held() == ["a", "b"]
    assert world.port().held() == {"ord-1": 2}


@pytest.mark.parametrize("scope", ELSEWHERE)
def test_qu1_a_job_that_is_not_covered_goes_on(world: World, scope: str) -> None:
    world.put("a", "b")

    assert world.port().hold(Scope.parse(scope), "ord-1") == 0

    assert take_all(world) == ["a", "b"]
    assert world.port().held() == {"ord-1": 0}


def test_qu1_a_job_that_a_worker_has_begun_is_not_touched(world: World) -> None:
    world.put("a", "b")
    assert world.take() == "a"

    assert world.port().hold(ACME, "ord-1") == 1
    assert world.port().release("ord-1") == 1

    assert take_all(world) == ["b"]


def test_qu1_only_what_is_covered_is_picked_out_of_the_midst(world: World) -> None:
    for number in range(10):
        world.put(f"acme-{number}", owner=BILLING)
        world.put(f"bank-{number}", owner=MAILING)

    world.port().hold(ACME, "ord-1")

    assert take_all(world) == [f"bank-{number}" for number in range(10)]
    assert world.names_held() == [f"acme-{number}" for number in range(10)]


def test_qu2_what_comes_in_later_is_held_by_the_next_hold(world: World) -> None:
    world.port().hold(ACME, "ord-1")
    world.put("late")

    assert world.port().hold(ACME, "ord-1") == 1
    assert world.take() is None


def test_qu3_every_job_runs_exactly_once(world: World) -> None:
    names = [f"job-{number}" for number in range(1_203)]  # more than two batches
    world.put(*names[:800])
    world.port().hold(ACME, "ord-1")
    world.put(*names[800:])
    world.port().hold(ACME, "ord-1")

    assert world.port().release("ord-1") == len(names)

    assert take_all(world) == names  # and in order (QU7)


def test_qu4_a_job_that_two_orders_hold_waits_for_the_last_of_them(world: World) -> None:
    world.put("both", owner=BILLING)
    port = world.port()
    port.hold(ACME, "ord-1")
    port.hold(Scope.parse("run:run-1"), "ord-2")
    assert port.held() == {"ord-1": 1, "ord-2": 1}

    assert port.release("ord-1") == 0
    assert world.take() is None
    assert port.release("ord-2") == 1
    assert take_all(world) == ["both"]


def test_qu4_a_later_order_holds_what_came_in_under_an_earlier_one(world: World) -> None:
    port = world.port()
    port.hold(ACME, "ord-1")
    port.hold(Scope.parse("run:run-1"), "ord-2")
    world.put("late")
    port.hold(ACME, "ord-1")  # it alone has looked since

    assert port.release("ord-1") == 0
    assert world.take() is None
    assert port.release("ord-2") == 1


def test_qu5_hold_and_release_may_be_repeated(world: World) -> None:
    world.put("a")
    for _ in range(2):
        world.port().hold(ACME, "ord-1")
    assert world.port().held() == {"ord-1": 1}

    assert [world.port().release("ord-1") for _ in range(2)] == [1, 0]
    assert world.port().release("ord-of-somebody-else") == 0
    assert take_all(world) == ["a"]
    assert world.port().held() == {}


def test_qu5_keepers_that_work_at_once_lose_and_double_nothing(world: World) -> None:
    names = {f"job-{number}" for number in range(60)}
    failures: list[BaseException] = []

    def keep(order_id: str) -> None:
        try:
            port = world.port()
            for _ in range(4):
                port.hold(ACME, order_id)
                port.release(order_id)
        except BaseException as error:  # noqa: BLE001  # told to the test
            failures.append(error)

    world.put(*sorted(names))
    at_once(functools.partial(keep, f"ord-{number}") for number in range(3))

    assert not failures
    for order_id in world.port().held():
        world.port().release(order_id)  # of a keeper that another one overtook
    taken = take_all(world)
    assert len(taken) == len(names)
    assert set(taken) == names


def test_qu3_workers_that_take_while_jobs_are_held_and_released_run_each_once(world: World) -> None:
    names = [f"job-{number}" for number in range(300)]
    world.put(*names)
    done, ran = threading.Event(), list[str]()

    def keep() -> None:
        port = world.port()
        for number in range(6):
            port.hold(ACME, f"ord-{number}")
            port.release(f"ord-{number}")
        done.set()

    keeper = threading.Thread(target=keep)
    keeper.start()
    while not done.is_set():
        name = world.take()
        if name is not None:
            ran.append(name)
    keeper.join()
    ran += take_all(world)

    assert sorted(ran) == sorted(names)


def test_qu7_what_was_held_comes_before_what_came_in_later(world: World) -> None:
    world.put("1", "2", "3")
    world.port().hold(ACME, "ord-1")
    world.put("4", owner=MAILING)

    world.port().release("ord-1")

    assert take_all(world) == ["1", "2", "3", "4"]


@given(
    orders=st.lists(st.sampled_from(COVERING + ELSEWHERE), min_size=1, max_size=4),
    lifted=st.permutations(range(4)),
)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_job_waits_exactly_as_long_as_an_order_in_force_covers_it(
    world: World, orders: list[str], lifted: list[int]
) -> None:
    port = world.port()
    standing = {f"ord-{number}": Scope.parse(scope) for number, scope in enumerate(orders)}
    world.put("a", owner=BILLING)
    world.put("b", owner=MAILING)
    for order_id, scope in standing.items():
        port.hold(scope, order_id)
    waiting = {"a": BILLING, "b": MAILING}
    for number in [*lifted, None]:
        free = {
            name for name, owner in waiting.items() if not any(each.covers(owner.subject) for each in standing.values())
        }
        assert set(take_all(world)) == free
        waiting = {name: owner for name, owner in waiting.items() if name not in free}
        if number is not None and standing.pop(f"ord-{number}", None) is not None:
            port.release(f"ord-{number}")
    assert not waiting


@pytest.mark.parametrize("scope", ["action:pay", "tenant:acme+action:pay"])
def test_what_a_queue_cannot_tell_is_refused_and_nothing_waits(world: World, scope: str) -> None:
    world.put("a")

    with pytest.raises(CannotHold, match="leave out `action:…`"):
        world.port().hold(Scope.parse(scope), "ord-1")

    assert take_all(world) == ["a"]
