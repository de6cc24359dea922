"""A guard's signals on their way: nobody waits for them, every switch hears them, and what is lost is counted."""

import json
import socket
import threading
from pathlib import Path

import pytest

from builders import NOON, an_order
from rescind.clock import SystemClock
from rescind.guard.guard import Guard
from rescind.model.level import Level
from rescind.model.order import Measure
from rescind.model.scope import Scope
from rescind.model.signal import Severity, Signal, SignalKind
from rescind.switch.client.asking import Switches
from rescind.switch.client.signals import SignalPoster
from switch.client.scripted import Asked, Script, answer, problem, serving
from switch.http.service import running

PATIENCE_S = 20.0


def a_signal(number: int = 1, scope: str = "run:r-1") -> Signal:
    return Signal(
        signal_id=f"sig-{number}",
        kind=SignalKind.BLAST_RADIUS,
        rule="records_per_run",
        severity=Severity.HIGH,
        scope=Scope.parse(scope),
        detail="101 records",
        facts={"records": 101},
        noticed_at=NOON,
        run_id="r-1",
        source="g-1",
    )


def a_poster(*urls: str, token: str = "", queue_max: int = 256) -> SignalPoster:
    return SignalPoster(Switches(urls=urls, token=token), clock=SystemClock(), queue_max=queue_max)


def taking(connection: socket.socket, asked: Asked) -> None:
    signal_id = json.loads(asked[3])["signal_id"]
    connection.sendall(answer(201, {"switch_id": "sw_1", "signal_id": signal_id, "newer": 1}))


def test_every_switch_is_told_of_every_signal_in_their_order() -> None:
    with serving(taking) as one, serving(taking) as two:
        poster = a_poster(one.url, two.url, token="secret")
        for number in range(5):
            poster.put(a_signal(number))
        assert poster.flush(PATIENCE_S)
        for switch in (one, two):
            assert [body["signal_id"] for body in switch.bodies()] == [f"sig-{number}" for number in range(5)]
            assert switch.asked[0][:2] == ("POST", "/v1/signals")
            assert switch.asked[0][2]["authorization"] == "Bearer secret"
    assert poster.notice() == ""


def test_orders_go_as_what_is_asked_for_and_only_those_about_own_runs_keep_their_ids() -> None:
    own = an_order("ord-1", "tree:r-1", measure=Measure.QUARANTINE, trigger="loops")
    wide = an_order("ord-2", "agent:a", Level.READ_ONLY, trigger="blast_radius")
    with serving(taking) as switch:
        poster = a_poster(switch.url)
        poster.tell(a_signal(), (own,), (wide,), None)
        assert poster.flush(PATIENCE_S)
        (body,) = switch.bodies()
    assert [(ask["scope"], ask["measure"], ask["rule"], ask["order_id"]) for ask in body["asks"]] == [
        ("tree:r-1", "quarantine", "loops", "ord-1"),
        ("agent:a", "level", "blast_radius", ""),
    ]


def test_nobody_waits_for_a_switch_that_hangs_and_the_newest_signals_are_kept() -> None:
    go_on, arrived = threading.Event(), threading.Event()

    def hanging(connection: socket.socket, asked: Asked) -> None:
        arrived.set()
        go_on.wait(PATIENCE_S)
        taking(connection, asked)

    with serving(hanging) as switch:
        poster = a_poster(switch.url, queue_max=3)
        poster.put(a_signal(0))
        assert arrived.wait(PATIENCE_S)
        clock = SystemClock()
        began_s = clock.monotonic_s()
        for number in range(1, 11):
            poster.put(a_signal(number))
        assert clock.monotonic_s() - began_s < 0.5
        assert poster.notice() == "signals lost: 7 dropped, since more were noticed than could be sent"
        go_on.set()
        assert poster.flush(PATIENCE_S)
        assert [body["signal_id"] for body in switch.bodies()] == ["sig-0", "sig-8", "sig-9", "sig-10"]


def refusing(connection: socket.socket, _asked: Asked) -> None:
    connection.sendall(problem(403, "not yours"))


def another(connection: socket.socket, _asked: Asked) -> None:
    connection.sendall(answer(201, {"switch_id": "sw_1", "signal_id": "sig-other"}))


@pytest.mark.parametrize(("script", "says"), [(refusing, "not yours"), (another, "names another signal")])
def test_what_no_switch_has_taken_is_counted_with_the_reason(script: Script, says: str) -> None:
    with serving(script) as switch:
        poster = a_poster(switch.url)
        poster.put(a_signal())
        assert poster.flush(PATIENCE_S)
    assert "signals lost: 1 that no switch has taken; the last one: " in poster.notice()
    assert says in poster.notice()


def test_a_guard_tells_with_its_report_how_many_were_lost(tmp_path: Path) -> None:
    with serving(refusing) as switch:
        (tmp_path / "rescind.yaml").write_text(f"store: store\nswitch: {{urls: [{switch.url}]}}\n")
        guard = Guard.from_config(tmp_path / "rescind.yaml")
        assert guard.notice() == ""
        assert guard.teller is not None
        guard.teller.put(a_signal())
        assert guard.teller.flush(PATIENCE_S)
        assert "1 that no switch has taken" in guard.notice()
        guard.close()


def test_a_file_of_certificates_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    switches = Switches(urls=("https://127.0.0.1:9",), ca_file=str(tmp_path / "gone.pem"))
    poster = SignalPoster(switches, clock=SystemClock())
    poster.put(a_signal())
    assert poster.flush(PATIENCE_S)
    assert "1 that no switch has taken" in poster.notice()


def test_without_a_switch_nothing_is_sent_and_no_thread_begun() -> None:
    before = threading.active_count()
    poster = a_poster()
    poster.put(a_signal())
    assert threading.active_count() == before
    assert poster.flush(0)


def test_a_real_switch_takes_a_guard_s_signal_within_its_identity(tmp_path: Path) -> None:
    with running(tmp_path, roles=("agent", "viewer")) as switch:
        poster = a_poster(switch.url, token=switch.tokens["agent"])
        poster.put(a_signal(), incident="inc_1")
        assert poster.flush(PATIENCE_S)
        assert poster.notice() == ""
        (noticed,) = switch.look("/v1/signals")["signals"]
    assert (noticed["signal"]["signal_id"], noticed["signal"]["scope"]) == ("sig-1", "agent:billing-agent+run:r-1")
    assert noticed["person"] == "agent-name"
