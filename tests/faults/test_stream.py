"""What comes twice, late, in another order between switches, or in words of another version."""

import json
import random
from collections.abc import Iterable
from typing import Any

import pytest

from faults.machine import connect, eventually, headers_for
from faults.proxy import Proxy, an_event, name_and_data
from faults.world import TTL_S, World
from rescind.switch.wire import PROTOCOL

pytestmark = pytest.mark.slow


class Echo:
    """Says every event twice, and now and then one of the last ones again.

    Whole sets are only ever said twice at once: one that came again later would unsay what was said in between, and no
    stream does that.
    """

    def __init__(self, seed: int, *, delay_s: float) -> None:
        self._random, self._delay_s = random.Random(seed), delay_s
        self._before: list[bytes] = []

    def __call__(self, event: bytes) -> Iterable[tuple[float, bytes]]:
        yield self._delay_s, event
        yield self._delay_s, event
        if name_and_data(event)[0] == "set":
            self._before.clear()
            return
        self._before = [*self._before[-7:], event]
        for old in self._random.choices(self._before, k=self._random.choice((0, 0, 1, 3))):
            yield self._delay_s + self._random.uniform(0.0, 0.02), old


@pytest.mark.parametrize("seed", range(3))
def test_events_that_come_twice_late_and_out_of_order_between_switches_change_nothing(world: World, seed: int) -> None:
    one, two = world.federation()
    with Proxy(one.url, Echo(seed, delay_s=0.0)) as quick, Proxy(two.url, Echo(seed, delay_s=0.3)) as slow:
        shop, mill = (world.agent(name, quick.url, slow.url) for name in ("shop", "mill"))
        eventually(lambda: one.knows(shop, mill) and two.knows(shop, mill), "both switches to know both")
        for round_number in range(2):
            level = "read_only" if round_number == 0 else "halted"
            stopped = world.stop("agent:shop", covers=[shop], level=level)
            assert (stopped.status, stopped.line(shop)["state"]) == (0, "drained"), stopped.answer
            if round_number == 0:
                world.judge(over_s=1.0)
                world.resume(stopped.order_id)
                eventually(lambda: shop.last_words() == "rest", "the agent to go on")
                shop.is_writing()
        world.judge(over_s=1.0)
        mill.is_writing()
        assert "held" not in mill.witness.look().words
        assert quick.events > 20


def newer(event: bytes) -> Iterable[tuple[float, bytes]]:
    """As a switch of some later version might say it."""
    name, data = name_and_data(event)
    data |= {"mood": "fine", "nested": {"deep": [1, {"deeper": None}]}}
    for order in data.get("orders", []) + ([data["order"]] if "order" in data else []):
        order |= {"colour": "red", "until": None}
    yield 0.0, an_event("weather", {"sequence": data["sequence"] + 1_000_000, "at_s": data.get("at_s", 0.0) + 1e6})
    yield 0.0, an_event(name, data)
    yield 0.0, b": a remark\n\nevent: rain\ndata: this is not even JSON\n\n"


def test_a_guard_understands_a_newer_switch_as_far_as_it_knows_its_words(world: World) -> None:
    one = world.switch("one")
    with Proxy(one.url, newer, lambda said: said | {"mood": "fine"}) as proxy:
        shop, mill = world.agent("shop", proxy.url), world.agent("mill", proxy.url)
        eventually(lambda: one.knows(shop, mill), "the switch to know both")

        stopped = world.stop("agent:shop", covers=[shop])

        assert (stopped.status, stopped.line(shop)["state"]) == (0, "drained"), stopped.answer
        mill.is_writing()
        world.judge(over_s=TTL_S + 0.5)
        mill.is_writing()


def test_a_guard_of_the_protocol_before_is_served_and_its_receipt_is_right(world: World) -> None:
    one = world.switch("one")
    token = world.charter.token("agent")
    old = {"protocol": PROTOCOL - 1, "pid": 7, "lease_ttl_s": TTL_S}
    connection = connect(one.url)
    connection.request("POST", "/v1/guards/guard-of-old/stream", json.dumps(old), headers_for(token))
    stream = connection.getresponse()
    assert (stream.status, next_event(stream)[0]) == (200, "set")

    order = one.ask("POST", "/v1/orders", {"scope": "everything", "level": "halted"}).document
    name, data = next_event(stream)
    while name == "beat":
        name, data = next_event(stream)
    assert (name, data["order"]["order_id"]) == ("order", order["order"]["order_id"])
    before = one.receipt(data["order"]["order_id"]).document
    assert (before["all_bound"], [line["state"] for line in before["guards"]]) == (False, ["unknown"])

    said = one.ask("PUT", "/v1/guards/guard-of-old", old | {"bound": data["sequence"]}, token=token)
    assert (said.status, said.document["sequence"]) == (200, data["sequence"])
    after = one.receipt(data["order"]["order_id"]).document
    assert (after["all_drained"], [line["state"] for line in after["guards"]]) == (True, ["drained"])
    connection.close()


@pytest.mark.parametrize(("method", "path"), [("PUT", ""), ("POST", "/stream")])
def test_a_guard_of_a_later_protocol_is_told_to_wait_for_its_switch(world: World, method: str, path: str) -> None:
    one = world.switch("one")
    report = {"protocol": PROTOCOL + 1, "pid": 7}

    said = one.ask(method, f"/v1/guards/guard-to-come{path}", report, token=world.charter.token("agent"))

    assert (said.status, said.kind) == (400, "application/problem+json")
    assert "upgrade switches before guards" in said.document["detail"]
    assert one.guards() == []


def next_event(stream: Any) -> tuple[str, Any]:
    event = b""
    while not event.endswith(b"\n\n"):
        line = stream.readline()
        assert line, "the stream has ended"
        event += line
    return name_and_data(event)
