"""A guard that follows switches: real sockets, a switch that does as it is told, and the guard's own thread."""

import asyncio
import contextlib
import ipaddress
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from builders import a_lift, an_order
from rescind.config import NO_WAITING, SwitchConfig
from rescind.errors import CallDenied, ConfigError, OutcomeNotRecorded, RunHalted
from rescind.guard.guard import Guard
from rescind.model.level import Level
from switch.client.told_switch import ToldSwitch, eventually

TTL_S = 1.0


@pytest.fixture
def switch() -> Iterator[ToldSwitch]:
    with ToldSwitch() as switch:
        yield switch


class Desk:
    """A guard with a read and a write, following these switches."""

    def __init__(self, store: Path, *urls: str, token: str = "sesame", **settings: Any) -> None:
        settings = {"lease_ttl_s": TTL_S, "start_within_s": 5.0} | settings
        self.guard = Guard.at(store, switch=SwitchConfig(urls=urls, **settings), token=token, approval=NO_WAITING)
        self.effects: list[str] = []

        @self.guard.read("price.get")
        def get(item: str) -> str:
            return item

        @self.guard.write("price.set", irreversible="a test")
        def put(item: str) -> None:
            self.effects.append(item)

        self.get, self.put = get, put

    def writes(self) -> bool:
        try:
            self.put("tea")
        except (CallDenied, RunHalted):
            return False
        return True

    def reads(self) -> bool:
        try:
            self.get("tea")
        except (CallDenied, RunHalted):
            return False
        return True

    def __enter__(self) -> "Desk":
        return self

    def __exit__(self, *_: object) -> None:
        self.guard.close()


def test_an_order_of_a_switch_binds_is_acknowledged_and_goes_when_it_is_lifted(
    tmp_path: Path, switch: ToldSwitch
) -> None:
    with Desk(tmp_path, switch.url) as desk, desk.guard.run("shop@1", tenant="acme", run_id="run-1"):
        assert desk.writes()
        sequence = switch.place(an_order("ord-1", "tenant:acme", Level.READ_ONLY))
        report = switch.bound(sequence)
        assert report.drained
        assert [(run.run_id, run.agent, run.tenant, run.level) for run in report.runs] == [
            ("run-1", "shop@1", "acme", "read_only")
        ]
        assert not desk.writes()  # it was bound before it was acknowledged
        assert desk.reads()
        switch.bound(switch.lift("ord-1"))
        assert desk.writes()
    assert set(switch.tokens) == {"Bearer sesame"}


def test_a_halt_by_a_switch_ends_a_run_that_makes_no_call(tmp_path: Path, switch: ToldSwitch) -> None:
    with Desk(tmp_path, switch.url) as desk, desk.guard.run("shop@1") as run:
        switch.bound(switch.place(an_order("ord-1", "agent:shop")))
        assert run.halted
        switch.bound(switch.lift("ord-1"))
        with pytest.raises(RunHalted) as caught:
            desk.get("tea")
        assert caught.value.order_ids == ("ord-1",)
        with pytest.raises(RunHalted):
            desk.guard.run("shop@1").__enter__()  # of the halted run's context
    with desk.guard.run("shop@1"):
        assert desk.writes()
    desk.guard.close()


def test_an_order_that_stood_before_the_guard_began_stands_at_its_first_call(
    tmp_path: Path, switch: ToldSwitch
) -> None:
    switch.place(an_order(level=Level.READ_ONLY))
    with Desk(tmp_path, switch.url) as desk, desk.guard.run("shop@1"):
        assert desk.reads()
        assert not desk.writes()


def test_a_lift_on_this_machine_lifts_no_order_of_a_switch(tmp_path: Path, switch: ToldSwitch) -> None:
    order = an_order(level=Level.READ_ONLY)
    with Desk(tmp_path, switch.url) as desk, desk.guard.run("shop@1"):
        desk.guard.orders.place(order)
        assert not desk.writes()
        switch.bound(switch.place(order))
        desk.guard.orders.lift(a_lift(order.order_id))
        assert not desk.writes()
        desk.guard.orders.place(an_order("ord-2", level=Level.READ_ONLY))
        switch.bound(switch.lift(order.order_id))
        assert not desk.writes()  # and the other way round
        desk.guard.orders.lift(a_lift("ord-2", lift_id="lift-2"))
        assert desk.writes()


