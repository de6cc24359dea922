"""Wall clocks that jump, and machines whose boot clocks have nothing to do with each other."""

import time
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from faults.law import boot_of
from faults.machine import boot_s, cannot, eventually, need_root_and, sh
from faults.world import AGENT, MARGIN_S, PROGRAMS, RESCIND, TTL_S, Agent, World

pytestmark = pytest.mark.slow

HOUR_S, DAY_S = 3_600.0, 86_400.0
JUMPS_S = (-HOUR_S, DAY_S, 0.0)


class Wall:
    """The wall clock of one program, to be set at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set(0.0)

    def set(self, offset_s: float) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(str(offset_s))
        new.rename(self.path)

    @property
    def program(self) -> tuple[str, ...]:
        return (*PROGRAMS, "clock", str(self.path))


def goes_on(agent: Agent) -> None:
    """Nothing holds it, for longer than any lease."""
    held = agent.witness.look().words.get("held", 0)
    end = agent.writes
    eventually(lambda: agent.writes > end, "a write")
    time.sleep(TTL_S + MARGIN_S)
    agent.is_writing()
    assert agent.witness.look().words.get("held", 0) == held


@pytest.mark.parametrize("whose", ["the agent's", "the switch's"])
def test_a_wall_clock_that_is_set_back_and_forward_moves_no_lease_and_no_stop(
    world: World, tmp_path: Path, whose: str
) -> None:
    wall = Wall(tmp_path / "wall")
    is_agents = whose == "the agent's"
    one = world.switch("one", program=RESCIND if is_agents else wall.program)
    shop = world.agent("shop", one, program=(*wall.program, "agent") if is_agents else AGENT)
    mill = world.agent("mill", one)

    for offset_s in JUMPS_S:
        wall.set(offset_s)
        goes_on(shop)
        stopped = world.stop("agent:shop", covers=[shop], level="read_only")
        assert (stopped.status, stopped.line(shop)["state"]) == (0, "drained"), stopped.answer
        mill.is_writing()
        world.resume(stopped.order_id)
        eventually(lambda: shop.last_words() == "rest", "the agent to go on")

    assert wall.path.with_suffix(".asked").exists()

    wall.set(-HOUR_S)
    shop.suspend_between_calls()
    stopped = world.stop("agent:shop", covers=[], wait_s=0.2)
    assert (stopped.status, stopped.line(shop)["state"]) == (1, "unknown")
    ahead_s = boot_of(stopped.line(shop)["until"]) - stopped.got_s
    assert ahead_s < TTL_S + MARGIN_S - (0.0 if is_agents else HOUR_S)
    said = one.receipt(stopped.order_id, wait_s=5.0)
    world.hold(said, [shop], joined=True)  # its moments are of the switch's wall clock
    assert {line["pid"]: line["state"] for line in said.document["guards"]}[shop.pid] == "silenced"
    shop.resume()
    eventually(lambda: shop.last_words() == "halted", "the agent to be halted")
    world.judge()


@pytest.mark.parametrize("offset_s", [int(DAY_S), -1000])
def test_the_boot_clocks_of_switch_and_agent_need_not_agree(world: World, offset_s: int) -> None:
    need_root_and("unshare")
    other_machine = ("unshare", "--time", "--boottime", str(offset_s), "--monotonic", str(offset_s), "--kill-child")
    try:
        sh(*other_machine, "true")
    except CalledProcessError as error:
        cannot(f"this machine has no time namespaces: {error.stdout.strip()}")
    one = world.switch("one", through=other_machine)
    shop, mill = world.agent("shop", one), world.agent("mill", one)
    clock = one.ask("PUT", "/v1/guards/someone", {"leaving": True}, token=world.charter.token("agent")).document["at_s"]
    assert abs(clock - boot_s() - offset_s) < 60

    goes_on(mill)
    stopped = world.stop("agent:shop", covers=[shop])
    assert (stopped.status, stopped.line(shop)["state"]) == (0, "drained"), stopped.answer
    world.judge()

    one.kill()
    gone_s = boot_s()
    eventually(lambda: mill.last_words() == "held", "the neighbour to lower itself")
    world.no_more(mill, after_s=gone_s + TTL_S + MARGIN_S)
    world.judge()
