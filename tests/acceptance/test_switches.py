"""The README's stop service, as a newcomer would start it: two switches, three agents, one switch lost."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.bank import until

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## A stop service")[2].partition("\n## ")[0]
PATIENCE_S = 40.0


def commands() -> list[str]:
    """What the section tells a newcomer to type, without the installation."""
    blocks = re.findall(r"```console\n(.*?)```", SECTION, flags=re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [line for line in lines if not line.startswith("pip ")]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class Shell:
    """A shell of a newcomer, in a folder with `desk.py` and `rescind.yaml`, and with job control."""

    def __init__(self, folder: Path) -> None:
        self._ports = {"7443": str(free_port()), "7444": str(free_port())}
        (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
        (config,) = re.findall(r"```yaml\n(.*?)```", SECTION, flags=re.DOTALL)
        (folder / "desk.py").write_text(code, encoding="utf-8")
        (folder / "rescind.yaml").write_text(self.here(config), encoding="utf-8")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        variables = {name: value for name, value in os.environ.items() if not name.startswith("RESCIND_")}
        self._process = subprocess.Popen(
            ["bash", "--norc", "-m"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=variables | {"PATH": path},
            start_new_session=True,
        )

    def here(self, text: str) -> str:
        for documented, port in self._ports.items():
            text = text.replace(documented, port)
        return text

    def type(self, line: str, *, json_answer: bool = False) -> tuple[int, str]:
        """Type a line; its exit status, and what it printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        quiet = re.sub(r"(?<![&>])&(?=\s|$)", "> /dev/null &", self.here(line))  # agents print their run's id
        if json_answer:
            quiet = f"{quiet.split('  #')[0]} --json"
        self._process.stdin.write(f'{quiet}\necho "=== $?"\n')
        self._process.stdin.flush()
        said: list[str] = []
        for out in self._process.stdout:
            if out.startswith("=== "):
                return int(out.split()[1]), "".join(said)
            said.append(out)
        raise AssertionError(f"the shell ended at {line!r}")

    def end(self) -> None:
        """End the shell with everything that it started."""
        assert self._process.stdin is not None
        self._process.stdin.write("kill -9 $(jobs -p) 2> /dev/null\nexit\n")
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.end()


def test_three_agents_survive_the_loss_of_a_switch_and_are_stopped_by_the_other(shell: Shell) -> None:
    lines = commands()
    begin = next(number for number, line in enumerate(lines) if line.startswith("for n in"))
    for line in lines[:begin]:
        assert shell.type(line)[0] == 0, line
    until(lambda: listening(shell) == 2, "both switches listen, and have met")

    start, _, lose, stop, resume = lines[begin:]
    shell.type(start)
    until(lambda: following(shell) == 3, "three agents follow both")
    assert lose.startswith("kill -9 %1")
    shell.type(lose)

    code, said = shell.type(stop, json_answer=True)
    answer = json.loads(said)
    assert code == 0, said
    assert answer["durable"] is True
    states = [guard["state"] for guard in answer["receipt"]["guards"]]
    assert len(states) == 3
    assert set(states) <= {"drained", "gone"}  # gone: halted, and left at once
    assert answer["receipt"]["unheard"] == []

    code, said = shell.type(resume, json_answer=True)
    assert json.loads(said)["lifted"], said


def status(shell: Shell) -> dict[str, Any]:
    _, said = shell.type("rescind status --token-file you.token", json_answer=True)
    found: dict[str, Any] = json.loads(said)
    return found


def listening(shell: Shell) -> int:
    switches = status(shell)["switches"]
    return sum(bool(each.get("accepting")) and all(peer["reachable"] for peer in each["peers"]) for each in switches)


def following(shell: Shell) -> int:
    """Guards that follow both switches."""
    return sum(len(guard["connected_to"]) == 2 for guard in status(shell)["guards_at_switches"])