def test_calls_in_flight_are_named_and_their_end_is_a_second_report(tmp_path: Path, switch: ToldSwitch) -> None:
    began, may_end = threading.Event(), threading.Event()
    with Desk(tmp_path, switch.url) as desk:

        @desk.guard.write("slow", irreversible="a test")
        def slow() -> None:
            began.set()
            assert may_end.wait(20)

        def work() -> None:
            with desk.guard.run("shop@1", run_id="run-1"):
                slow()

        thread = threading.Thread(target=work)
        thread.start()
        assert began.wait(20)
        sequence = switch.place(an_order(level=Level.PAUSED))
        report = switch.bound(sequence)
        assert (report.drained, report.in_flight, report.in_flight_count) == (False, ("run-1/1",), 1)
        may_end.set()
        report = switch.report_of(lambda report: report.bound >= sequence and report.drained)
        assert report.in_flight == ()
        thread.join()


def test_silence_lowers_within_the_lease_and_a_voice_raises_again(tmp_path: Path, switch: ToldSwitch) -> None:
    with Desk(tmp_path, switch.url) as desk, desk.guard.run("shop@1") as run:
        assert desk.writes()
        assert desk.guard.fault() == ""
        switch.silent = True
        began = time.monotonic()
        eventually(lambda: not desk.writes(), "the lease to run out")
        assert time.monotonic() - began < TTL_S + 0.3
        assert desk.reads()
        with pytest.raises(CallDenied, match=r"no switch has been heard.*Do not retry"):
            desk.put("tea")
        assert "no switch has been heard" in desk.guard.fault()
        assert run.report().level is Level.READ_ONLY
        switch.silent = False
        eventually(desk.writes, "the lease to be renewed")
        assert desk.guard.fault() == ""


@pytest.mark.parametrize(("level", "reads"), [("supervised", True), ("paused", False), ("halted", False)])
def test_a_silence_holds_at_the_configured_level_and_is_no_halt(
    tmp_path: Path, switch: ToldSwitch, level: str, reads: bool
) -> None:
    with Desk(tmp_path, switch.url, on_silence=level) as desk, desk.guard.run("shop@1") as run:
        switch.silent = True
        eventually(lambda: not desk.writes(), "the lease to run out")
        assert desk.reads() == reads
        with pytest.raises(RunHalted if level == "halted" else CallDenied):
            desk.put("tea")
        assert not run.halted
        switch.silent = False
        eventually(desk.writes, "the lease to be renewed")


def test_a_switch_that_could_not_take_a_stop_renews_nothing(tmp_path: Path, switch: ToldSwitch) -> None:
    switch.renews = False
    with Desk(tmp_path, switch.url) as desk, desk.guard.run("shop@1"):
        assert not desk.writes()
        assert desk.reads()
        switch.renews = True
        eventually(desk.writes, "a beat that renews")


def test_a_guard_that_hears_nobody_starts_lowered_after_a_bounded_wait(tmp_path: Path) -> None:
    with ToldSwitch() as gone:
        url = gone.url
    with Desk(tmp_path, url, start_within_s=0.2) as desk:
        began = time.monotonic()
        with desk.guard.run("shop@1"):
            assert 0.2 <= time.monotonic() - began < 2
            assert not desk.writes()
            assert desk.reads()
            port = int(url.rpartition(":")[2])
            with ToldSwitch(port=port):
                eventually(desk.writes, "the switch that came up")


def test_one_of_two_switches_is_enough_to_go_on_and_to_stop(tmp_path: Path) -> None:
    with ToldSwitch(switch_id="a") as one, ToldSwitch(switch_id="b") as other:  # noqa: SIM117
        with Desk(tmp_path, one.url, other.url) as desk, desk.guard.run("shop@1"):
            one.report_of(lambda report: report.hears == ("a", "b"))
            one.silent = True
            assert other.streams_open == 1
            deadline = time.monotonic() + 1.5 * TTL_S
            while time.monotonic() < deadline:
                assert desk.writes()
                time.sleep(0.02)
            other.bound(other.place(an_order(level=Level.READ_ONLY)))
            assert not desk.writes()


def test_a_lift_that_one_switch_tells_counts_although_another_has_not_heard_of_it(tmp_path: Path) -> None:
    with ToldSwitch(switch_id="a") as one, ToldSwitch(switch_id="b") as other:
        for each in (one, other):
            each.place(an_order("ord-1", level=Level.READ_ONLY))
        with Desk(tmp_path, one.url, other.url) as desk, desk.guard.run("shop@1"):
            one.report_of(lambda report: report.hears == ("a", "b"))
            one.bound(one.lift("ord-1"))
            assert desk.writes()
            other.hang_up()  # and says again that it stands
            eventually(lambda: len(other.hellos) >= 2 and other.streams_open, "the second connection")
            other.bound(other.place(an_order("ord-2", "agent:other")))
            assert desk.writes()


