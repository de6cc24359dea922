"""A switch as a process: how it starts, what it refuses to start with, what it bears, and how it ends."""

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from acceptance.bank import until
from switch.http.service import PATIENCE_S, RESCIND, RunningSwitch, running


def ends_with(folder: Path, *options: str) -> tuple[int, str]:
    """The exit status and the words of a switch that does not start."""
    command = [RESCIND, "switch", "--data", str(folder), "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return done.returncode, done.stderr


def address_of(switch: RunningSwitch) -> tuple[str, int]:
    host, _, port = switch.url.removeprefix("http://").partition(":")
    return host, int(port)


@contextlib.contextmanager
def a_stream(switch: RunningSwitch, *, receive_buffer: int = 0) -> Generator[socket.socket]:
    """A stream of a viewer, whose answer nobody has read yet."""
    with socket.socket() as connection:
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(PATIENCE_S)
        connection.connect(address_of(switch))
        token = f"Authorization: Bearer {switch.tokens['viewer']}\r\n" if "viewer" in switch.tokens else ""
        connection.sendall(f"GET /v1/stream HTTP/1.1\r\nHost: x\r\n{token}\r\n".encode())
        yield connection


def resident_kib(process: "subprocess.Popen[bytes]") -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


# --- what it does not start with ---


def test_a_port_that_is_taken_is_a_usage_error_with_a_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, said = ends_with(tmp_path, "--port", str(taken.getsockname()[1]))
    assert status == 2
    assert "name another with --host and --port" in said


def test_a_certificate_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    for name in ("none.pem", "bad.pem"):
        path = str(tmp_path / name)
        status, said = ends_with(tmp_path / "switch", "--cert", path, "--key", path)
        assert status == 2, said
        assert "cannot be used" in said
        assert name in said
    assert ends_with(tmp_path / "switch", "--cert", path)[0] == 2


def test_authorities_for_peers_that_cannot_be_read_are_a_usage_error(tmp_path: Path) -> None:
    status, said = ends_with(tmp_path / "switch", "--peer-ca-file", str(tmp_path / "none.pem"))
    assert status == 2
    assert "--peer-ca-file" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--host", "0.0.0.0"), "rescind token create"),
        (("--behind-proxy",), "a proxy in front of 127.0.0.1"),
        (("--host", "0.0.0.0", "--behind-proxy"), "rescind token create"),
    ],
)
def test_it_does_not_give_power_to_strangers_unless_told_so(
    tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    status, said = ends_with(tmp_path / "switch", *options)
    assert status == 2
    assert says in said


def test_it_does_not_send_tokens_in_the_clear_beyond_its_machine(tmp_path: Path) -> None:
    words = ["token", "create", "--data", str(tmp_path), "--role", "viewer", "--name", "vera"]
    subprocess.run([RESCIND, *words], check=True, capture_output=True, timeout=PATIENCE_S)
    status, said = ends_with(tmp_path, "--host", "0.0.0.0")
    assert status == 2
    assert "--cert" in said


def test_a_folder_serves_one_switch_and_is_free_again_when_that_was_killed(tmp_path: Path) -> None:
    with running(tmp_path) as switch:
        status, said = ends_with(switch.data)
        assert status == 2
        assert "another switch runs on" in said

        switch.process.kill()
        switch.process.wait(PATIENCE_S)
        for pipe in (switch.process.stdout, switch.process.stderr):
            assert pipe is not None
            pipe.close()
        switch.start()
        assert switch.ask("GET", "/health").status == 200


# --- how it ends ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_within_seconds_and_with_status_0_whoever_still_listens(tmp_path: Path, number: int) -> None:
    with running(tmp_path) as switch, contextlib.ExitStack() as streams:
        listening = [streams.enter_context(a_stream(switch)) for _ in range(5)]
        for stream in listening:
            assert b"event: set" in stream.recv(65_536) + stream.recv(65_536)
        streams.enter_context(a_stream(switch))
        half = streams.enter_context(socket.create_connection(address_of(switch)))
        half.sendall(b"POST /v1/orders HTTP/1.1\r\ncontent-length: 100\r\n\r\n{")

        began_s = time.monotonic()
        switch.process.send_signal(number)
        assert switch.process.wait(PATIENCE_S) == 0
        assert time.monotonic() - began_s < 4.0  # two, and some for a busy machine
        for stream in listening:
            while stream.recv(65_536):
                pass


def test_it_ends_although_its_disk_hangs(tmp_path: Path) -> None:
    program = f"""
import threading
from rescind.cli import main
from rescind.switch.service.ledger import Ledger
Ledger.beat_disk = lambda self: threading.Event().wait()
raise SystemExit(main(["switch", "--data", {str(tmp_path)!r}, "--port", "0", "--json", "--beat", "0.1"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        url = str(json.loads(process.stdout.readline())["url"])

        def health() -> int:
            connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_S)
            with contextlib.closing(connection):
                connection.request("GET", "/health")
                return connection.getresponse().status

        until(lambda: health() == 503, "the disk to be found hanging")
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


# --- what it bears ---


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSwitch]:
    with running(tmp_path_factory.mktemp("process"), roles=("agent", "viewer", "operator")) as switch:
        yield switch


def test_a_head_without_an_end_is_refused_before_it_fills_the_memory(switch: RunningSwitch) -> None:
    before_kib = resident_kib(switch.process)
    for beginning in (b"GET /health HTTP/1.1\r\n", b"GET /"):
        with socket.create_connection(address_of(switch), timeout=PATIENCE_S) as connection:
            connection.sendall(beginning)
            with contextlib.suppress(OSError):
                for _ in range(1_000):
                    connection.sendall(b"x-more: " + b"y" * 60_000 + b"\r\n" if b"\r" in beginning else b"z" * 60_000)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(65_536).startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))
    assert resident_kib(switch.process) - before_kib < 20_000
    assert switch.ask("GET", "/health").status == 200


def test_a_stream_that_never_reads_costs_little_and_holds_up_nobody(switch: RunningSwitch) -> None:
    with a_stream(switch, receive_buffer=4_096), a_stream(switch) as other:
        before_kib = resident_kib(switch.process)
        for number in range(150):
            body = {"scope": "agent:x", "level": "paused", "order_id": f"long-{number}", "reason": "r" * 1_900}
            assert switch.ask("POST", "/v1/orders", body, token="operator").status == 201
        heard = b""
        while b'"long-149"' not in heard:
            heard += other.recv(1 << 20)
        assert resident_kib(switch.process) - before_kib < 30_000


def test_who_sends_its_report_slowly_is_served_and_so_is_one_in_two_pieces_with_the_next(switch: RunningSwitch) -> None:
    head = (
        f"PUT /v1/guards/g-slow HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {switch.tokens['agent']}\r\n"
        "content-type: application/json\r\ncontent-length: 9\r\n\r\n"
    ).encode()
    with socket.create_connection(address_of(switch), timeout=PATIENCE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head + b'{"pid":1}':
            connection.sendall(bytes([byte]))
        connection.sendall(head + b'{"pid":2}' + head + b'{"pid":')
        connection.sendall(b"3}")
        answers = b""
        while answers.count(b'"at_s"') < 3:
            answers += connection.recv(65_536)
    assert answers.count(b"HTTP/1.1 200 OK") == 3


def test_a_request_behind_a_stream_on_one_connection_waits_for_its_turn(switch: RunningSwitch) -> None:
    with a_stream(switch) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
        heard = b""
        while heard.count(b"event: beat") < 3:
            heard += connection.recv(65_536)
        assert heard.count(b"HTTP/1.1") == 1
    until(lambda: switch.ask("GET", "/health").json["guards_connected"] == 0, "the stream to be known to have ended")


def test_thousands_of_requests_in_one_packet_end_their_connection_and_nothing_else(switch: RunningSwitch) -> None:
    began_s = time.monotonic()
    with a_stream(switch) as connection, contextlib.suppress(OSError):
        for _ in range(10):
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10_000)
        while connection.recv(65_536):
            pass
    assert switch.ask("GET", "/health").status == 200
    assert time.monotonic() - began_s < 5.0


def test_secrets_are_in_no_log_and_no_file(tmp_path: Path) -> None:
    with running(tmp_path, roles=("agent", "operator", "viewer")) as switch:
        switch.stop("agent:x")
        switch.ask("POST", "/v1/orders", b"{", token="operator")
        switch.ask("GET", f"/v1/{switch.tokens['viewer']}", authorization=f"Basic {switch.tokens['operator']}")
        switch.ask("GET", "/v1/orders", token="rsc_wrong-secret")
        switch.process.terminate()
        _, said = switch.process.communicate(timeout=PATIENCE_S)
        kept = b"".join(path.read_bytes() for path in switch.data.iterdir())
        for secret in (*switch.tokens.values(), "rsc_wrong-secret"):
            assert secret.encode() not in said + kept
        # Ended already: so that the block's end has something to end.
        switch.start()


@pytest.mark.slow
def test_a_crowd_of_idle_connections_never_uses_up_the_files_that_a_stop_needs(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    command = ["bash", "-c", f'ulimit -n 400; exec "{RESCIND}" "$@"', "rescind", "switch", "--json", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--data", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ.copy()
    )
    try:
        assert process.stdout is not None
        url = str(json.loads(process.stdout.readline())["url"]).removeprefix("http://")
        assert hard == resource.RLIM_INFINITY or hard > 1_500
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1_500), hard))
        with contextlib.ExitStack() as crowd:
            for number in range(1_000):
                connection = crowd.enter_context(contextlib.closing(http.client.HTTPConnection(url, timeout=5.0)))
                with contextlib.suppress(OSError, http.client.HTTPException):
                    connection.connect()
                    if number % 2:  # half of them have asked for something, and keep the connection
                        connection.request("GET", "/health")
                        connection.getresponse().read()
            began_s = time.monotonic()
            stopping = crowd.enter_context(contextlib.closing(http.client.HTTPConnection(url, timeout=5.0)))
            body = json.dumps({"scope": "everything", "level": "halted"})
            stopping.request("POST", "/v1/orders", body, {"content-type": "application/json"})
            assert stopping.getresponse().status == 201
            assert time.monotonic() - began_s < 2.0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
