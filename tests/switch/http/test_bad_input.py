"""Whatever is sent: a refusal that says what is wrong, and nothing stored."""

import json
import socket
from collections.abc import Iterator

import pytest

from switch.http.service import RunningSwitch, a_signal, running

ORDER = {"scope": "agent:billing-agent", "level": "halted"}


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSwitch]:
    with running(tmp_path_factory.mktemp("bad"), roles=("agent", "viewer", "operator", "approver", "peer")) as switch:
        yield switch


BODIES: dict[str, bytes] = {
    "empty": b"",
    "not json": b"{scope:",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "not utf-8": b'{"scope": "agent:\xff", "level": "halted"}',
    "utf-16": json.dumps(ORDER).encode("utf-16"),
    "no scope": b'{"level": "halted"}',
    "unknown field": json.dumps(ORDER | {"levle": "halted"}).encode(),
    "wrong type": json.dumps(ORDER | {"reason": 5}).encode(),
    "twice the same field": b'{"scope": "everything", "scope": "run:x", "level": "halted"}',
    "unknown level": json.dumps(ORDER | {"level": "haltd"}).encode(),
    "level normal": json.dumps(ORDER | {"level": "normal"}).encode(),
    "unknown scope": json.dumps(ORDER | {"scope": "agnet:x"}).encode(),
    "empty scope": json.dumps(ORDER | {"scope": ""}).encode(),
    "control character in scope": json.dumps(ORDER | {"scope": "agent:a\u0000b"}).encode(),
    "half a surrogate pair in scope": b'{"scope": "agent:\\ud800", "level": "halted"}',
    "long reason": json.dumps(ORDER | {"reason": "x" * 5_000}).encode(),
    "odd id": json.dumps(ORDER | {"order_id": "../../etc"}).encode(),
    "id with a line break": json.dumps(ORDER | {"order_id": "a\nb"}).encode(),
    "no time zone": json.dumps(ORDER | {"placed_at": "2026-11-26T12:00:00"}).encode(),
    "no time": json.dumps(ORDER | {"placed_at": "yesterday"}).encode(),
    "year 9999 beyond its end": json.dumps(ORDER | {"placed_at": "9999-12-31T23:59:59-23:59"}).encode(),
    "huge number": b'{"scope": "everything", "level": ' + b"9" * 5_000 + b"}",
    "not a number": b'{"scope": NaN, "level": "halted"}',
    "nested": b'{"scope": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "nested objects": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "oversized": json.dumps(ORDER | {"reason": "x" * 400_000}).encode(),
}


def state(switch: RunningSwitch) -> tuple[object, object]:
    audit = switch.look("/v1/audit?limit=1000")
    return switch.ask("GET", "/health").json["sequence"], len(audit)


