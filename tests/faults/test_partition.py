"""Packets that do not arrive: between a guard and switches, in both directions and in one, and between switches."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from faults.law import boot_of
from faults.machine import boot_s, eventually
from faults.network import Network
from faults.world import MARGIN_S, TTL_S, Agent, Charter, Switch, World

pytestmark = pytest.mark.slow

HEALS_WITHIN_S = 15.0
"""A connection attempt may be under way into the void, 5 s, and then the back-off may be as long."""


@dataclass
class Plant:
    """Two switches, two agents and an operator's desk, on machines of their own."""

    world: World
    net: Network
    one: Switch
    two: Switch
    shop: Agent
    mill: Agent


@pytest.fixture
def plant(tmp_path: Path, charter: Charter) -> Iterator[Plant]:
    with Network("one", "two", "shop", "mill", "desk") as net, World(tmp_path, charter) as world:
        world.operators_namespace = net["desk"].namespace
        urls = {name: f"http://{net[name].address}:7443" for name in ("one", "two")}
        one, two = (
            world.switch(name, host=net[name].address, port=7443, namespace=net[name].namespace, peers=[urls[peer]])
            for name, peer in (("one", "two"), ("two", "one"))
        )
        shop, mill = (world.agent(name, one, two, namespace=net[name].namespace) for name in ("shop", "mill"))
        yield Plant(world, net, one, two, shop, mill)


def both(target: str, *switches: str) -> list[tuple[str, str]]:
    return [pair for switch in switches for pair in ((switch, target), (target, switch))]


def receipt_comes_true(plant: Plant, order_id: str, state: str) -> None:
    """Once every packet arrives again, the switches know of the guard what it has done."""

    def says() -> bool:
        lines = plant.one.receipt(order_id, here=False).document["guards"]
        return [line["state"] for line in lines if line["pid"] == plant.shop.pid] == [state]

    eventually(says, f"the receipt to say {state}", within_s=HEALS_WITHIN_S)
    plant.world.hold(plant.one.receipt(order_id), [plant.shop])


@pytest.mark.parametrize(
    "cut",
    [both("shop", "one"), [("one", "shop")], [("shop", "one")]],
    ids=["both directions", "to the guard only", "from the guard only"],
)
def test_a_guard_that_is_cut_off_from_one_switch_is_stopped_by_way_of_the_other(
    plant: Plant, cut: list[tuple[str, str]]
) -> None:
    for source, target in cut:
        plant.net.drop(source, target)

    stopped = plant.world.stop("agent:shop", covers=[plant.shop], at=[plant.one])

    assert stopped.status == 0, stopped.answer
    assert stopped.line(plant.shop)["state"] == "drained"
    plant.mill.is_writing()
    plant.world.judge()
    assert sum(plant.net.dropped(target) for _, target in cut) > 0
    eventually(lambda: plant.shop.last_words() == "halted", "shop to be halted")


@pytest.mark.parametrize(
    "cut",
    [both("shop", "one", "two"), [("one", "shop"), ("two", "shop")], [("shop", "one"), ("shop", "two")]],
    ids=["both directions", "to the guard only", "from the guard only"],
)
def test_a_guard_that_is_cut_off_from_all_switches_silences_itself_and_nobody_says_more(
    plant: Plant, cut: list[tuple[str, str]]
) -> None:
    world, shop = plant.world, plant.shop
    for source, target in cut:
        plant.net.drop(source, target)
    cut_s = boot_s()

    stopped = world.stop("agent:shop", covers=[shop], wait_s=0.1)

    line = stopped.line(shop)
    assert (stopped.status, line["state"]) == (1, "unknown"), stopped.answer
    assert boot_of(line["until"]) < stopped.got_s + TTL_S + MARGIN_S
    world.no_more(shop, after_s=max(cut_s + TTL_S, boot_of(line["until"])) + MARGIN_S)
    later = plant.one.receipt(stopped.order_id, wait_s=5.0, here=False)
    states = {each["pid"]: each["state"] for each in later.document["guards"]}
    assert states == {shop.pid: "silenced", plant.mill.pid: "drained"}
    world.hold(later, [shop], joined=True)
    plant.mill.is_writing()
    world.judge()

    plant.net.heal()
    receipt_comes_true(plant, stopped.order_id, "drained")
    world.judge()
    eventually(lambda: shop.last_words() == "halted", "shop to be halted")


def test_a_guard_that_hears_only_the_switch_without_the_order_is_unknown_until_that_has_it(plant: Plant) -> None:
    world, shop = plant.world, plant.shop
    plant.net.part(("one", "two"), ("one", "shop"), ("two", "desk"))

    stopped = world.stop("agent:shop", covers=[shop], at=[plant.one], wait_s=TTL_S + 1.0)

    line = stopped.line(shop)
    assert (stopped.status, line["state"], line["until"]) == (1, "unknown", None), stopped.answer
    shop.is_writing()  # and it may, as far as anybody could tell it

    plant.net.heal(("one", "two"), ("two", "desk"))
    receipt_comes_true(plant, stopped.order_id, "drained")
    world.judge()
    assert stopped.order_id in plant.two.standing()  # it came by there: the way to the other one is cut still


def test_switches_that_are_cut_off_from_each_other_stop_whoever_hears_them_and_unite_afterwards(plant: Plant) -> None:
    world = plant.world
    plant.net.part(("one", "two"))

    first = world.stop("agent:shop", covers=[plant.shop], at=[plant.one], wait_s=1.0)
    other = world.stop("agent:mill", covers=[plant.mill], at=[plant.two], wait_s=1.0)

    assert first.line(plant.shop)["state"] == other.line(plant.mill)["state"] == "drained"
    # The one that was asked cannot know whether the other one has guards of its own, and says so.
    assert (first.status, len(first.receipt["unheard"])) == (other.status, len(other.receipt["unheard"])) == (1, 1)
    everything = world.stop("agent:none", covers=[])
    assert (everything.status, everything.receipt["unheard"]) == (0, [])  # an operator who reaches both hears both
    world.judge()
    plant.net.heal()
    orders = {first.order_id, other.order_id, everything.order_id}
    eventually(lambda: plant.one.standing() == plant.two.standing() == orders, "the switches to unite")
    eventually(lambda: plant.shop.last_words() == "halted", "shop to be halted")
    eventually(lambda: plant.mill.last_words() == "halted", "mill to be halted")


def test_a_partition_without_a_stop_lowers_a_guard_and_its_end_raises_it(plant: Plant) -> None:
    plant.net.part(("shop", "one"), ("shop", "two"))
    cut_s = boot_s()
    eventually(lambda: plant.shop.last_words() == "held", "the guard to lower itself", within_s=TTL_S + 2.0)
    plant.world.no_more(plant.shop, after_s=cut_s + TTL_S + MARGIN_S)
    plant.mill.is_writing()
    plant.world.judge()

    plant.net.heal()
    eventually(lambda: plant.shop.last_words() == "rest", "the guard to write again", within_s=HEALS_WITHIN_S)
