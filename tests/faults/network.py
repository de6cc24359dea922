"""A network of our own on one machine: namespaces on a bridge, and packets that are really dropped between them.

    one ──┐
    two ──┼── bridge, in a namespace of its own
    shop ─┘

Nothing of it is to be seen from outside: addresses and rules exist in these namespaces only. What a test run that was
killed has left behind is removed by the next one.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError
from types import TracebackType
from typing import Self

from faults.machine import cannot, need_root_and, sh

PREFIX = "rescind-"
TOOLS = ("ip", "iptables", "nsenter")
NET = "10.203.0"


@dataclass(frozen=True)
class Node:
    """A machine of this network: the name of its namespace, and its address."""

    namespace: str
    address: str


class Network:
    """Nodes by name. `with` makes and removes them."""

    def __init__(self, *names: str) -> None:
        own = f"{PREFIX}{os.getpid()}"
        self._hub = f"{own}-hub"
        self.nodes = {name: Node(f"{own}-{name}", f"{NET}.{number}") for number, name in enumerate(names, 1)}

    def __enter__(self) -> Self:
        need_root_and(*TOOLS)
        remove_what_others_left()
        try:
            self._make()
        except CalledProcessError as error:
            self.__exit__(None, None, None)
            cannot(f"this machine makes no network namespaces: {error.stdout.strip()}")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for namespace in (self._hub, *(node.namespace for node in self.nodes.values())):
            with contextlib.suppress(CalledProcessError):
                sh("ip", "netns", "del", namespace)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def drop(self, source: str, target: str) -> None:
        """Packets from one node to another do not arrive; the other direction is left alone."""
        self._rule("-A", source, target)

    def part(self, *pairs: tuple[str, str]) -> None:
        """Both directions, of each pair."""
        for source, target in pairs:
            self.drop(source, target)
            self.drop(target, source)

    def heal(self, *pairs: tuple[str, str]) -> None:
        """Packets of these pairs, which were parted, arrive again; of all, if none is named."""
        for source, target in pairs:
            self._rule("-D", source, target)
            self._rule("-D", target, source)
        for node in () if pairs else self.nodes.values():
            sh(*_in(node.namespace), "iptables", "-w", "-F", "INPUT")

    def dropped(self, target: str) -> int:
        """How many packets to this node were dropped by the rules that are in force."""
        lines = sh(*_in(self[target].namespace), "iptables", "-w", "-nvxL", "INPUT").splitlines()
        return sum(int(line.split()[0]) for line in lines if "DROP" in line.split())

    def _rule(self, verb: str, source: str, target: str) -> None:
        here = _in(self[target].namespace)
        sh(*here, "iptables", "-w", verb, "INPUT", "-s", self[source].address, "-j", "DROP")

    def _make(self) -> None:
        for namespace in (self._hub, *(node.namespace for node in self.nodes.values())):
            sh("ip", "netns", "add", namespace)
            sh("ip", "-n", namespace, "link", "set", "lo", "up")
        sh("ip", "-n", self._hub, "link", "add", "bridge", "type", "bridge")
        sh("ip", "-n", self._hub, "link", "set", "bridge", "up")
        for number, node in enumerate(self.nodes.values()):
            self._plug(f"port{number}", node)

    def _plug(self, port: str, node: Node) -> None:
        hub = ("ip", "-n", self._hub)
        sh(*hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", node.namespace)
        sh(*hub, "link", "set", port, "master", "bridge", "up")
        sh("ip", "-n", node.namespace, "addr", "add", f"{node.address}/24", "dev", "eth0")
        sh("ip", "-n", node.namespace, "link", "set", "eth0", "up")
        sh(*_in(node.namespace), "iptables", "-w", "-nL", "INPUT")  # whether this kernel can drop anything


def _in(namespace: str) -> Sequence[str]:
    return ("nsenter", f"--net=/run/netns/{namespace}")


def remove_what_others_left() -> None:
    """Namespaces of ours whose maker is gone."""
    for found in Path("/run/netns").glob(f"{PREFIX}*"):
        pid = found.name.removeprefix(PREFIX).partition("-")[0]
        if not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(CalledProcessError):
                sh("ip", "netns", "del", found.name)
