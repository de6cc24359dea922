"""A breaker in a guard: what fails too often is refused, then probed, and closes by itself."""

import threading
from pathlib import Path

import pytest

from guard.shop import Shop
from rescind.errors import BreakerForcedOpen, BreakerOpen, CallDenied
from rescind.model.level import Level
from rescind.model.order import Measure
from rescind.model.scope import Scope
from rescind.switch.desk import lift_scope, new_order

POLICY = """
policy:
  detect:
    rates: {rule: window, minimum_calls: 10, cooldown_seconds: 600, probes: 2, volume_spike_factor: null}
    behaviour: off
    blast_radius: off
    tool_uncertainty: off
"""


def tripped(folder: Path) -> Shop:
    """A shop whose breaker has opened, since putting fails."""
    shop = Shop(folder, POLICY)
    shop.fails = lambda _: True
    with shop.guard.run("clerk@1"):
        for number in range(40):
            try:
                shop.put(f"tea {number}")
            except RuntimeError:
                continue
            except CallDenied:
                break
    assert len(shop.effects) < 40
    shop.effects.clear()
    return shop


def test_what_fails_too_often_is_refused_for_all_runs_of_the_agent_and_reading_goes_on(tmp_path: Path) -> None:
    shop = tripped(tmp_path)
    (order,) = shop.standing()
    assert (order.measure, order.level) == (Measure.TRIP, Level.READ_ONLY)
    assert order.scope == Scope.parse("action:shelf.put+agent:clerk@1")
    with shop.guard.run("clerk@1"):
        with pytest.raises(BreakerOpen) as refused:
            shop.put("tea")
        assert shop.get("tea") == "tea"
    assert refused.value.retry_after_s is not None
    assert 590 < refused.value.retry_after_s <= 600
    with shop.guard.run("other@1"), pytest.raises(RuntimeError):
        shop.put("tea")  # not this agent's: it may try
    assert shop.effects == ["tea"]


def test_half_open_admits_so_many_probes_and_closes_when_they_succeed(tmp_path: Path) -> None:
    shop = tripped(tmp_path)
    shop.fails = lambda _: False
    shop.clock.sleep(601)
    with shop.guard.run("clerk@1"):
        shop.put("first probe")
        assert len(shop.standing()) == 1
        shop.put("second probe")
        assert shop.standing() == ()
        shop.put("as before")
    assert shop.effects == ["first probe", "second probe", "as before"]


def test_a_probe_that_fails_opens_it_again_for_a_whole_cooldown(tmp_path: Path) -> None:
    shop = tripped(tmp_path)
    shop.clock.sleep(601)
    with shop.guard.run("clerk@1"):
        with pytest.raises(RuntimeError):
            shop.put("a probe")
        with pytest.raises(BreakerOpen):
            shop.put("refused")
        shop.clock.sleep(590)
        with pytest.raises(BreakerOpen):
            shop.put("refused")
        shop.clock.sleep(20)
        shop.fails = lambda _: False
        shop.put("another probe")
    assert shop.effects == ["a probe", "another probe"]


def test_exactly_so_many_probes_are_admitted_to_sixteen_callers_at_once(tmp_path: Path) -> None:
    shop = tripped(tmp_path)
    shop.clock.sleep(601)
    inside, all_in = threading.Semaphore(0), threading.Event()

    def slow(_: str) -> bool:
        inside.release()
        all_in.wait(10)
        return False

    shop.fails = slow
    refused: list[CallDenied] = []
    lock = threading.Lock()

    def call(number: int) -> None:
        with shop.guard.run("clerk@1"):
            try:
                shop.put(f"probe {number}")
            except CallDenied as error:
                with lock:
                    refused.append(error)
                    if len(refused) == 14:
                        all_in.set()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(shop.effects) == 2
    assert len(refused) == 14
    assert shop.standing() == ()


def test_a_write_that_does_not_come_to_its_tool_gives_its_probe_back(tmp_path: Path) -> None:
    shop = tripped(tmp_path)
    shop.fails = lambda _: False
    shop.clock.sleep(601)
    with shop.guard.run("clerk@1"):
        for _ in range(5):
            with pytest.raises(TypeError):
                shop.put("tea", "too many")  # type: ignore[call-arg]
        shop.put("first")
        shop.put("second")
    assert shop.standing() == ()


def test_forced_open_is_its_own_state_and_no_probe_closes_it(tmp_path: Path) -> None:
    shop = Shop(tmp_path, POLICY)
    guard = shop.guard
    order = new_order(
        Scope.parse("action:shelf.put"),
        Level.READ_ONLY,
        measure=Measure.FORCED_OPEN,
        reason="the shelf is being rebuilt",
        actor="ann",
        clock=guard.clock,
        ids=guard.ids,
    )
    guard.orders.place(order)
    shop.clock.sleep(10_000)
    with guard.run("clerk@1"):
        with pytest.raises(BreakerForcedOpen, match="rebuilt"):
            shop.put("tea")
        lift_scope(guard.orders, order.scope, reason="done", actor="ann", clock=guard.clock, ids=guard.ids)
        shop.put("tea")


def test_a_person_who_resets_a_breaker_is_obeyed_at_once(tmp_path: Path) -> None:
    shop = tripped(tmp_path)
    shop.fails = lambda _: False
    (order,) = shop.standing()
    guard = shop.guard
    with guard.run("clerk@1"):
        with pytest.raises(BreakerOpen):
            shop.put("tea")
        lift_scope(guard.orders, order.scope, reason="mended", actor="ann", clock=guard.clock, ids=guard.ids)
        shop.put("tea")


def test_v6_once_a_trip_is_lifted_what_was_before_trips_nothing_narrower_either(tmp_path: Path) -> None:
    shop = Shop(tmp_path, POLICY)
    shop.fails = lambda _: True

    def fail(agent: str, times: int) -> None:
        with shop.guard.run(agent):
            for number in range(times):
                with pytest.raises(RuntimeError):
                    shop.put(f"{agent} {number}")

    fail("clerk@1", 5)
    fail("other@1", 5)  # together they are ten
    (order,) = shop.standing()
    assert order.scope == Scope.parse("action:shelf.put")
    guard = shop.guard
    lift_scope(guard.orders, order.scope, reason="mended", actor="ann", clock=guard.clock, ids=guard.ids)

    fail("clerk@1", 9)  # with those of before they would be fourteen
    assert shop.standing() == ()
    fail("clerk@1", 1)
    assert len(shop.standing()) == 1
