"""Real switches, real agents and a real operator, each a process of its own, and what becomes of a stop among them.

world = World(folder, charter)
one, two = world.federation("one", "two")
shop = world.agent("shop", one, two)
stopped = world.stop("agent:shop", covers=[shop])     # the real command line; its receipt is held against the law
world.judge()                                         # … when everybody has had time to break it
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from builders import environment
from faults.law import UNKNOWN, Claim, Witness, claims_of
from faults.machine import PATIENCE_S, Answer, ask, boot_s, eventually, free_port, sh

HERE = Path(__file__).parent
RESCIND = (sys.executable, "-c", "import sys; from rescind.cli import main; sys.exit(main())")
AGENT = (sys.executable, str(HERE / "agent.py"))
PROGRAMS = (sys.executable, str(HERE / "programs.py"))

TTL_S = 1.0
BEAT_S = 0.1

MARGIN_S = 0.3
"""Beyond a moment that is only known from outside: a busy machine takes as long to let a process have its turn."""

ROLES = {"agent": "agent", "operator": "operator", "approver": "approver", "peer": "peer"}
SWITCHES = ("one", "two")


@dataclass(frozen=True)
class Charter:
    """Folders of two switches that know the same tokens, to be copied; made once, by the real command."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "Charter":
        where = [word for name in SWITCHES for word in ("--data", str(folder / name))]
        for role in ROLES:
            identity = ["--identity", "tenant:acme"] if role == "agent" else []
            words = ["token", "create", "--role", role, "--name", role, *identity, *where]
            (folder / f"{role}.token").write_text(sh(*RESCIND, *words))
        return cls(folder)

    def token(self, role: str) -> str:
        return (self.folder / f"{role}.token").read_text().strip()


@dataclass
class Process:
    """A process of ours, ended by its id at the end of the test."""

    command: tuple[str, ...]
    log: Path
    namespace: str = ""
    process: "subprocess.Popen[str] | None" = None
    adopted_pid: int = 0

    def spawn(self, *, cwd: Path) -> None:
        enter = ("nsenter", f"--net=/run/netns/{self.namespace}") if self.namespace else ()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                (*enter, *self.command), stdout=subprocess.PIPE, stderr=log, text=True, cwd=cwd, env=environment()
            )

    @property
    def pid(self) -> int:
        if self.adopted_pid:
            return self.adopted_pid
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """With -9, unless it has ended."""
        if self.adopted_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.adopted_pid, signal.SIGKILL)
        if self.process is None:
            return
        self.process.kill()
        self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None


