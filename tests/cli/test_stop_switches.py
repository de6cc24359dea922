"""`rescind stop` and its neighbours with switches: which of them have the order, which do not, and what then."""

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import rescind.cli.delivery
from cli.conftest import Rescind
from rescind.cli.durations import is_duration, parse_duration
from switch.client.scripted import Asked, Script, answer, nobody, placed, problem, saying, serving

pytestmark = pytest.mark.usefixtures("folder", "impatient")

RESCIND = [sys.executable, "-c", "import sys; from rescind.cli import main; sys.exit(main())"]

FULL = problem(507, "the disk is full")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switches that do not answer are tried for a moment only."""
    monkeypatch.setattr(rescind.cli.delivery, "KEEP_TRYING_S", 0.3)


def of(*urls: str) -> list[str]:
    return [word for url in urls for word in ("--switch", url)]


def a_receipt(asked: Asked, *guards: dict[str, Any], **more: Any) -> bytes:
    states = {guard["state"] for guard in guards}
    return answer(
        200,
        {
            "order_id": asked[1].split("/")[3],
            "stamp": 1,
            "waited_ms": 12.0,
            "all_bound": "unknown" not in states,
            "all_drained": not states & {"unknown", "bound"},
            "guards": guards,
            **more,
        },
    )


def switch_with(*guards: dict[str, Any], **more: Any) -> Script:
    """A switch that takes orders, and knows these guards."""

    def say(asked: Asked) -> bytes:
        return placed(asked) if asked[0] == "POST" else a_receipt(asked, *guards, **more)

    return saying(say)


# --- who has it ---


def test_a_stop_says_which_switches_have_it(rescind: Rescind) -> None:
    with serving(saying(placed)) as one, serving(saying(placed)) as two:
        answered = rescind("stop", "agent:x", "--reason", "wrong", *of(one.url, two.url))

    assert answered.status == 0
    assert "halted agent:x" in answered.out
    for switch in (one, two):
        assert f"durable on {switch.url}" in answered.out
        assert switch.bodies()[0]["reason"] == "wrong"
    assert one.bodies() == two.bodies()
    assert "rescind resume ord_" in answered.out
    assert f"--switch {one.url} --switch {two.url}" in answered.out


def test_one_of_two_is_down_and_the_stop_stands(rescind: Rescind) -> None:
    down = nobody()
    with serving(saying(placed)) as up:
        answered = rescind("stop", "agent:x", *of(down, up.url))

    assert answered.status == 0
    assert f"durable on {up.url}" in answered.out
    assert f"lacks   {down}: nothing listens there; look whether the switch runs" in answered.out
    assert "pass it on" in answered.out


def test_both_are_down_and_nothing_looks_like_a_stop(rescind: Rescind) -> None:
    one, two = nobody(), nobody()

    answered = rescind("stop", "agent:x", *of(one, two))

    assert (answered.status, answered.out) == (1, "")
    assert answered.err.startswith("rescind: NOT STOPPED: no switch has this order, and it stands nowhere\n")
    assert f"  {one}: nothing listens there" in answered.err
    assert f"  {two}: nothing listens there" in answered.err
    assert "Repeat the command" in answered.err


def test_the_answer_in_json_says_it_all(rescind: Rescind) -> None:
    down = nobody()
    with serving(saying(placed)) as up, serving(saying(FULL)) as full:
        answered = rescind("stop", "agent:x", "--json", *of(up.url, down, full.url))

    assert answered.status == 0
    assert answered.json["durable"] is True
    assert answered.json["here"] is None
    assert answered.json["order"]["order_id"] == up.bodies()[0]["order_id"]
    assert answered.json["switches"] == [
        {"url": up.url, "state": "durable", "switch_id": "sw_1", "sequence": 7},
        {"url": down, "state": "unreachable", "trouble": "down", "detail": "nothing listens there", "status": None},
        {"url": full.url, "state": "refused", "trouble": "refused", "detail": "the disk is full", "status": 507},
    ]


def test_a_failure_in_json_is_one_object_too(rescind: Rescind) -> None:
    with serving(saying(FULL)) as full:
        answered = rescind("stop", "agent:x", "--json", *of(full.url))

    assert answered.status == 1
    assert answered.json["error"]["kind"] == "SwitchesFailed"
    assert answered.json["durable"] is False
    assert answered.json["switches"][0]["state"] == "refused"
    assert answered.json["order"]["scope"] == "agent:x"


def test_a_disk_that_is_full_for_a_moment_is_no_failure(rescind: Rescind) -> None:
    with serving(saying(FULL, placed)) as switch:
        assert rescind("stop", "agent:x", *of(switch.url)).status == 0


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (
            problem(401, "this switch asks for a token"),
            "refused: this switch asks for a token; name a token of this switch",
        ),
        (problem(403, "it takes operator"), "refused: it takes operator; name another token with --token-file"),
        (answer(200, b"<html>", kind="text/html"), "something else listens there; look at its URL"),
        (b"SSH-2.0-x\r\n", "does not answer with HTTP; something else listens there"),
        (problem(400, "evil \x1b[2J\nrescind: all is well"), "refused: evil \\x1b[2J\\nrescind: all is well"),
        (problem(400, "x" * 10_000), "x…"),
    ],
)
def test_each_trouble_is_one_line_with_its_remedy(rescind: Rescind, said: bytes, says: str) -> None:
    with serving(saying(said)) as switch:
        answered = rescind("stop", "agent:x", *of(switch.url))

    assert answered.status == 1
    (line,) = [line for line in answered.err.splitlines() if switch.url in line]
    assert says in line
    assert len(line) < 500
    assert "\x1b" not in answered.err


# --- which switches, which token ---


def test_switches_come_from_the_environment_and_the_file_together(
    rescind: Rescind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(saying(placed)) as one, serving(saying(placed)) as two:
        (folder / "rescind.yaml").write_text(f"switch:\n  urls: [{one.url}]\n  token_file: agent.token\n")
        (folder / "agent.token").write_text("rsc_agent\n")
        monkeypatch.setenv("RESCIND_URL", f"{two.url}/, {one.url}")
        assert rescind("stop", "agent:x").status == 0

    assert [len(switch.asked) for switch in (one, two)] == [1, 1]
    assert one.asked[0][2]["authorization"] == "Bearer rsc_agent"


def test_an_operators_own_token_needs_no_sight_of_the_agents(
    rescind: Rescind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine").write_text("rsc_mine\n")
    with serving(saying(placed)) as switch:
        (folder / "rescind.yaml").write_text(f"switch:\n  urls: [{switch.url}]\n  token_file: not-for-you\n")
        assert rescind("stop", "agent:x", "--token-file", "mine").status == 0
        monkeypatch.setenv("RESCIND_TOKEN", "rsc_of_environment")
        assert rescind("stop", "agent:x").status == 0
        assert rescind("stop", "agent:x", "--token-file", "mine").status == 0

    tokens = [asked[2]["authorization"] for asked in switch.asked]
    assert tokens == ["Bearer rsc_mine", "Bearer rsc_of_environment", "Bearer rsc_mine"]


def test_a_typing_error_in_the_file_does_not_stand_between_an_operator_and_a_stop(
    rescind: Rescind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "rescind.yaml").write_text("switch: [\n")
    with serving(saying(placed)) as switch:
        monkeypatch.setenv("RESCIND_URL", switch.url)
        answered = rescind("stop", "agent:x")

    assert answered.status == 0
    assert "passed over:" in answered.err
    assert "rescind.yaml, line 2" in answered.err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--switch", "stop-1:7443"), "'stop-1:7443' is no switch; write http://HOST:PORT"),
        (("--switch", "http://a:1", "--token-file", "nowhere"), "--token-file nowhere cannot be read: No such file"),
        (("--switch", "http://a:1", "--token-file", "prose"), "the token has blanks"),
        ((), "name them with --switch URL or RESCIND_URL"),
        (("--wait", "10x"), "unexpected extra argument"),
        (("--wait=10x",), "'10x' is no duration; write it like 10s, 500ms or 1m"),
        (("--wait=2h",), "not in the range"),
    ],
)
def test_bad_input_is_refused_and_nobody_is_asked(
    rescind: Rescind, folder: Path, argv: tuple[str, ...], says: str
) -> None:
    (folder / "prose").write_text("once upon a secret")

    answered = rescind("stop", "agent:x", *argv)

    assert (answered.status, answered.out) == (2, "")
    assert says in answered.err
    assert "secret" not in answered.err


# --- the store of this machine ---


def test_a_stop_goes_to_the_switches_and_to_the_local_store(
    rescind: Rescind, shop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(saying(placed)) as switch:
        monkeypatch.setenv("RESCIND_URL", switch.url)
        answered = rescind("stop", "agent:x", "--json")
        shown = rescind("stop", "agent:y")

    assert answered.status == 0
    assert answered.json["here"]["durable"] is True
    monkeypatch.delenv("RESCIND_URL")
    standing = {order["order_id"] for order in rescind("status", "--json").json["orders"]}
    assert {body["order_id"] for body in switch.bodies()} == standing  # the same order, wherever it is
    assert "durable on this machine" in shown.out
    assert f"also    durable on {switch.url}" in shown.out


def test_who_names_a_switch_means_no_local_store(rescind: Rescind, shop: ModuleType) -> None:
    with serving(saying(placed)) as switch:
        assert rescind("stop", "agent:x", *of(switch.url)).status == 0

    assert rescind("status", "--json").json["orders"] == []


def test_an_order_on_this_machine_alone_is_said_to_be_that(
    rescind: Rescind, shop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESCIND_URL", nobody())

    answered = rescind("stop", "agent:x", "--json")

    assert answered.status == 1
    assert "it stands on this machine alone" in answered.err
    assert answered.json["here"]["durable"] is True
    assert answered.json["durable"] is True


def test_a_local_store_that_cannot_take_it_is_said_and_the_switches_have_it(
    rescind: Rescind, shop: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "store" / "orders.db").write_bytes(b"this is no database" * 1000)
    with serving(saying(placed)) as switch:
        monkeypatch.setenv("RESCIND_URL", switch.url)
        answered = rescind("stop", "agent:x")

    assert answered.status == 1
    assert f"durable on {switch.url}" in answered.out
    assert "lacks   this machine" in answered.out


# --- receipts ---


def test_a_receipt_from_switches_says_what_is_known_of_each_guard(rescind: Rescind) -> None:
    guards = [
        {"guard_id": "g1", "state": "drained", "pid": 11, "host": "web-1", "bound_ms": 3.2, "drained_ms": 4.0},
        {"guard_id": "g2", "state": "silenced", "pid": 12, "host": "web-2", "until": "2026-11-21T12:00:06.5Z"},
        {"guard_id": "g3", "state": "killed", "pid": 13, "program": "agent.sh"},
        {"guard_id": "g4", "state": "unknown", "pid": 14, "until": "2026-11-21T12:00:06.5Z"},
    ]
    with serving(switch_with(*guards)) as switch:
        answered = rescind("stop", "agent:x", "--wait", "100ms", *of(switch.url))
        known = rescind("stop", "agent:x", "--wait", "300ms", "--json", *of(switch.url))

    assert answered.status == 1
    assert "drained  pid 11 on web-1" in answered.out
    assert "bound after 3.2 ms, drained after 4.0 ms" in answered.out
    assert "silenced at" in answered.out
    assert ":07: its lease ran out" in answered.out  # never earlier than it is
    assert "killed   pid 13  agent.sh" in answered.out
    assert "unknown until" in answered.out
    assert "UNKNOWN: pid 14 did not answer" in answered.out
    assert known.status == 1
    assert [guard["state"] for guard in known.json["receipt"]["guards"]] == ["drained", "silenced", "killed", "unknown"]


def test_the_status_is_0_only_if_nothing_is_unknown(rescind: Rescind) -> None:
    down = nobody()
    with serving(switch_with({"guard_id": "g1", "state": "drained", "bound_ms": 2.0})) as switch:
        assert rescind("stop", "agent:x", "--wait", "5s", *of(switch.url)).status == 0
        unheard = rescind("stop", "agent:x", "--wait", "100ms", *of(switch.url, down))
    with serving(switch_with({"guard_id": "g1", "state": "drained"}, heard=["sw_2", down])) as switch:
        answered_for = rescind("stop", "agent:x", "--wait", "5s", *of(switch.url, down))

    assert unheard.status == 1
    assert f"UNHEARD: {down} did not answer" in unheard.out
    assert answered_for.status == 0
    assert "holds everywhere: 1 process" in answered_for.out


def test_a_switch_without_guards_says_so(rescind: Rescind) -> None:
    with serving(switch_with()) as switch:
        answered = rescind("stop", "agent:x", "--wait", *of(switch.url))

    assert answered.status == 0
    assert "no guard is known to these switches; the order binds whoever starts later" in answered.out


# --- two readers, one stop ---


@pytest.mark.parametrize("more", [(), ("--level", "paused"), ("--json",), ("--actor", "ana", "--token-file", "mine")])
def test_the_quick_way_and_the_full_one_ask_the_same(rescind: Rescind, folder: Path, more: tuple[str, ...]) -> None:
    from rescind.cli.stop import stop

    (folder / "mine").write_text("rsc_mine")
    with serving(saying(placed)) as switch:
        words = ("agent:x", "--reason", "r", *of(switch.url), *more)
        assert rescind("stop", *words).status == 0
        assert stop.main(list(words), standalone_mode=False) == 0

    quick, full = switch.asked
    assert quick[2] | {"content-length": ""} == full[2] | {"content-length": ""}
    without = [{**json.loads(asked[3]), "order_id": "", "placed_at": ""} for asked in (quick, full)]
    assert without[0] == without[1]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10.0), ("10s", 10.0), ("500ms", 0.5), ("1m", 60.0), ("1 min", 60.0), ("0.5", 0.5), ("1h", 3600.0)],
)
def test_durations_are_read_as_people_type_them(text: str, seconds: float) -> None:
    assert is_duration(text)
    assert parse_duration(text, least_s=0.0, most_s=3600.0) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1d", "10x", "1,5s", "everything", "٣s", "1e3", "inf", "nan"])
def test_what_is_no_duration_is_none(text: str) -> None:
    assert not is_duration(text)
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text, least_s=0.0, most_s=3600.0)


def test_somebody_who_watches_a_terminal_sees_the_receipt_grow(folder: Path) -> None:
    stages = iter(["unknown", "bound", "bound"])

    def grow(asked: Asked) -> bytes:
        if asked[0] == "POST":
            return placed(asked)
        return a_receipt(asked, {"guard_id": "g1", "state": next(stages, "drained"), "pid": 11, "in_flight": ["r/7"]})

    watched, terminal = pty.openpty()
    with serving(saying(grow)) as switch:
        stop = subprocess.Popen(
            [*RESCIND, "stop", "agent:x", "--wait", "10s", *of(switch.url)],
            stdout=terminal,
            stderr=terminal,
            env=dict(os.environ) | {"TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # how Linux says that nobody writes to a terminal any more
            while piece := os.read(watched, 65_536):
                shown += piece
        os.close(watched)
        assert stop.wait(10.0) == 0

    text = shown.decode()
    places = [
        text.index(word) for word in ("unknown  pid 11", "bound    pid 11", "drained  pid 11", "holds everywhere")
    ]
    assert places == sorted(places)
    assert "in flight: r/7" in text
