"""Wrong CRM status: put the old one back if the record is as the agent left it, else leave a correction task."""

import json
import tempfile
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import rescind
from rescind.clock import SystemClock, SystemIds
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.recovery.review import list_tasks

records: dict[str, dict[str, Any]] = {name: {"status": "active", "version": 1} for name in ("ada", "bob")}


class Crm(BaseHTTPRequestHandler):
    """A CRM that counts the versions of its records, and takes a change only for the version that it was made for."""

    def do_GET(self) -> None:
        record = records[self.path.strip("/")]
        self._say(200, {"status": record["status"]}, etag=record["version"])

    def do_PATCH(self) -> None:
        record = records[self.path.strip("/")]
        if self.headers.get("If-Match") not in (None, str(record["version"])):
            self._say(412, {"error": "the record has another version"})
            return
        record |= json.loads(self.rfile.read(int(self.headers["Content-Length"]))) | {"version": record["version"] + 1}
        self._say(200, {"status": record["status"]}, etag=record["version"])

    def _say(self, status: int, body: dict[str, Any], *, etag: int | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if etag is not None:
            self.send_header("ETag", str(etag))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Crm)
threading.Thread(target=server.serve_forever, daemon=True).start()
guard = rescind.Guard.at(Path(tempfile.mkdtemp()) / "store")


def ask(customer: str, status: str | None = None, *, version: str | None = None) -> tuple[str, str]:
    """The status and the version of a record, after setting it if a status is given."""
    body = None if status is None else json.dumps({"status": status}).encode()
    url = f"http://127.0.0.1:{server.server_port}/{customer}"
    request = urllib.request.Request(url, body, method="GET" if body is None else "PATCH")
    if version is not None:
        request.add_header("If-Match", version)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["status"], answer.headers["ETag"]


@guard.write("crm.status.set", target=lambda customer: ("crm", "customer", customer))
def set_status(customer: str, status: str) -> None:
    ask(customer, status)


@set_status.snapshot
def _(customer: str) -> str:
    return ask(customer)[0]


@set_status.restore
def _(step: rescind.PastStep) -> None:
    customer = step.arguments["customer"]
    status, version = ask(customer)
    if status != step.after:
        raise rescind.Conflict(f"somebody has set {customer} to {status} since")
    try:
        ask(customer, step.before, version=version)
    except urllib.error.HTTPError as error:
        if error.code == 412:
            raise rescind.Conflict(f"{customer} was changed in this very moment") from error
        raise


with guard.run("retention-agent@3") as run:
    set_status("ada", "churned")
    set_status("bob", "churned")
ask("bob", "paused")  # a colleague has talked to Bob since

plan = make_plan(guard.journal, Selection(run_ids=(run.run_id,)), guard.compensators, SystemClock())
result = apply_plan(plan, guard.journal, guard.compensators, SystemClock(), SystemIds(), actor="ops", reason="bad list")
(task,) = list_tasks(guard.journal)
guard.close()

print(result.counts, {name: record["status"] for name, record in records.items()})
print(f"correction task {task.task_id}: {task.action}, {task.reason}: {task.detail}")
assert result.counts == {"restored": 1, "review": 1}
assert (ask("ada")[0], ask("bob")[0]) == ("active", "paused")
server.shutdown()
