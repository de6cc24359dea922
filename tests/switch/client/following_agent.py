"""An agent that follows switches, in a process of its own: it answers each line of its input with one line.

python following_agent.py STORE TTL_S URL…
"""

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

PATIENCE_S = 20.0


class FollowingAgent:
    """The script below; killed at the end of the `with` block."""

    def __init__(self, store: Path, *urls: str, ttl_s: float = 1.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(store), str(ttl_s), *urls],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.says()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(store: str, ttl_s: str, *urls: str) -> None:
    from rescind.config import SwitchConfig
    from rescind.errors import CallDenied, RunHalted
    from rescind.guard.guard import Guard

    switch = SwitchConfig(urls=urls, lease_ttl_s=float(ttl_s), start_within_s=10.0)
    guard = Guard.at(store, switch=switch)

    @guard.write("note.add", irreversible="a test")
    def add() -> None: ...

    def try_to_write() -> str:
        try:
            add()
        except CallDenied as error:
            return "denied: silence" if "no switch" in str(error) else "denied: order"
        except RunHalted:
            return "halted"
        return "written"

    def answer(line: str) -> str:
        match line:
            case "write":
                return try_to_write()
            case "who":
                return guard.guard_id
            case "threads":
                import threading

                return str(sum(thread.name == "rescind-subscription" for thread in threading.enumerate()))
        return "?"

    def fork() -> None:
        """The child answers what begins with `child`."""
        down, up = os.pipe(), os.pipe()
        if os.fork() == 0:
            os.close(down[1])  # so that it ends with its parent
            for line in os.fdopen(down[0]):
                os.write(up[1], (answer(line.strip()) + "\n").encode())
            os._exit(0)
        children.append((down[1], os.fdopen(up[0])))

    children: list[tuple[int, TextIO]] = []
    with guard.run("shop@1", run_id="run-1"):
        say(guard.guard_id)
        for line in sys.stdin:
            command = line.strip()
            if command == "fork":
                fork()
                said = "forked"
            elif command.startswith("child "):
                os.write(children[-1][0], (command.removeprefix("child ") + "\n").encode())
                said = children[-1][1].readline().strip()
            elif command == "leave":
                break
            else:
                said = answer(command)
            say(said)


if __name__ == "__main__":
    main(*sys.argv[1:])