@dataclass
class Switch(Process):
    """A switch; `url` is where it listens, restarts included."""

    url: str = ""
    data: Path = Path()
    words: tuple[str, ...] = ()
    operator: str = ""
    operators_namespace: str = ""

    def start(self) -> None:
        self.spawn(cwd=self.log.parent)
        assert self.process is not None
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), self.log.read_text()

    def restart(self, program: Sequence[str]) -> None:
        """As another program, with the same words."""
        self.kill()
        self.command = (*program, *self.words)
        self.start()

    def ask(self, method: str, path: str, document: Any = None, *, token: str | None = None) -> Answer:
        """One request, by the operator if no other token is given."""
        shown = self.operator if token is None else token
        while True:
            answer = ask(self.url, method, path, document, token=shown, namespace=self.operators_namespace)
            if answer.status != 429:
                return answer
            time.sleep(0.1)  # whoever polls asks more often than a switch lets anybody look

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", "/health").document
        return found

    def standing(self) -> set[str]:
        return {order["order_id"] for order in self.ask("GET", "/v1/orders").document["orders"]}

    def guards(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", "/v1/guards").document
        return found

    def knows(self, *agents: "Agent") -> bool:
        """Whether it has a stream to each of them."""
        connected = {guard["report"]["pid"] for guard in self.guards() if guard["connected"]}
        return {agent.pid for agent in agents} <= connected

    def receipt(self, order_id: str, *, wait_s: float = 0.0, here: bool = True) -> Answer:
        return self.ask("GET", f"/v1/orders/{order_id}/receipt?wait_s={wait_s:g}&here={str(here).lower()}")


@dataclass
class Agent(Process):
    """An agent, and the witness of what it does."""

    name: str = ""
    witness: Witness = field(default_factory=lambda: Witness(Path()))

    @property
    def writes(self) -> int:
        return len(self.witness.look().effects)

    def is_writing(self) -> None:
        """Wait until it has begun more than it had."""
        before = self.writes
        eventually(lambda: self.writes > before + 1, f"{self.name} to write")

    def wrote_after(self, moment_s: float) -> bool:
        return bool(self.witness.begun_between(moment_s))

    def last_words(self) -> str:
        return self.witness.look().last

    def suspend_between_calls(self) -> None:
        """SIGSTOP, when no call is under way, so that it is certain what it may still do."""
        deadline_s = boot_s() + PATIENCE_S
        while boot_s() < deadline_s:
            self.signal(signal.SIGSTOP)
            eventually(lambda: _state(self.pid) == "T", f"{self.name} to be suspended")
            if self.last_words() in ("rest", "held", "halted"):
                return
            self.signal(signal.SIGCONT)
            time.sleep(0.003)
        raise AssertionError(f"{self.name} is never between two calls")

    def resume(self) -> None:
        self.signal(signal.SIGCONT)


@dataclass(frozen=True)
class Stopped:
    """What `rescind stop` said: its exit status, its answer, and our boot clock before and after it."""

    status: int
    answer: dict[str, Any]
    asked_s: float
    got_s: float

    @property
    def order_id(self) -> str:
        return str(self.answer["order"]["order_id"])

    @property
    def receipt(self) -> dict[str, Any]:
        found: dict[str, Any] = self.answer["receipt"]
        return found

    @property
    def states(self) -> dict[int, str]:
        """The states by process id."""
        return {guard["pid"]: guard["state"] for guard in self.receipt["guards"]}

    def line(self, agent: Agent) -> dict[str, Any]:
        (found,) = [guard for guard in self.receipt["guards"] if guard["pid"] == agent.pid]
        return dict(found)


class World:
    """See the module. `with` ends all processes."""

    def __init__(self, folder: Path, charter: Charter) -> None:
        self.folder, self.charter = folder, charter
        self.operators_namespace = ""
        self.switches: dict[str, Switch] = {}
        self.agents: list[Agent] = []
        self._claims: list[Claim] = []
        self._no_more: list[tuple[Agent, float]] = []
        (folder / "desk").mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in (*self.agents, *self.switches.values()):
            process.kill()

    # --- who there is ---

    def switch(
        self,
        name: str,
        *,
        data: Path | None = None,
        peers: Sequence[str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        namespace: str = "",
        through: Sequence[str] = (),
        program: Sequence[str] = RESCIND,
    ) -> Switch:
        """A switch that runs. `through` is put before its command, such as what gives it another clock."""
        data = data or self.folder / name
        shutil.copytree(self.charter.folder / name, data, dirs_exist_ok=True)
        port = port or free_port()
        words = ["switch", "--data", str(data), "--host", host, "--port", str(port), "--beat", str(BEAT_S), "--json"]
        words += [word for peer in peers for word in ("--peer", peer)]
        words += ["--peer-token-file", str(self.charter.folder / "peer.token"), "--open-to-anyone"]
        switch = Switch(
            command=(*through, *program, *words),
            log=self.folder / f"{name}.log",
            namespace=namespace,
            url=f"http://{host}:{port}",
            data=data,
            words=tuple(words),
            operator=self.charter.token("operator"),
            operators_namespace=self.operators_namespace,
        )
        self.switches[name] = switch
        switch.start()
        return switch

    def federation(self, **of_one: Any) -> tuple[Switch, Switch]:
        """Two switches on loopback that know each other. The arguments are those of the first one."""
        ports = [free_port() for _ in SWITCHES]
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        one = self.switch("one", port=ports[0], peers=[urls[1]], **of_one)
        return one, self.switch("two", port=ports[1], peers=[urls[0]])

    def agent(
        self,
        name: str,
        *switches: Switch | str,
        namespace: str = "",
        pace_s: float = 0.002,
        effect_s: float = 0.0,
        fork: bool = False,
        program: Sequence[str] = AGENT,
        on_silence: str = "read_only",
    ) -> Agent:
        """An agent that writes, and that every switch has been heard by."""
        home = self.folder / name
        home.mkdir()
        urls = [switch if isinstance(switch, str) else switch.url for switch in switches]
        settings = {
            "urls": urls,
            "token_file": str(self.charter.folder / "agent.token"),
            "lease_ttl_s": TTL_S,
            "on_silence": on_silence,
            "start_within_s": 10.0,
        }
        (home / "rescind.yaml").write_text(json.dumps({"store": "store", "switch": settings}))
        trace = home / "trace"
        trace.touch()
        words = (str(home / "rescind.yaml"), str(trace), f"{name}@1", f"run-{name}", str(pace_s), str(effect_s))
        agent = Agent(
            command=(*program, *words, "fork" if fork else "alone"),
            log=self.folder / f"{name}.log",
            namespace=namespace,
            name=name,
            witness=Witness(trace),
        )
        self.agents.append(agent)
        agent.spawn(cwd=home)
        agent.is_writing()
        real = [switch for switch in switches if isinstance(switch, Switch)]
        eventually(lambda: all(switch.knows(agent) for switch in real), f"all switches to know {name}")
        if real:
            hears = len(switches)
            eventually(lambda: all(hears_all(switch, agent, hears) for switch in real), f"{name} to name its switches")
        return agent

    def child_of(self, agent: Agent) -> Agent:
        """What an agent has forked, once it writes."""
        trace = agent.witness.path.with_name("trace.child")
        eventually(trace.exists, "the child to write")
        child = Agent(command=(), log=agent.log, name=f"{agent.name}'s child", witness=Witness(trace))
        self.agents.append(child)
        child.adopted_pid = eventually(lambda: child.witness.look().words.get("pid", 0), "the child to say who it is")
        return child

    # --- what an operator does ---

    def rescind(self, *words: str, urls: Iterable[str], role: str = "operator") -> subprocess.CompletedProcess[str]:
        enter = ("nsenter", f"--net=/run/netns/{self.operators_namespace}") if self.operators_namespace else ()
        token = str(self.charter.folder / f"{role}.token")
        return subprocess.run(
            (*enter, *RESCIND, *words, "--token-file", token, "--json"),
            capture_output=True,
            text=True,
            cwd=self.folder / "desk",
            env=environment(RESCIND_URL=" ".join(urls)),
            timeout=PATIENCE_S,
        )

    def stop(
        self,
        scope: str,
        *,
        covers: Sequence[Agent],
        at: Sequence[Switch] | None = None,
        wait_s: float = 5.0,
        level: str = "halted",
    ) -> Stopped:
        """`rescind stop --wait`. All that its receipt says of these agents is judged in the end (`judge`)."""
        switches = list(self.switches.values()) if at is None else at
        asked_s = boot_s()
        done = self.rescind(
            "stop", scope, "--level", level, "--wait", f"{wait_s * 1000:.0f}ms", urls=[each.url for each in switches]
        )
        got_s = boot_s()
        assert done.stdout, done.stderr
        stopped = Stopped(done.returncode, json.loads(done.stdout), asked_s, got_s)
        if "receipt" in stopped.answer:
            self._hold(stopped.receipt, covers, got_s=got_s, joined=True)
            unknown = UNKNOWN in {guard["state"] for guard in stopped.receipt["guards"]}
            assert (stopped.status != 0) or not (unknown or stopped.receipt["unheard"]), stopped
            for switch in switches:
                with contextlib.suppress(OSError):
                    self.hold(switch.receipt(stopped.order_id), covers)
        return stopped

    def hold(self, said: Answer, covers: Sequence[Agent], *, joined: bool = False) -> None:
        """Hold a switch's own receipt against the law, if it is one."""
        if said.status == 200:
            self._hold(said.document, covers, got_s=said.got_s, joined=joined)

    def resume(self, order_id: str, *, at: Sequence[Switch] | None = None) -> None:
        """`rescind resume`. What was claimed under the order is judged now, for it does not hold any longer."""
        self.judge()
        self.pardon()
        self._claims.clear()
        switches = list(self.switches.values()) if at is None else at
        urls = [each.url for each in switches]
        done = self.rescind("resume", order_id, "--reason", "mended", urls=urls, role="approver")
        assert done.returncode == 0, done.stdout + done.stderr

    # --- the law ---

    def pardon(self) -> None:
        """The silence is over: whoever was to be silent may write again; judge them first. Receipts go on to bind."""
        self._no_more.clear()

    def no_more(self, agent: Agent, *, after_s: float) -> None:
        """Whatever anybody says: from this moment of the boot clock on, the agent begins nothing."""
        self._no_more.append((agent, after_s))

    def judge(self, *, over_s: float = 0.5) -> None:
        """Give everybody some time to break the law, and see whether anybody did."""
        time.sleep(over_s)
        now_s = boot_s()
        for claim in self._claims:
            assert not claim.breaches(now_s), f"{claim} was broken by {claim.breaches(now_s)}"
        for agent, after_s in self._no_more:
            begun = agent.witness.begun_between(after_s)
            assert not begun, f"{agent.name} has begun {begun} after {after_s}"

    def _hold(self, receipt: dict[str, Any], covers: Sequence[Agent], *, got_s: float, joined: bool) -> None:
        witnesses = {agent.pid: agent.witness for agent in covers if agent.adopted_pid or agent.process is not None}
        self._claims += claims_of(receipt, witnesses, got_s=got_s, joined=joined)
        known = {line["pid"] for line in receipt["guards"]}
        assert not joined or receipt["unheard"] or known >= set(witnesses), f"{receipt} knows not all of {witnesses}"


def hears_all(switch: Switch, agent: Agent, count: int) -> bool:
    """Whether the switch knows the names of all switches that the agent follows."""
    found = [guard["report"] for guard in switch.guards() if guard["report"]["pid"] == agent.pid]
    return any(len(report.get("hears", ())) == count for report in found)


def _state(pid: int) -> str:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat[stat.rindex(")") + 2]
