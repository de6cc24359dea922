"""A switch whose disk is full, and one whose disk hangs while it goes on answering."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.disks import ext4_disk, fill, frozen, small_disk
from faults.machine import boot_s, eventually
from faults.world import BEAT_S, MARGIN_S, TTL_S, Agent, Stopped, Switch, World

pytestmark = pytest.mark.slow

FOUND_OUT_WITHIN_S = 1.0
"""A switch tries its disk every second, or every beat if that is shorter."""

HANGS_AFTER_S = 3.0
"""How long a disk may take before its switch calls it hanging."""

KNOWN_AGAIN_WITHIN_S = 15.0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small") as disk:
        yield disk


@pytest.fixture
def freezable(tmp_path: Path) -> Iterator[Path]:
    with ext4_disk(tmp_path / "ext4", tmp_path / "image") as disk:
        yield disk


@pytest.fixture
def on_small(small: Path, world: World) -> World:
    """A world that ends before its disk does."""
    return world


@pytest.fixture
def on_freezable(freezable: Path, world: World) -> World:
    return world


def says_what_it_does_not_know(stopped: Stopped, lacking: Switch, lone: Agent) -> None:
    """A guard that hears only the switch without the order could act, for all that the other one can tell."""
    assert (stopped.status, lacking.url in stopped.receipt["unheard"]) == (1, True), stopped.answer
    unknown = [line["detail"] for line in stopped.receipt["guards"] if line["state"] == "unknown"]
    assert all(f" {lone.pid} " in detail for detail in unknown)  # named, if the switches have spoken of it by then


def test_a_full_switch_refuses_aloud_and_renews_nothing_and_the_other_one_takes_the_stop(
    on_small: World, small: Path
) -> None:
    world = on_small
    one, two = world.federation(data=small / "data")
    shop, mill, lone = world.agent("shop", one, two), world.agent("mill", one, two), world.agent("lone", one)

    filler = fill(small)
    eventually(lambda: not one.health()["accepting"], "the switch to notice")
    full_s = boot_s()
    refused = one.ask("POST", "/v1/orders", {"scope": "agent:shop", "level": "halted"})
    stopped = world.stop("agent:shop", covers=[shop])

    assert (refused.status, refused.kind) == (507, "application/problem+json")
    assert "full" in refused.document["detail"]
    assert one.ask("GET", "/health").status == 503
    assert "full" in one.health()["trouble"]
    assert stopped.line(shop)["state"] == "drained", stopped.answer
    says_what_it_does_not_know(stopped, one, lone)
    assert [each["state"] for each in stopped.answer["switches"]] == ["refused", "durable"]
    world.no_more(lone, after_s=full_s + TTL_S + MARGIN_S)  # who follows only the full one is held by nobody
    mill.is_writing()
    world.judge(over_s=TTL_S + MARGIN_S + 0.5)
    eventually(lambda: lone.last_words() == "held", "the agent to be refused")  # it tries again and again
    assert one.standing() == set()

    filler.unlink()
    eventually(lambda: one.health()["accepting"], "the switch to recover")
    world.pardon()
    eventually(lambda: lone.last_words() == "rest", "its guard to go on")
    eventually(lambda: one.standing() == {stopped.order_id}, "the order to come by the other switch")
    assert one.ask("POST", "/v1/orders", {"scope": "agent:none", "level": "halted"}).status == 201
    world.judge()


def test_a_stop_at_the_only_switch_that_is_full_is_said_to_be_none(on_small: World, small: Path) -> None:
    world = on_small
    one = world.switch("one", data=small / "data")
    lone = world.agent("lone", one)
    fill(small)
    eventually(lambda: not one.health()["accepting"], "the switch to notice")
    full_s = boot_s()

    done = world.rescind("stop", "agent:lone", urls=[one.url])

    assert done.returncode == 1
    assert "NOT STOPPED" in done.stdout + done.stderr
    world.no_more(lone, after_s=full_s + TTL_S + MARGIN_S)
    world.judge(over_s=TTL_S + MARGIN_S + 0.5)


def test_a_switch_whose_disk_hangs_answers_in_seconds_renews_nothing_and_is_consistent_afterwards(
    on_freezable: World, freezable: Path
) -> None:
    world = on_freezable
    one, two = world.federation(data=freezable / "data")
    shop, mill, lone = world.agent("shop", one, two), world.agent("mill", one, two), world.agent("lone", one)
    order = {"scope": "agent:shop", "level": "halted", "order_id": "ord-into-the-frost"}

    with frozen(freezable):
        frozen_s = boot_s()
        world.no_more(lone, after_s=frozen_s + HANGS_AFTER_S + FOUND_OUT_WITHIN_S + TTL_S + BEAT_S + MARGIN_S)
        stopped = world.stop("agent:shop", covers=[shop])
        unsure = one.ask("POST", "/v1/orders", order)
        health = one.ask("GET", "/health")

        assert stopped.line(shop)["state"] == "drained", stopped.answer
        says_what_it_does_not_know(stopped, one, lone)
        by_url = {each["url"]: each["state"] for each in stopped.answer["switches"]}
        assert by_url[two.url] == "durable"
        assert by_url[one.url] != "durable"
        assert unsure.got_s - stopped.got_s < 7.0
        assert (unsure.status, unsure.kind) == (503, "application/problem+json"), unsure
        assert "not known whether" in unsure.document["detail"]
        assert (health.status, health.document["accepting"]) == (503, False)
        mill.is_writing()
        world.judge()
        eventually(lambda: lone.last_words() == "held", "lone to be held")
        assert lone.wrote_after(frozen_s)  # it did write until it was known that the disk hangs

    eventually(lambda: one.health()["accepting"], "the switch to recover")
    world.pardon()
    eventually(lambda: lone.last_words() == "rest", "its guard to go on", within_s=KNOWN_AGAIN_WITHIN_S)
    everything = {stopped.order_id, order["order_id"]}
    eventually(lambda: one.standing() == two.standing() == everything, "both switches to have both")
    again = one.ask("POST", "/v1/orders", order)
    assert (again.status, again.document["known_before"]) == (200, True)
    world.hold(one.receipt(stopped.order_id), [shop])
    world.judge()
