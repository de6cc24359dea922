"""Guards in processes of their own: suspended, forked, killed and ended, and once with the real switch."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import an_order
from rescind.model.level import Level
from switch.client.following_agent import PATIENCE_S, FollowingAgent
from switch.client.told_switch import ToldSwitch, eventually

TTL_S = 1.0


@pytest.fixture
def switch() -> Iterator[ToldSwitch]:
    with ToldSwitch() as switch:
        yield switch


def test_a_process_that_was_suspended_for_longer_than_its_lease_writes_nothing_on_buffered_beats(
    tmp_path: Path, switch: ToldSwitch
) -> None:
    with FollowingAgent(tmp_path, switch.url, ttl_s=TTL_S) as agent:
        assert agent.says()
        assert agent.ask("write") == "written"
        agent.process.send_signal(signal.SIGSTOP)
        time.sleep(0.4)  # real beats pile up in its socket
        switch.silent = True
        time.sleep(TTL_S + 0.3)
        agent.tell("write")  # what it finds before anything else when it wakes up
        agent.process.send_signal(signal.SIGCONT)
        assert agent.says() == "denied: silence"
        assert agent.ask("write") == "denied: silence"  # and once it has read the beats
        switch.silent = False
        eventually(lambda: agent.ask("write") == "written", "the switch to be heard again")


def test_an_order_that_came_while_a_process_was_suspended_binds_before_it_writes(
    tmp_path: Path, switch: ToldSwitch
) -> None:
    with FollowingAgent(tmp_path, switch.url, ttl_s=TTL_S) as agent:
        assert agent.says()
        assert agent.ask("write") == "written"
        agent.process.send_signal(signal.SIGSTOP)
        switch.place(an_order(level=Level.READ_ONLY))
        time.sleep(TTL_S + 0.3)  # the switch goes on with its beats
        agent.tell("write")
        agent.process.send_signal(signal.SIGCONT)
        assert agent.says().startswith("denied")
        eventually(lambda: agent.ask("write") == "denied: order", "the order")


def test_a_forked_child_follows_under_its_own_name_and_leaves_the_parents_line_alone(
    tmp_path: Path, switch: ToldSwitch
) -> None:
    with FollowingAgent(tmp_path, switch.url, ttl_s=TTL_S) as agent:
        parent_id = agent.says()
        assert agent.ask("write") == "written"
        assert agent.ask("fork") == "forked"
        child_id = agent.ask("child who")
        assert child_id != parent_id
        assert agent.ask("child threads") == "0"
        assert agent.ask("child write") == "written"
        assert agent.ask("child threads") == "1"
        assert [guard_id for guard_id, _ in switch.hellos] == [parent_id, child_id]

        sequence = switch.place(an_order(level=Level.READ_ONLY))
        eventually(
            lambda: (
                {guard_id for guard_id, report in switch.reports if report.bound >= sequence} == {parent_id, child_id}
            ),
            "both to acknowledge",
        )
        assert agent.ask("write") == "denied: order"
        assert agent.ask("child write") == "denied: order"
        time.sleep(0.5)  # some beats
        assert len(switch.hellos) == 2  # nobody has had to connect again


def test_a_child_holds_no_line_of_its_killed_parent_open(tmp_path: Path, switch: ToldSwitch) -> None:
    with FollowingAgent(tmp_path, switch.url, ttl_s=TTL_S) as agent:
        agent.says()
        assert agent.ask("fork") == "forked"
        assert agent.ask("child who")
        assert switch.streams_open == 1  # the child has made no call, and so has none of its own
        agent.process.kill()
        eventually(lambda: switch.streams_open == 0, "the end of the parent's stream")


def test_a_program_that_just_ends_says_that_it_leaves(tmp_path: Path, switch: ToldSwitch) -> None:
    with FollowingAgent(tmp_path, switch.url, ttl_s=TTL_S) as agent:
        guard_id = agent.says()
        agent.tell("leave")
        assert agent.process.wait(PATIENCE_S) == 0
        assert [name for name, report in switch.reports if report.leaving] == [guard_id]


# --- the real switch ---


@pytest.fixture
def real_switch(tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("litestar")
    rescind = [sys.executable, "-c", "import sys; from rescind.cli import main; sys.exit(main())"]
    options = ["--data", str(tmp_path / "switch"), "--port", "0", "--beat", "0.1", "--json"]
    process = subprocess.Popen([*rescind, "switch", *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        process.stdout.close()


def _asked(url: str, document: dict[str, Any] | None = None) -> Any:
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.loads(answer.read())


def test_a_real_switch_stops_a_real_agent_and_has_a_receipt_for_it(tmp_path: Path, real_switch: str) -> None:
    with FollowingAgent(tmp_path / "store", real_switch, ttl_s=2.0) as agent:
        guard_id = agent.says()
        assert agent.ask("write") == "written"
        order = _asked(f"{real_switch}/v1/orders", {"scope": "agent:shop", "level": "halted", "reason": "a test"})
        receipt = _asked(f"{real_switch}/v1/orders/{order['order']['order_id']}/receipt?wait_s=10")
        assert [(each["guard_id"], each["state"]) for each in receipt["guards"]] == [(guard_id, "drained")]
        assert agent.ask("write") == "halted"
        agent.tell("leave")
        assert agent.process.wait(PATIENCE_S) == 0
