"""Alerts of a real switch: delivered and signed where somebody listens, and in nobody's way where somebody hangs."""

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from acceptance.bank import until
from rescind.switch.alerts import new_webhook_secret

RESCIND = str(Path(sys.executable).with_name("rescind"))
STOPS = 30


class Switch:
    """A switch that tells one receiver."""

    def __init__(self, folder: Path, receiver: str) -> None:
        self.secret, secret_file = new_webhook_secret(), folder / "secret"
        secret_file.write_text(self.secret)
        words = ["switch", "--data", str(folder / "switch"), "--port", "0", "--json", "--alert", receiver]
        self._process = subprocess.Popen(
            [RESCIND, *words, "--webhook-secret-file", str(secret_file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        self.url = json.loads(self._process.stdout.readline())["url"]

    def ask(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body) if body else None, {"content-type": "application/json"})
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found

    def stop(self, scope: str) -> dict[str, Any]:
        return self.ask("POST", "/v1/orders", {"scope": scope, "level": "halted", "reason": "a test"})

    def end(self) -> None:
        self._process.terminate()
        assert self._process.stdout is not None
        self._process.stdout.close()
        assert self._process.wait(20) == 0


@contextlib.contextmanager
def switch_telling(receiver: str, folder: Path) -> Generator[Switch]:
    switch = Switch(folder, receiver)
    try:
        yield switch
    finally:
        switch.end()


@pytest.fixture
def hanging() -> Iterator[str]:
    """Takes connections, reads, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/hook"


def test_a_receiver_that_hangs_delays_no_stop_and_is_shown(hanging: str, tmp_path: Path) -> None:
    with switch_telling(hanging, tmp_path) as switch:
        began_s = time.monotonic()
        for number in range(STOPS):
            assert switch.stop(f"agent:a-{number}")["known_before"] is False
        took_s = time.monotonic() - began_s
        # One attempt is given ten seconds. Had only a single stop waited for it, this would show.
        assert took_s < 8.0

        (channel,) = switch.ask("GET", "/health")["alerts"]
        assert channel["delivered"] == 0
        assert channel["pending"] >= STOPS - 1
        until(lambda: switch.ask("GET", "/health")["alerts"][0]["failing_since"] is not None, "the failure is seen")
        said = subprocess.run(
            [RESCIND, "status", "--switch", switch.url], cwd=tmp_path, capture_output=True, text=True, timeout=30
        ).stdout
        assert "alert" in said


@pytest.fixture
def receiver() -> Iterator[tuple[str, "queue.Queue[tuple[dict[str, str], bytes]]"]]:
    received: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.put(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook", received
        server.shutdown()


def test_an_order_is_told_signed_and_once(
    receiver: tuple[str, "queue.Queue[tuple[dict[str, str], bytes]]"], tmp_path: Path
) -> None:
    url, received = receiver
    with switch_telling(url, tmp_path) as switch:
        order = switch.stop("agent:billing-agent")["order"]
        headers, body = received.get(timeout=20)

    event = json.loads(body)
    assert event["type"] == "dev.rescind.order.placed.v1"
    assert event["subject"] == f"order/{order['order_id']}"
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(switch.secret.removeprefix("whsec_"))
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert f"v1,{signature}" in headers["webhook-signature"].split()
    assert received.empty()
