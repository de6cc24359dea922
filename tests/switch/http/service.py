"""A real switch process for tests of its HTTP API, and a client that says exactly what it is told to."""

import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rescind.model.step import digest_of

RESCIND = str(Path(sys.executable).with_name("rescind"))
PATIENCE_S = 20.0


@dataclass(frozen=True)
class Answer:
    status: int
    kind: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def is_problem(self) -> bool:
        """Whether it is a refusal as RFC 9457 wants it, which says what is wrong."""
        if self.kind != "application/problem+json":
            return False
        return bool(self.json["title"]) and self.json["status"] == self.status and bool(self.json["detail"])


class RunningSwitch:
    """A switch in a process of its own, and tokens for it by role."""

    def __init__(self, folder: Path, *options: str, roles: tuple[str, ...] = ()) -> None:
        self.data = folder / "switch"
        self.tokens = {role: self.make_token(role, f"{role}-name") for role in roles}
        self.options = options
        self.start()

    def start(self) -> None:
        command = [RESCIND, "switch", "--data", str(self.data), "--port", "0", "--json", "--beat", "0.2", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdout is not None
        self.url = str(json.loads(self.process.stdout.readline())["url"])

    def make_token(self, role: str, name: str, identity: str = "agent:billing-agent") -> str:
        words = ["token", "create", "--data", str(self.data), "--role", role, "--name", name]
        words += ["--identity", identity] if role == "agent" else []
        done = subprocess.run([RESCIND, *words], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
        return done.stdout.strip()

    def ask(
        self, method: str, path: str, body: bytes | dict[str, Any] | None = None, *, token: str = "", **headers: str
    ) -> Answer:
        """One request on a connection of its own; `role` names of tokens, or a token itself."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            sent.setdefault("content-type", "application/json")
        if token:
            sent["authorization"] = f"Bearer {self.tokens.get(token, token)}"
        raw = json.dumps(body).encode() if isinstance(body, dict) else body
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request(method, path, raw, sent)
            response = connection.getresponse()
            kind = (response.getheader("content-type") or "").partition(";")[0]
            if kind == "text/event-stream":
                return Answer(response.status, kind, b"")  # it has no end
            return Answer(response.status, kind, response.read())

    def look(self, path: str, *, token: str = "viewer") -> Any:
        """What a switch says there. A test asks faster than people do, so it waits out the limit on looking."""
        deadline_s = time.monotonic() + PATIENCE_S
        while (answer := self.ask("GET", path, token=token)).status == 429:
            assert time.monotonic() < deadline_s, "the limit does not end"
            time.sleep(0.05)
        assert answer.status == 200, answer.body
        return answer.json

    def stop(self, scope: str, *, token: str = "operator", level: str = "halted") -> str:
        answer = self.ask("POST", "/v1/orders", {"scope": scope, "level": level}, token=token)
        assert answer.status == 201, answer.body
        return str(answer.json["order"]["order_id"])

    def standing(self, *, token: str = "viewer") -> list[str]:
        return [order["order_id"] for order in self.look("/v1/orders", token=token)["orders"]]

    def end(self) -> int:
        self.process.terminate()
        status = self.process.wait(PATIENCE_S)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return status


def a_signal(**fields: Any) -> dict[str, Any]:
    """A signal as a guard posts it."""
    return {
        "signal_id": "sig-1",
        "kind": "error_rate",
        "rule": "rate",
        "severity": "high",
        "scope": "agent:billing-agent",
        "detail": "31 of 100 calls failed",
        "noticed_at": datetime.now(UTC).isoformat(),
    } | fields


def an_asking(*, action: str = "pay", arguments: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """What a guard posts to have a call approved."""
    now = datetime.now(UTC)
    given = {"to": "ada", "cents": 5} if arguments is None else arguments
    asked = {
        "type": "approval_asked",
        "approval_id": "approval-1",
        "run": {"run_id": "run-1", "agent_name": "billing-agent", "agent_version": "2.4.0"},
        "action": action,
        "arguments": given,
        "arguments_digest": digest_of(action, given),
        "because": "payments need a look",
        "expires_at": (now + timedelta(hours=1)).isoformat(),
    }
    return {"asked": asked | fields, "asked_at": now.isoformat()}


@contextlib.contextmanager
def running(folder: Path, *options: str, roles: tuple[str, ...] = ()) -> Generator[RunningSwitch]:
    """A switch that leaves as it should when the block is left."""
    switch = RunningSwitch(folder, *options, roles=roles)
    try:
        yield switch
    finally:
        assert switch.end() == 0