@pytest.mark.parametrize(
    "garbage",
    [
        b"event: order\ndata: {nonsense\n\n",
        b"event: set\ndata: {}\n\n",
        b'event: beat\ndata: {"sequence": 1, "at_s": "soon", "renews": true}\n\n',
        b"event: lift\ndata: " + b"[" * 100_000 + b"\n\n",
        b"\xff\xfe\x00\n\nevent: beat\n\n",
    ],
)
def test_garbage_loosens_nothing_and_is_followed_by_a_new_connection(
    tmp_path: Path, switch: ToldSwitch, garbage: bytes
) -> None:
    with Desk(tmp_path, switch.url) as desk, desk.guard.run("shop@1"):
        switch.bound(switch.place(an_order("ord-1", level=Level.READ_ONLY)))
        switch.say(garbage)
        eventually(lambda: len(switch.hellos) >= 2, "the guard to connect again")
        assert not desk.writes()
        switch.bound(switch.lift("ord-1"))
        assert desk.writes()


def test_an_event_of_a_newer_switch_is_skipped_and_new_fields_are_ignored(tmp_path: Path, switch: ToldSwitch) -> None:
    with Desk(tmp_path, switch.url) as desk, desk.guard.run("shop@1"):
        switch.say(b'event: weather\ndata: {"sky": "blue"}\n\n')
        switch.say(
            b'event: order\ndata: {"sequence": 7, "because": "new", "order": {"scope": "everything",'
            b'"level": "read_only", "order_id": "ord-9", "placed_at": "2026-11-21T12:00:00Z", "colour": "red"}}\n\n'
        )
        switch.bound(7)
        assert not desk.writes()
        assert len(switch.hellos) == 1


@pytest.mark.parametrize("status", [401, 403, 409, 410, 302])
def test_a_refused_token_is_said_and_never_shown(tmp_path: Path, switch: ToldSwitch, status: int) -> None:
    switch.status = status
    with Desk(tmp_path, switch.url, token="open-sesame", start_within_s=0.3) as desk, desk.guard.run("shop@1"):
        fault = eventually(lambda: str(status) in (said := desk.guard.fault()) and said, "the fault")
        assert switch.url in fault
        assert "open-sesame" not in fault
        assert not desk.writes()
        assert "open-sesame" not in repr(vars(desk.guard._subscription))


def test_a_switch_that_refuses_reports_is_heard_all_the_same(tmp_path: Path) -> None:
    with ToldSwitch(switch_id="a") as one, ToldSwitch(switch_id="b") as other:  # noqa: SIM117
        with Desk(tmp_path, one.url, other.url) as desk, desk.guard.run("shop@1"):
            one.report_of(lambda report: report.hears == ("a", "b"))
            one.status = 403
            one.place(an_order("ord-1", level=Level.READ_ONLY))
            eventually(lambda: not desk.writes(), "the order")
            assert desk.guard.fault() == ""  # nothing is refused on its own account
            one.hang_up()
            eventually(lambda: len(one.hellos) >= 2, "the second connection")
            other.place(an_order("ord-2", "agent:other"))
            assert f"{one.url}: it answers 403" in other.report_of(lambda report: report.fault).fault


def test_a_switch_that_is_slow_to_answer_delays_neither_its_own_stream_nor_the_other(tmp_path: Path) -> None:
    with ToldSwitch(switch_id="a") as slow, ToldSwitch(switch_id="b") as other:
        slow.answer_s = 3.0
        with Desk(tmp_path, slow.url, other.url) as desk, desk.guard.run("shop@1"):
            assert desk.writes()
            began = time.monotonic()
            slow.place(an_order("ord-1", level=Level.READ_ONLY))
            eventually(lambda: not desk.writes(), "the slow one's order")
            other.bound(other.place(an_order("ord-2", level=Level.PAUSED)))
            assert not desk.reads()
            assert time.monotonic() - began < 2.0


