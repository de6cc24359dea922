"""The agents' processes, as the demo sees them: started, heard, led, and ended, each by its own process id."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rescind.errors import RescindError

FAR = 10**9
"""A leash without an end."""

LEAVE_WITHIN_S = 10.0
"""How long an agent may take to finish what it has begun. A write takes milliseconds; a busy machine takes longer."""


class AgentDied(RescindError):
    """An agent's process ended by itself, so the story cannot go on."""


@dataclass
class Agent:
    """A running agent.

    Attributes:
        name: `name@version`.
        position: The last message or report it has taken up.
        writes: How many writes it made, as it says.
        refused: How many attempts were refused, as it says.
        is_up: Whether it has said anything yet: it has opened its run, and looks for work.
    """

    name: str
    tenant: str
    process: "subprocess.Popen[str]"
    position: int = 0
    writes: int = 0
    refused: int = 0
    is_up: bool = False
    _ear: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._ear = threading.Thread(target=self._listen, name=f"ear of {self.name}", daemon=True)
        self._ear.start()

    def go_on_until(self, position: int) -> None:
        """Let it take up messages or reports up to this number."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it died; `Crew.check` says so
            self.process.stdin.write(f"{position}\n")
            self.process.stdin.flush()

    def dismiss(self) -> None:
        """Ask it to leave once it has finished what it is at."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def wait(self) -> None:
        """Wait until it has left; end it by force if it does not."""
        try:
            self.process.wait(LEAVE_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._ear.join()  # its end of the pipe is closed, so this one has an end

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as says:
            for line in says:
                with suppress(ValueError):  # half a line, of an agent that was killed
                    told = json.loads(line)
                    self.position, self.writes, self.refused = told["position"], told["writes"], told["refused"]
                    self.is_up = True


class Crew:
    """All agents of a demo."""

    def __init__(self, folder: Path, log: IO[str]) -> None:
        """A crew of nobody. What agents say on their standard error goes to the log."""
        self.agents: list[Agent] = []
        self._folder, self._log = folder, log

    def hire(self, name: str, tenant: str, *, worker: int = 0, workers: int = 1) -> Agent:
        """Start one agent's process. It waits until it is told how far it may go."""
        process = subprocess.Popen(  # noqa: S603  # our own module, in our own interpreter
            [
                *(sys.executable, "-P", "-m", "rescind.demo.agents"),
                *(str(self._folder), name, tenant, str(worker), str(workers)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={key: value for key, value in os.environ.items() if not key.startswith("RESCIND_")},
            start_new_session=True,  # Ctrl-C is for the demo, which then dismisses its agents
        )
        agent = Agent(name, tenant, process)
        self.agents.append(agent)
        return agent

    def check(self) -> None:
        """Raises: AgentDied, if one of them has left without being dismissed."""
        for agent in self.agents:
            status = agent.process.poll()
            if status is not None:
                who = f"{agent.name} (process {agent.process.pid})"
                raise AgentDied(f"{who} ended by itself with status {status}{self._last_words()}")

    def _last_words(self) -> str:
        lines = Path(self._log.name).read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line for line in lines if line.strip()]
        return f": {said[-1]}" if said else ""

    def dismiss(self) -> None:
        """Ask all to leave, and wait until they have."""
        for agent in self.agents:
            agent.dismiss()
        for agent in self.agents:
            agent.wait()


@contextmanager
def crew_of(folder: Path, log_path: Path) -> Generator[Crew]:
    """A crew, of whom nobody is left when the block is."""
    with log_path.open("w", encoding="utf-8") as log:
        crew = Crew(folder, log)
        try:
            yield crew
        finally:
            crew.dismiss()
