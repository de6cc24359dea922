"""The agents as processes, and why the stop matters."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rescind.demo.crew import FAR, AgentDied, Crew, crew_of
from rescind.demo.desk import open_desk
from rescind.demo.mailroom import ROGUE
from rescind.demo.oncall import NotStopped, OnCall
from rescind.demo.opening import ACME, GLOBEX, Opening, complain, make_opening
from rescind.demo.service import switch_of
from rescind.demo.world import World

WORKERS = 40  # this many agents would share the mail; one of them is hired, so that a test takes a second


def opened_at(folder: Path) -> Opening:
    return make_opening(folder / "billing.db", morning=folder / "morning.db")


def until(done: Callable[[], bool], crew: Crew, *, within_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not done():
        crew.check()
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.02)


def test_without_a_stop_the_agent_wrongs_who_complains_and_with_it_nobody_more(tmp_path: Path) -> None:
    opening, world = opened_at(tmp_path), World(tmp_path)
    desk = open_desk(tmp_path)
    with switch_of(tmp_path, tmp_path / "switch.log") as url, crew_of(tmp_path, tmp_path / "log") as crew:
        agent = crew.hire(ROGUE, ACME, worker=0, workers=WORKERS)
        agent.go_on_until(FAR)
        until(lambda: agent.position == 400, crew)
        first = len(world.mails(ROGUE))
        complain(tmp_path / "billing.db", opening.wronged[:WORKERS])
        until(lambda: len(world.mails(ROGUE)) > first, crew)
        until(lambda: agent.position == 580 + WORKERS, crew)
        second = len(world.mails(ROGUE))

        stopped = OnCall(tmp_path, desk, url).stop(ROGUE, reason="test")
        complain(tmp_path / "billing.db", opening.wronged[:WORKERS])
        until(lambda: agent.refused >= 3, crew)
    desk.guard.close()
    assert 0 < first < second == len(world.mails(ROGUE))
    assert (stopped.acknowledged, stopped.unknown, len(stopped.covered)) == (1, 0, 1)
    assert world.effects_since(ROGUE, stopped.acknowledged_s) == 0


def test_a_stop_that_nobody_hears_is_no_success(tmp_path: Path) -> None:
    opened_at(tmp_path)
    desk = open_desk(tmp_path)
    with switch_of(tmp_path, tmp_path / "switch.log") as url, crew_of(tmp_path, tmp_path / "log") as crew:
        agent = crew.hire("subscriptions-agent@2.3.9", GLOBEX)
        agent.go_on_until(FAR)
        until(lambda: agent.writes > 0, crew)
        with pytest.raises(NotStopped, match="no process of billing-agent"):
            OnCall(tmp_path, desk, url).stop("billing-agent", reason="test")
    desk.guard.close()


def test_an_agent_that_dies_is_missed_with_its_last_words(tmp_path: Path) -> None:
    with crew_of(tmp_path, tmp_path / "log") as crew:
        agent = crew.hire("nobody", "nowhere", worker=0)
        agent.go_on_until(FAR)
        agent.process.kill()
        agent.process.wait()
        with pytest.raises(AgentDied, match=r"nobody .* status -9"):
            crew.check()


def test_nobody_is_left_after_a_failure(tmp_path: Path) -> None:
    opened_at(tmp_path)
    with pytest.raises(KeyError), crew_of(tmp_path, tmp_path / "log") as crew:
        agents = [crew.hire(ROGUE, ACME), crew.hire("reporting-agent@1.2.0", ACME)]
        raise KeyError
    assert [agent.process.poll() for agent in agents] == [0, 0]