def test_closing_says_goodbye_and_whoever_goes_on_is_registered_again(tmp_path: Path, switch: ToldSwitch) -> None:
    with Desk(tmp_path, switch.url) as desk, desk.guard.run("shop@1"):
        assert desk.writes()
        desk.guard.close()
        assert switch.report_of(lambda report: report.leaving).leaving
        eventually(lambda: not switch.streams_open, "the stream to end")
        assert desk.writes()
        assert len(switch.hellos) == 2


def test_closing_takes_a_bounded_time_when_nobody_answers(tmp_path: Path, switch: ToldSwitch) -> None:
    with Desk(tmp_path, switch.url) as desk, desk.guard.run("shop@1"):
        switch.answer_s = 4.0
        began = time.monotonic()
        desk.guard.close()
        assert time.monotonic() - began < 2.5


def test_nothing_begins_before_the_first_run(tmp_path: Path, switch: ToldSwitch) -> None:
    before = {thread.name for thread in threading.enumerate()}
    desk = Desk(tmp_path, switch.url)
    assert not switch.hellos
    assert "rescind-subscription" not in {thread.name for thread in threading.enumerate()} - before
    desk.guard.close()


def test_an_asynchronous_program_waits_without_blocking_its_loop(tmp_path: Path) -> None:
    ticks = 0

    async def ticking() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    async def program(desk: Desk) -> None:
        ticker = asyncio.ensure_future(ticking())
        async with desk.guard.run("shop@1"):
            assert ticks > 10
            assert not desk.writes()
            with ToldSwitch(port=port) as switch:
                while not desk.writes():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                switch.place(an_order(level=Level.READ_ONLY))
                while desk.writes():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        ticker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticker

    with ToldSwitch() as gone:
        port = gone.port
    with Desk(tmp_path, f"http://127.0.0.1:{port}", start_within_s=0.3) as desk:
        asyncio.run(asyncio.wait_for(program(desk), 20))


def test_a_run_that_is_given_up_while_it_waits_for_a_switch_is_not_open(tmp_path: Path) -> None:
    with ToldSwitch() as gone:
        url = gone.url

    async def program(desk: Desk) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await desk.guard.run("shop@1").__aenter__()
        assert desk.guard.live_runs() == ()

    with Desk(tmp_path, url, start_within_s=10) as desk:
        asyncio.run(program(desk))