@pytest.mark.parametrize("path", ["/v1/orders", "/v1/lifts", "/v1/peer/records"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_bad_body_is_refused_with_a_reason_and_leaves_nothing(switch: RunningSwitch, path: str, body: bytes) -> None:
    before = state(switch)
    answer = switch.ask("POST", path, body, token="peer" if "peer" in path else "approver")
    assert 400 <= answer.status < 500, answer.body
    assert answer.is_problem, answer.body
    assert state(switch) == before


CASES: dict[str, dict[str, dict[str, object]]] = {
    "/v1/signals": {
        "unknown kind": {"kind": "odd"},
        "a verdict by the wrong door": {"kind": "verdict"},
        "unknown severity": {"severity": "bad"},
        "unknown scope": {"scope": "agnet:x"},
        "no time zone": {"noticed_at": "2026-11-26T12:00:00"},
        "odd id": {"signal_id": "../../etc"},
        "no id": {"signal_id": ""},
        "odd source": {"source": "a b"},
        "odd rule": {"rule": "Rate limit"},
        "long detail": {"detail": "x" * 5_000},
        "large facts": {"facts": {"log": "x" * 10_000}},
        "unnameable run": {"run_id": "a+b"},
        "unknown field": {"levle": 1},
        "an ask at no level": {"asks": [{"scope": "agent:billing-agent", "level": "hard", "rule": "r"}]},
        "an ask that holds nothing": {"asks": [{"scope": "agent:billing-agent", "level": "normal", "rule": "r"}]},
        "an ask without a rule": {"asks": [{"scope": "agent:billing-agent", "level": "paused", "rule": " "}]},
        "an ask of no measure": {
            "asks": [{"scope": "agent:billing-agent", "level": "paused", "rule": "r", "measure": "bite"}]
        },
        "an ask that only a person may": {
            "asks": [{"scope": "agent:billing-agent", "level": "paused", "rule": "r", "measure": "forced_open"}]
        },
        "too many asks": {"asks": [{"scope": f"agent:a{n}", "level": "paused", "rule": "r"} for n in range(11)]},
    },
    "/v1/verdicts": {
        "about nothing": {"scope": ""},
        "about two things": {"run_id": "r-1"},
        "a step of no run": {"scope": "", "step_id": "1"},
        "no judgement": {"holds": None},
        "two judgements": {"holds": True, "severity": "critical"},
        "no reason": {"reason": " "},
        "unknown verdict's severity": {"holds": None, "severity": "bad"},
        "verdict with an odd id": {"verdict_id": "a/b"},
        "verdict in no time zone": {"judged_at": "2026-11-26T12:00:00"},
    },
}
SIGNALS = {name: (path, fields) for path, cases in CASES.items() for name, fields in cases.items()}


@pytest.mark.parametrize(("path", "fields"), SIGNALS.values(), ids=SIGNALS.keys())
def test_a_bad_signal_is_refused_with_a_reason_and_leaves_nothing(
    switch: RunningSwitch, path: str, fields: dict[str, object]
) -> None:
    verdict = {"scope": "agent:billing-agent", "holds": False, "reason": "amounts differ"}
    body = {**(a_signal() if path == "/v1/signals" else verdict), **fields}
    answer = switch.ask("POST", path, body, token="agent" if path == "/v1/signals" else "operator")
    assert answer.status == 400, answer.body
    assert answer.is_problem, answer.body
    assert switch.look("/v1/signals")["signals"] == []
    assert state(switch)[0] == 0


@pytest.mark.parametrize("path", ["/v1/signals", "/v1/verdicts"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_what_is_no_signal_is_refused(switch: RunningSwitch, path: str, body: bytes) -> None:
    answer = switch.ask("POST", path, body, token="agent" if path == "/v1/signals" else "operator")
    assert 400 <= answer.status < 500, answer.body
    assert answer.is_problem, answer.body
    assert switch.look("/v1/signals")["signals"] == []


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize(("method", "path"), [("PUT", "/v1/guards/g-1"), ("POST", "/v1/guards/g-1/stream")])
def test_a_bad_report_is_refused_with_a_reason(switch: RunningSwitch, method: str, path: str, body: bytes) -> None:
    answer = switch.ask(method, path, body, token="agent")
    assert 400 <= answer.status < 500, answer.body
    assert answer.is_problem, answer.body
    assert switch.look("/v1/guards") == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/orders/nobody"),
        ("GET", "/v1/orders/..%2F..%2Fetc/receipt"),
        ("GET", "/v1/orders/%00/receipt"),
        ("GET", "/v1/orders/x/receipt?wait_s=-1"),
        ("GET", "/v1/orders/x/receipt?wait_s=nan"),
        ("GET", "/v1/orders/x/receipt?here=perhaps"),
        ("GET", "/v1/audit?after=-1"),
        ("GET", "/v1/audit?limit=1000000000000000000000000"),
        ("GET", "/v1/audit?after=x"),
        ("DELETE", "/v1/orders/x"),
        ("PATCH", "/v1/guards/g-1"),
        ("GET", "/v1/nothing"),
        ("GET", "/"),
        ("POST", "/v1/lifts/nobody/consents"),
    ],
)
def test_an_odd_request_is_refused_with_a_reason(switch: RunningSwitch, method: str, path: str) -> None:
    answer = switch.ask(method, path, {} if method == "POST" else None, token="approver")
    assert 400 <= answer.status < 500, answer.body
    assert answer.is_problem, answer.body


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer not-known", "Basic eDp5", "bearer \xe4", "Bearer " + "x" * 4_000]
)
def test_a_wrong_token_is_refused_and_never_repeated(switch: RunningSwitch, authorization: str) -> None:
    for path in ("/v1/orders", "/v1/guards", "/v1/audit", "/v1/stream"):
        answer = switch.ask("GET", path, authorization=authorization)
        assert answer.status == 401
        assert answer.is_problem
        secret = authorization.partition(" ")[2].encode("latin-1")
        assert not secret or secret not in answer.body


def test_what_is_no_http_gets_an_answer_and_the_switch_goes_on(switch: RunningSwitch) -> None:
    host, _, port = switch.url.removeprefix("http://").partition(":")
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01",
        b"GET\r\n\r\n",
        b"\x00" * 100 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4_096):
                pass
    assert switch.ask("GET", "/health").status == 200
