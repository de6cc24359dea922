"""Peers that hold connections and ask for nothing: drop by drop, in silence, and gone without a goodbye."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from faults.machine import boot_s, eventually, within
from faults.network import Network
from faults.world import Charter, Switch, World

pytestmark = pytest.mark.slow

CROWD = 400
"""Of each kind; more than the backlog of a careless server, and fewer than descriptors that a process may have."""

HEAD = b"POST /v1/orders HTTP/1.1\r\nHost: switch\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n"


class Loris:
    """Connections that have begun a request, and send another byte of it ever so often, until the `with` block ends.

    Those that have not even begun stay silent.
    """

    def __init__(self, switch: Switch, *, first: bytes, namespace: str = "") -> None:
        self._switch, self._namespace, self._first = switch, namespace, first
        self._over = threading.Event()
        self._drips = threading.Thread(target=self._drip)
        self.connections: list[socket.socket] = []
        self.cut_off = 0

    def __enter__(self) -> "Loris":
        parts = urlsplit(self._switch.url)
        where = (parts.hostname or "", parts.port or 0)
        within(self._namespace, lambda: self._connect(where))
        self._drips.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._drips.join()
        for connection in self.connections:
            connection.close()

    def _connect(self, where: tuple[str, int]) -> None:
        for _ in range(CROWD):
            connection = socket.create_connection(where, timeout=10.0)
            self.connections.append(connection)
            connection.sendall(self._first)
            connection.setblocking(False)

    def _drip(self) -> None:
        gone: set[socket.socket] = set()
        while not self._over.wait(0.3):
            for connection in self.connections:
                if connection not in gone and not _takes_another(b"X" if self._first else b"", connection):
                    gone.add(connection)
            self.cut_off = len(gone)


def _takes_another(drop: bytes, connection: socket.socket) -> bool:
    try:
        connection.send(drop)
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@pytest.mark.parametrize("first", [HEAD, HEAD + b"\r\n{", b""], ids=["in the head", "in the body", "before all"])
def test_slow_requests_hold_up_neither_a_stop_nor_the_beats_and_are_cut_off(world: World, first: bytes) -> None:
    one = world.switch("one")
    shop, mill = world.agent("shop", one), world.agent("mill", one)

    with Loris(one, first=first) as loris:
        stopped = world.stop("agent:shop", covers=[shop])
        assert (stopped.status, stopped.line(shop)["state"]) == (0, "drained"), stopped.answer
        assert stopped.line(shop)["bound_ms"] < 1000
        eventually(lambda: loris.cut_off == CROWD, "the slow ones to be cut off")

    mill.is_writing()
    assert "held" not in mill.witness.look().words
    world.judge()


@pytest.fixture
def net() -> Iterator[Network]:
    with Network("one", "shop", "mill", "crowd", "desk") as net:
        yield net


def test_half_open_connections_hold_up_no_stop_and_a_guard_whose_cable_was_pulled_is_unknown_and_then_silenced(
    tmp_path: Path, charter: Charter, net: Network
) -> None:
    with World(tmp_path, charter) as world, contextlib.ExitStack() as crowd:
        world.operators_namespace = net["desk"].namespace
        one = world.switch("one", host=net["one"].address, port=7443, namespace=net["one"].namespace)
        shop, mill = (world.agent(name, one, namespace=net[name].namespace) for name in ("shop", "mill"))
        crowd.enter_context(Loris(one, namespace=net["crowd"].namespace, first=b""))
        net.part(("one", "crowd"), ("one", "mill"))
        pulled_s = boot_s()

        stopped = world.stop("agent:shop", covers=[shop, mill], wait_s=0.3)

        assert stopped.line(shop)["state"] == "drained"
        assert (stopped.status, stopped.line(mill)["state"]) == (1, "unknown")
        later = one.receipt(stopped.order_id, wait_s=5.0)
        assert {line["pid"]: line["state"] for line in later.document["guards"]}[mill.pid] == "silenced"
        world.hold(later, [shop, mill])
        world.judge()
        eventually(lambda: mill.last_words() == "held", "the neighbour to be refused")  # it tries again and again
        assert boot_s() - pulled_s < 20.0