def test_an_unusable_configuration_is_said_at_the_first_run(tmp_path: Path) -> None:
    with Desk(tmp_path, "http://127.0.0.1:9", token="two words") as desk, pytest.raises(ConfigError) as caught:
        desk.guard.run("shop@1").__enter__()
    assert "two words" not in str(caught.value)
    with (
        Desk(tmp_path, "https://127.0.0.1:9", ca_file="/nowhere/ca.pem") as desk,
        pytest.raises(ConfigError, match="ca_file"),
    ):
        desk.guard.run("shop@1").__enter__()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, ssl.SSLContext]]:
    """For a name or address: a certificate that vouches for itself, and a server's context with it."""

    def make(name: str) -> tuple[Path, ssl.SSLContext]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
        san = x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
        certificate = (
            x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(days=1))
            .not_valid_after(datetime.now(UTC) + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([san]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        folder = tmp_path_factory.mktemp("tls")
        (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / "key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
        return folder / "ca.pem", context

    return make


Certificates = Callable[[str], tuple[Path, ssl.SSLContext]]


def test_a_switch_with_tls_is_followed_by_who_believes_its_certificate(
    tmp_path: Path, certificates: Certificates
) -> None:
    authorities, tls = certificates("127.0.0.1")
    with ToldSwitch(tls=tls) as switch:
        with Desk(tmp_path / "a", switch.url, ca_file=str(authorities)) as desk, desk.guard.run("shop@1"):
            switch.bound(switch.place(an_order(level=Level.READ_ONLY)))
            assert not desk.writes()
        heard = len(switch.hellos)
        with Desk(tmp_path / "b", switch.url, start_within_s=0.3) as desk, desk.guard.run("shop@1"):
            eventually(lambda: "certificate" in desk.guard.fault(), "the fault")
            assert len(switch.hellos) == heard  # nothing was said to it, least of all the token


def test_a_certificate_for_another_name_is_not_believed(tmp_path: Path, certificates: Certificates) -> None:
    authorities, tls = certificates("switch.example")
    with ToldSwitch(tls=tls) as switch:  # noqa: SIM117
        with Desk(tmp_path, switch.url, ca_file=str(authorities), start_within_s=0.3) as desk, desk.guard.run("a@1"):
            eventually(lambda: "certificate" in desk.guard.fault(), "the fault")
            assert not switch.hellos
            assert not desk.writes()


def test_a_line_that_is_silent_for_three_beats_and_a_second_is_taken_up_anew(
    tmp_path: Path, switch: ToldSwitch
) -> None:
    with Desk(tmp_path, switch.url) as desk, desk.guard.run("shop@1"):
        switch.silent = True
        began = time.monotonic()
        eventually(lambda: len(switch.hellos) >= 2, "the second connection")
        assert 1.2 < time.monotonic() - began < 3.0


def test_a_guard_follows_as_its_configuration_says(
    tmp_path: Path, switch: ToldSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agent.token").write_text("from-a-file\n")
    (tmp_path / "rescind.yaml").write_text(f"switch:\n  urls: ['{switch.url}/']\n  token_file: agent.token\n")
    monkeypatch.setenv("RESCIND_SUPERVISOR", "guard-above")
    guard = Guard.from_config(tmp_path / "rescind.yaml")
    with guard.run("shop@1"):
        assert guard.fault() == ""
    guard.close()
    assert switch.tokens[0] == "Bearer from-a-file"
    _, hello = switch.hellos[0]
    assert (hello.bound, hello.switches, hello.supervisor, hello.on_silence) == (-1, 1, "guard-above", "read_only")


# --- what the guard's own surroundings can do ---


def test_a_switch_of_the_agents_own_can_hold_it_and_neither_lift_nor_renew(
    tmp_path: Path, switch: ToldSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rescind.yaml").write_text(f"switch: {{urls: [{switch.url}], lease_ttl_s: 1, start_within_s: 5}}\n")
    switch.place(an_order("ord-1", "agent:shop", Level.READ_ONLY))
    with ToldSwitch(switch_id="the-agents-own") as own:
        monkeypatch.setenv("RESCIND_URL", own.url)
        own.lifted.append("ord-1")
        guard = Guard.from_config(tmp_path / "rescind.yaml")
        put = guard.write("price.set", irreversible="a test")(lambda: None)

        def says() -> str:
            try:
                put()
            except (CallDenied, RunHalted) as error:
                return str(error)
            return "written"

        with contextlib.closing(guard), guard.run("shop@1"):
            own.bound(0)
            own.bound(own.lift("ord-1"))
            assert "ord-1" in says()
            switch.lift("ord-1")
            eventually(lambda: says() == "written", "the lift of the switch that is named in the file")
            own.place(an_order("ord-2", "agent:shop", Level.READ_ONLY))
            eventually(lambda: "ord-2" in says(), "the stop by the other")
            own.lift("ord-2")
            eventually(lambda: says() == "written", "its lift")
            switch.silent = True
            eventually(lambda: "no switch has been heard" in says(), "the lease to run out")
            assert "may only hold it" in guard.fault()
            assert own.streams_open == 1
    assert [(report.switches, report.hears) for _, report in switch.reports][-1] == (1, ("switch-1",))


# --- a guard that is closed ---


def test_a_guard_that_is_closed_while_a_step_runs_does_not_say_that_it_has_left(
    tmp_path: Path, switch: ToldSwitch
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    with Desk(tmp_path, switch.url) as desk:

        @desk.guard.write("price.slow", irreversible="a test")
        def slow() -> None:
            begun.set()
            may_end.wait(20.0)

        with desk.guard.run("shop@1") as run:

            def work() -> None:
                with run.activate(), contextlib.suppress(OutcomeNotRecorded):  # the journal is closed as well
                    slow()

            thread = threading.Thread(target=work)
            thread.start()
            assert begun.wait(20.0)
            switch.bound(0)
            desk.guard.close()
            eventually(lambda: switch.streams_open == 0, "the end of its stream")
            assert not any(report.leaving for _, report in switch.reports)
            may_end.set()
            thread.join()


def test_a_guard_that_goes_on_after_it_was_closed_has_another_name(tmp_path: Path, switch: ToldSwitch) -> None:
    with Desk(tmp_path, switch.url) as desk, desk.guard.run("shop@1"):
        assert desk.writes()
        first = desk.guard.guard_id
        desk.guard.close()
        assert desk.writes()
        assert desk.guard.guard_id != first
        left = {guard_id for guard_id, report in switch.reports if report.leaving}
        assert left == {first}  # a goodbye that is read late cannot be held against the one that lives
        assert [guard_id for guard_id, _ in switch.hellos] == [first, desk.guard.guard_id]
