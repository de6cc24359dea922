"""A switch that is killed with -9, at the worst moments; and all of them at once."""

import http.client
from collections.abc import Sequence
from typing import Any

import pytest

from faults.machine import boot_s, eventually
from faults.programs import POINTS
from faults.world import MARGIN_S, PROGRAMS, RESCIND, TTL_S, Agent, Switch, World

pytestmark = pytest.mark.slow

ORDER = {"scope": "agent:shop", "level": "halted", "order_id": "ord-told-twice", "reason": "a test"}

COMES_BACK_WITHIN_S = 15.0
"""A guard's longest back-off is 5 s."""


def asked_and_not_answered(switch: Switch, order: dict[str, Any]) -> None:
    with pytest.raises((OSError, http.client.HTTPException)):
        switch.ask("POST", "/v1/orders", order)
    assert switch.process is not None
    assert switch.process.wait(10.0) == -9


@pytest.mark.parametrize("point", POINTS)
def test_killed_between_order_and_answer_it_stands_after_the_restart_or_not_and_may_be_placed_again(
    world: World, point: str
) -> None:
    one, two = world.federation(program=(*PROGRAMS, "dying", point))
    shop, mill = world.agent("shop", one, two), world.agent("mill", one, two)

    asked_and_not_answered(one, ORDER)
    shop.is_writing()  # the peer had not been told, and goes on renewing
    assert two.standing() == set()
    one.restart(RESCIND)
    stood = ORDER["order_id"] in one.standing()
    again = one.ask("POST", "/v1/orders", ORDER)

    assert stood is (point == "after commit")
    assert (again.status, again.document["known_before"]) == ((200, True) if stood else (201, False))
    eventually(lambda: ORDER["order_id"] in two.standing(), "the peer to have it")
    eventually(lambda: shop.last_words() == "halted", "the agent to be halted")
    said = one.receipt(str(ORDER["order_id"]), wait_s=COMES_BACK_WITHIN_S, here=False)
    assert said.document["all_bound"]
    world.hold(said, [shop], joined=True)
    world.hold(two.receipt(str(ORDER["order_id"])), [shop])
    mill.is_writing()
    world.judge()


@pytest.mark.parametrize("point", POINTS)
def test_a_stop_to_all_switches_succeeds_by_the_other_one_although_one_dies_of_it(world: World, point: str) -> None:
    one, two = world.federation(program=(*PROGRAMS, "dying", point))
    shop = world.agent("shop", one, two)

    stopped = world.stop("agent:shop", covers=[shop])

    assert stopped.line(shop)["state"] == "drained", stopped.answer
    assert [each["state"] for each in stopped.answer["switches"]] == ["unreachable", "durable"]
    assert stopped.status == 0, stopped.answer
    assert one.process is not None
    assert one.process.wait(10.0) == -9
    world.hold(two.receipt(stopped.order_id), [shop])
    world.judge()


def test_an_order_outlives_a_switch_that_is_killed_right_after_its_answer(world: World) -> None:
    one, two = world.federation()
    shop = world.agent("shop", one, two)

    assert one.ask("POST", "/v1/orders", ORDER).status == 201
    one.kill()
    one.start()

    assert ORDER["order_id"] in one.standing()
    eventually(lambda: ORDER["order_id"] in two.standing(), "the peer to have it")
    eventually(lambda: shop.last_words() == "halted", "the agent to be halted")
    world.hold(two.receipt(str(ORDER["order_id"]), wait_s=5.0), [shop])
    world.judge()


def lower_themselves(world: World, agents: Sequence[Agent], gone_s: float) -> None:
    for agent in agents:
        eventually(lambda agent=agent: agent.last_words() == "held", f"{agent.name} to lower itself")  # type: ignore[misc]
        world.no_more(agent, after_s=gone_s + TTL_S + MARGIN_S)
    world.judge()
    world.pardon()


def test_when_all_switches_are_gone_agents_lower_themselves_and_come_back_with_them_but_no_halted_run_does(
    world: World,
) -> None:
    one, two = world.federation()
    shop, mill = world.agent("shop", one, two), world.agent("mill", one, two)
    stopped = world.stop("agent:shop", covers=[shop])
    assert stopped.status == 0

    one.kill()
    two.kill()
    lower_themselves(world, [mill], boot_s())
    eventually(lambda: shop.last_words() == "halted", "shop to be halted")

    two.start()
    eventually(lambda: mill.last_words() == "rest", "the neighbour to go on", within_s=COMES_BACK_WITHIN_S)
    one.start()
    world.hold(one.receipt(stopped.order_id), [shop])
    eventually(lambda: shop.last_words() == "halted", "shop to be halted")
    assert not shop.wrote_after(stopped.got_s)


def test_a_stop_that_was_placed_while_nobody_heard_it_binds_whoever_comes_back(world: World) -> None:
    one, two = world.federation()
    shop = world.agent("shop", one, two)
    one.kill()
    two.kill()
    lower_themselves(world, [shop], boot_s())

    one.start()
    stopped = world.stop("agent:shop", covers=[shop], at=[one], wait_s=0.1)

    world.no_more(shop, after_s=stopped.got_s + TTL_S + MARGIN_S)
    eventually(lambda: shop.last_words() == "halted", "the agent to be halted", within_s=COMES_BACK_WITHIN_S)
    said = one.receipt(stopped.order_id, wait_s=5.0)
    assert [line["state"] for line in said.document["guards"] if line["pid"] == shop.pid] == ["drained"]
    world.hold(said, [shop])
    world.judge()
