"""Duplicate refund: the key stops the second one; the probe finds the first, and the journal is reconciled."""

import json
import tempfile
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import rescind
from rescind.clock import SystemClock
from rescind.compensation.execution.reconcile import reconcile
from rescind.compensation.planning.selection import Selection

refunds: dict[str, dict[str, Any]] = {}


class Psp(BaseHTTPRequestHandler):
    """A payment provider that knows its idempotency keys, and whose first reply is lost on the way."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refunds[self.headers["Idempotency-Key"]] = {"id": f"re_{len(refunds) + 1}"} | body
        self.close_connection = True  # the money has moved, and nobody hears of it

    def do_GET(self) -> None:
        found = refunds.get(self.path.rpartition("=")[2])
        content = json.dumps(found).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Psp)
threading.Thread(target=server.serve_forever, daemon=True).start()
psp = f"http://127.0.0.1:{server.server_port}/refunds"
guard = rescind.Guard.at(Path(tempfile.mkdtemp()) / "store")


@guard.write(
    "refund.pay",
    target=lambda order: ("psp", "order", order),
    key=lambda order: f"refund-{order}",
    irreversible="the customer has the money",
)
def refund(order: str, cents: int) -> str:
    body = json.dumps({"order": order, "cents": cents}).encode()
    request = urllib.request.Request(psp, body, {"Idempotency-Key": rescind.idempotency_key()})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["id"])


@refund.probe
def _(step: rescind.PastStep) -> rescind.Found | rescind.Probe:
    try:
        with urllib.request.urlopen(f"{psp}?key={step.idempotency_key}", timeout=10) as answer:
            return rescind.Found(json.load(answer)["id"])
    except urllib.error.HTTPError as error:
        return rescind.Probe.NOT_FOUND if error.code == 404 else rescind.Probe.CANNOT_TELL


with guard.run("support-agent@2") as run:
    try:
        refund("o-17", 1999)
    except OSError as error:
        print(f"the first try: {error}")
with guard.run("support-agent@2"):
    try:
        refund("o-17", 1999)
        raise AssertionError("it must not be paid twice")
    except rescind.StepInDoubt as stopped:
        print(f"the second try is stopped: {stopped}")

(found,) = reconcile(guard.journal, Selection(run_ids=(run.run_id,)), guard.compensators, SystemClock())
print(f"reconciled: {found.step} {found.outcome}")
with guard.run("support-agent@2"):
    assert refund("o-17", 1999) == "re_1"  # the answer of the first one, from the journal
guard.close()

print("refunds paid:", list(refunds.values()))
assert [each["cents"] for each in refunds.values()] == [1999]
server.shutdown()
