"""The harness without any fault: what it would say if all were well, and that it would notice if it were not."""

from pathlib import Path

import pytest

from faults.law import Claim, Witness, claims_of
from faults.machine import boot_s, eventually
from faults.world import World


def test_a_stop_binds_whom_it_covers_and_the_neighbours_go_on(world: World) -> None:
    one, two = world.federation()
    shop, mill = world.agent("shop", one, two), world.agent("mill", one, two)

    stopped = world.stop("agent:shop", covers=[shop])

    assert stopped.status == 0
    assert stopped.states == {shop.pid: "drained", mill.pid: "drained"}
    mill.is_writing()
    world.judge()
    eventually(lambda: shop.last_words() == "halted", "shop to be halted")


@pytest.mark.slow
def test_a_step_that_was_in_flight_is_named_and_may_end(world: World) -> None:
    one, two = world.federation()
    shop = world.agent("shop", one, two, effect_s=1.5)

    stopped = world.stop("agent:shop", covers=[shop], wait_s=0.3)

    line = stopped.line(shop)
    assert (stopped.status, line["state"]) == (0, "bound")
    assert line["in_flight"] == [shop.witness.look().effects[-1].step]
    world.hold(one.receipt(stopped.order_id, wait_s=5.0), [shop])
    world.judge()


@pytest.mark.parametrize(("begun_after_s", "is_a_breach"), [(0.010, False), (0.030, True)])
def test_an_effect_after_the_moment_that_a_receipt_tells_is_a_breach(
    tmp_path: Path, begun_after_s: float, is_a_breach: bool
) -> None:
    now_s = boot_s()
    trace = tmp_path / "trace"
    trace.write_text(f"{now_s - 1 + begun_after_s:.6f} begin run-1/s-1\n{now_s:.6f} beg")
    line = {"pid": 7, "state": "drained", "bound_ms": 5.0, "drained_ms": 20.0, "in_flight": [], "until": None}

    claims = claims_of({"waited_ms": 1000.0, "guards": [line]}, {7: Witness(trace)}, got_s=now_s, joined=False)

    assert any(claim.breaches(now_s) for claim in claims) is is_a_breach
    assert Claim(Witness(trace), "", now_s - 2, frozenset({"run-1/s-1"})).breaches(now_s) == []
