"""How soon a stop through a switch takes hold of a whole fleet, what the fleet costs, and how it comes back.

The yardstick is Redis: how long its pub/sub takes to deliver one message to as many subscribers, which do nothing with
it. It is measured in turn with ours, in the same run.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from bench.fleet import Fleet, raise_file_limit
from bench.form import Row, row

FLEETS = (100, 1_000, 10_000)
ROUNDS = 7
MEMORY_MAX_KIB = 40
BACK_WITHIN_S = 10.0


def measure() -> list[Row]:
    raise_file_limit()
    rows: list[Row] = []
    for count in FLEETS:
        rows += _fleet(count)
    return rows


# --- a fleet of one size ---


def _fleet(count: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder, switch(Path(folder), beat_s=30) as service, _redis() as redis_port:
        before_kib = _resident_kib(service.pid)
        fleet, subscribers = Fleet(service.address, count), _Subscribers(redis_port, count)
        try:
            fleet.connect()
            fleet.acknowledge()
            kib = (_resident_kib(service.pid) - before_kib) / count
            rows = _stops(count, service, fleet, subscribers)
            if count == max(FLEETS):
                rows += [_memory(count, kib), _herd(count, service, fleet)]
        finally:
            fleet.close()
            subscribers.close()
    return rows


def _stops(count: int, service: "Service", fleet: Fleet, subscribers: "_Subscribers") -> list[Row]:
    last_ms: list[float] = []
    p99_ms: list[float] = []
    complete_ms: list[float] = []
    redis_ms: list[float] = []
    for number in range(ROUNDS + 1):
        began_s = time.perf_counter()
        order_id, bound = fleet.bind_order(service.place)
        fleet.acknowledge()
        service.await_complete(order_id, count)
        took_s = time.perf_counter() - began_s
        delivered_s = subscribers.deliver()
        if number:  # the first one warms up
            last_ms.append(bound[-1] * 1000)
            p99_ms.append(bound[int(len(bound) * 0.99) - 1] * 1000)
            complete_ms.append(took_s * 1000)
            redis_ms.append(delivered_s * 1000)
    reference = statistics.median(redis_ms)
    note = "from before the request is sent, with the disk, until it is decoded and taken up; against Redis pub/sub"
    return [
        row(f"{count:,} guards, p99 bound", ours=statistics.median(p99_ms), reference=reference, unit="ms", target=2.5,
            n=ROUNDS, note=note),
        row(f"{count:,} guards, last bound", ours=statistics.median(last_ms), reference=reference, unit="ms",
            target=2.5, n=ROUNDS),
        row(f"{count:,} guards, receipt complete", ours=statistics.median(complete_ms), reference=reference, unit="ms",
            target=10, n=ROUNDS, note="every acknowledgement in by one HTTP request each, and the receipt read"),
    ]  # fmt: skip


def _memory(count: int, kib: float) -> Row:
    note = "resident memory of the switch, stream and kept connection for acknowledgements together"
    return row(
        f"{count:,} guards, memory each", ours=kib, reference=MEMORY_MAX_KIB, unit="KiB", target=1, n=count, note=note
    )


def _herd(count: int, service: "Service", fleet: Fleet) -> Row:
    service.kill()
    fleet.drop()
    service.start()
    took_s = fleet.reconnect()
    note = "switch killed with -9 and started anew; all come at once, with jittered back-off, until each has the set"
    return row(f"{count:,} guards come back", ours=took_s, reference=BACK_WITHIN_S, unit="s", target=1, n=1, note=note)


# --- the switch ---


class Service:
    """A switch in a process of its own."""

    def __init__(self, folder: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self._folder, self._options = folder, options
        self._environment = os.environ | (environment or {})
        self.address = ("127.0.0.1", _free_port())
        self.url = ""
        self.start()

    def start(self) -> None:
        rescind = str(Path(sys.executable).with_name("rescind"))
        command = [rescind, "switch", "--data", str(self._folder / "switch"), "--port", str(self.address[1]), "--json"]
        self._process = subprocess.Popen(
            [*command, *self._options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self._environment
        )
        assert self._process.stdout is not None
        self.url = json.loads(self._process.stdout.readline())["url"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()

    def place(self) -> Callable[[], str]:
        """Send an order. What is returned reads the answer, and gives the order's id."""
        body = json.dumps({"scope": "agent:nobody", "level": "halted", "reason": "bench"})
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        connection.request("POST", "/v1/orders", body, {"content-type": "application/json"})

        def answer() -> str:
            found = json.loads(connection.getresponse().read())
            connection.close()
            return str(found["order"]["order_id"])

        return answer

    def await_complete(self, order_id: str, count: int) -> None:
        receipt = self._ask("GET", f"/v1/orders/{order_id}/receipt?wait_s=30")
        assert receipt["all_drained"], "not every guard has acknowledged"
        assert len(receipt["guards"]) == count, "the receipt lacks guards"

    def _ask(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            found: dict[str, Any] = json.loads(answer.read())
            assert answer.status < 300, found
            return found
        finally:
            connection.close()


@contextlib.contextmanager
def switch(folder: Path, *, beat_s: float) -> Generator[Service]:
    """A switch that ends with the block."""
    service = Service(folder, "--beat", str(beat_s))
    try:
        yield service
    finally:
        service.kill()


# --- Redis ---


class _Subscribers:
    """As many connections to Redis, each subscribed to one channel, in a process of their own."""

    def __init__(self, port: int, count: int) -> None:
        command = [sys.executable, "-m", "bench.subscribers", str(port), str(count)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._says()

    def deliver(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._says())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _says(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextlib.contextmanager
def _redis() -> Generator[int]:
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("bench stop measures against Redis: install the package redis-server")
    port = _free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--maxclients", "15000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _await_port(port)
        yield port
    finally:
        process.kill()
        process.wait()


def _await_port(port: int) -> None:
    deadline_s = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline_s, "nothing listens"
            time.sleep(0.02)
        else:
            return


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise LookupError(f"process {pid} has no memory")
