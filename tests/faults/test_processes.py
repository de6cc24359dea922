"""Agents that are suspended, and agents that fork."""

import signal

import pytest

from faults.law import boot_of
from faults.machine import boot_s, eventually
from faults.world import MARGIN_S, TTL_S, World

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("level", ["halted", "read_only"])
def test_a_suspended_agent_is_unknown_until_its_lease_is_over_then_silenced_and_begins_nothing_when_it_wakes(
    world: World, level: str
) -> None:
    one, two = world.federation()
    shop, mill = world.agent("shop", one, two), world.agent("mill", one, two)

    shop.suspend_between_calls()
    stopped = world.stop("agent:shop", covers=[shop], wait_s=0.2, level=level)

    line = stopped.line(shop)
    assert (stopped.status, line["state"]) == (1, "unknown"), stopped.answer
    assert boot_of(line["until"]) <= stopped.got_s + TTL_S + MARGIN_S
    said = one.receipt(stopped.order_id, wait_s=5.0, here=False)
    silenced = next(each for each in said.document["guards"] if each["pid"] == shop.pid)
    assert (silenced["state"], said.document["all_bound"]) == ("silenced", True)
    assert said.got_s >= boot_of(line["until"]) - 0.01
    world.hold(said, [shop], joined=True)

    eventually(lambda: boot_s() > said.got_s + TTL_S, "beats to pile up in its sockets")
    world.no_more(shop, after_s=stopped.asked_s)
    shop.resume()
    eventually(lambda: shop.last_words() == ("halted" if level == "halted" else "held"), "the agent to be refused")
    eventually(lambda: _state(one.receipt(stopped.order_id).document, shop.pid) == "drained", "its acknowledgement")
    mill.is_writing()
    world.judge(over_s=TTL_S)


def test_an_agent_that_wakes_up_takes_no_old_beat_for_a_new_one(world: World) -> None:
    one = world.switch("one")
    shop = world.agent("shop", one)
    shop.suspend_between_calls()
    asleep_s = boot_s()
    eventually(lambda: boot_s() > asleep_s + 0.3, "some beats to lie in its socket")
    one.signal(signal.SIGSTOP)
    last_beat_s = boot_s()
    # Shorter than the silence after which it gives up the connection, with all that lies in it.
    eventually(lambda: boot_s() > asleep_s + TTL_S + 0.1, "its lease to run out")

    shop.resume()

    eventually(lambda: shop.last_words() == "held", "the agent to hold itself")
    world.no_more(shop, after_s=last_beat_s + TTL_S + MARGIN_S)
    world.judge(over_s=TTL_S)

    world.pardon()
    one.signal(signal.SIGCONT)
    eventually(lambda: shop.last_words() == "rest", "the agent to go on")


def test_a_forked_agent_is_two_guards_and_both_are_bound(world: World) -> None:
    one, two = world.federation()
    shop, mill = world.agent("shop", one, two, fork=True), world.agent("mill", one, two)
    child = world.child_of(shop)
    child.is_writing()
    shop.is_writing()
    eventually(lambda: one.knows(shop, child, mill) and two.knows(shop, child, mill), "both switches to know all three")

    stopped = world.stop("agent:shop", covers=[shop, child])

    assert stopped.status == 0, stopped.answer
    assert stopped.states == dict.fromkeys((shop.pid, child.pid, mill.pid), "drained")
    assert (stopped.line(shop)["runs_covered"], stopped.line(child)["runs_covered"]) == (1, 1)
    mill.is_writing()
    world.judge()
    eventually(lambda: shop.last_words() == "halted", "shop to be halted")
    eventually(lambda: child.last_words() == "halted", "child to be halted")


def test_a_child_outlives_its_killed_parent_as_a_guard_of_its_own(world: World) -> None:
    one = world.switch("one")
    shop = world.agent("shop", one, fork=True)
    child = world.child_of(shop)
    eventually(lambda: one.knows(shop, child), "the switch to know both")
    shop.signal(signal.SIGKILL)
    child.is_writing()

    stopped = world.stop("agent:shop", covers=[shop, child], wait_s=TTL_S + 2.0)

    assert (stopped.status, stopped.line(child)["state"]) == (0, "drained"), stopped.answer
    assert stopped.line(shop)["state"] == "silenced"
    world.judge()
    eventually(lambda: child.last_words() == "halted", "child to be halted")


def _state(receipt: dict[str, object], pid: int) -> object:
    guards = receipt["guards"]
    assert isinstance(guards, list)
    return next(line["state"] for line in guards if line["pid"] == pid)
