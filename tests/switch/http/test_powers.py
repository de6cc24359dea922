"""Who may do what: every request by every role, and nothing that an agent holds gives power back."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.bank import until
from switch.http.service import PATIENCE_S, RESCIND, Answer, RunningSwitch, a_signal, an_asking, running

ROLES = ("agent", "viewer", "operator", "approver", "peer", "verifier")

LOOKING = ("GET /v1/orders", "GET /v1/guards", "GET /v1/audit", "GET /v1/stream", "GET /v1/signals")

MAY: dict[str, set[str]] = {
    **{request: {"viewer", "operator", "approver"} for request in LOOKING},
    "GET /v1/leases/run-x": {"viewer", "operator", "approver"},
    "GET /v1/caller": set(ROLES),
    "POST /v1/orders": {"agent", "operator", "approver"},
    "POST /v1/lifts": {"approver"},
    "POST /v1/lifts/lift-x/consents": {"approver"},
    "PUT /v1/guards/g-ROLE": {"agent"},
    "POST /v1/guards/g-ROLE/stream": {"agent"},
    "GET /v1/peer/records": {"peer"},
    "POST /v1/peer/records": {"peer"},
    "POST /v1/signals": {"agent"},
    "POST /v1/approvals": {"agent"},
    "GET /v1/approvals": {"agent", "viewer", "operator", "approver"},
    "GET /v1/approvals/approval-x": {"agent", "viewer", "operator", "approver"},
    "POST /v1/approvals/approval-x/decision": {"approver"},
    "POST /v1/verdicts": {"operator", "approver", "verifier"},
}


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSwitch]:
    with running(tmp_path_factory.mktemp("powers"), roles=ROLES) as switch:
        yield switch


def body_for(request: str) -> dict[str, object] | None:
    if request.startswith("GET"):
        return None
    if request == "POST /v1/orders":
        return {"scope": "agent:billing-agent+run:nobody", "level": "paused"}
    if request == "POST /v1/lifts":
        return {"order_ids": ["ord_nobody"], "reason": "a test"}
    if request == "POST /v1/peer/records":
        return {"switch_id": "sw_x", "until": 0, "records": []}
    if request == "POST /v1/signals":
        return a_signal(scope="agent:billing-agent")
    if request == "POST /v1/verdicts":
        return {"scope": "agent:billing-agent", "holds": True, "reason": "all is well"}
    if request == "POST /v1/approvals":
        return an_asking()
    if request == "POST /v1/approvals/approval-x/decision":
        return {"decision": "approved"}
    return {}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("request_line", MAY)
def test_each_role_may_do_what_it_is_for_and_no_more(switch: RunningSwitch, request_line: str, role: str) -> None:
    method, path = request_line.replace("ROLE", role).split()
    answer = switch.ask(method, path, body_for(request_line), token=role)
    if role in MAY[request_line]:
        assert answer.status in (200, 201, 404), answer.body  # 404: it may, and there is no such lift or order
    else:
        assert answer.status == 403, answer.body
        assert answer.is_problem


@pytest.mark.parametrize("role", ROLES)
def test_who_asks_is_told_whom_it_is_taken_for(switch: RunningSwitch, role: str) -> None:
    found = switch.ask("GET", "/v1/caller", token=role).json
    assert found == {"name": f"{role}-name", "role": role, "may_lift": role == "approver"}


def documented(switch: RunningSwitch) -> list[tuple[str, str]]:
    paths = switch.ask("GET", "/openapi.json").json["paths"]
    return [
        (method.upper(), path) for path, item in paths.items() for method in item if method in ("get", "post", "put")
    ]


def test_the_description_names_every_request_of_the_table(switch: RunningSwitch) -> None:
    known = {f"{method} {path}" for method, path in documented(switch)}
    for request in MAY:
        pattern = (
            request.replace("lift-x", "{lift_id}")
            .replace("run-x", "{run_id}")
            .replace("approval-x", "{approval_id}")
            .replace("g-ROLE", "{guard_id}")
        )
        assert pattern in known


@pytest.mark.parametrize("token", ["agent", ""])
def test_nothing_that_an_agent_can_send_gives_power_back(switch: RunningSwitch, token: str) -> None:
    order_id, name = switch.stop("agent:billing-agent"), f"victim-{token}"
    victim = switch.make_token("agent", name)
    until(lambda: switch.ask("PUT", f"/v1/guards/{name}", {"pid": 7}, token=victim).status == 200, "it is known")
    before = switch.standing()

    bodies: tuple[dict[str, object], ...] = (
        {},
        {"order_ids": [order_id], "reason": "let me go"},
        {"order_id": order_id, "scope": "agent:billing-agent", "level": "normal"},
        {"order_id": order_id, "scope": "agent:billing-agent", "level": "supervised"},
        {"pid": 1, "leaving": True, "bound": 10**6},
    )
    answers: list[Answer] = []
    for _, path in documented(switch):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            for body in bodies:
                named = path.replace("{order_id}", order_id).replace("{lift_id}", order_id)
                answers.append(switch.ask(method, named.replace("{guard_id}", f"victim-{token}"), body, token=token))

    assert {answer.status for answer in answers} <= {400, 401, 403, 404, 405, 409, 413, 415, 422, 429}
    assert set(before) <= set(switch.standing())
    (guard,) = [each for each in switch.look("/v1/guards") if each["guard_id"] == f"victim-{token}"]
    assert guard["report"]["pid"] == 7
    assert not guard["report"].get("leaving", False)


def test_an_agent_may_stop_itself_and_nobody_else(switch: RunningSwitch) -> None:
    def place(scope: str) -> int:
        return switch.ask("POST", "/v1/orders", {"scope": scope, "level": "halted"}, token="agent").status

    assert place("agent:billing-agent+run:mine") == 201
    for scope in ("everything", "agent:other", "tenant:acme", "run:mine", "agent:billing-agent-2"):
        assert place(scope) == 403


def test_without_any_token_everybody_may_stop_and_nobody_may_lift(tmp_path: Path) -> None:
    with running(tmp_path) as switch:
        order_id = switch.stop("everything", token="")
        lifting = switch.ask("POST", "/v1/lifts", {"order_ids": [order_id], "reason": "why not"})
        assert lifting.status == 401
        assert "rescind token create --role approver" in lifting.json["detail"]
        assert switch.standing(token="") == [order_id]


def test_revoking_the_last_token_lets_nobody_in(tmp_path: Path) -> None:
    with running(tmp_path, roles=("viewer",)) as switch:
        words = ["--data", str(switch.data)]
        listed = subprocess.run([RESCIND, "token", "list", *words], capture_output=True, text=True, check=True)
        token_id = listed.stdout.split()[0]
        subprocess.run(
            [RESCIND, "token", "revoke", token_id, *words], check=True, capture_output=True, timeout=PATIENCE_S
        )
        until(lambda: switch.ask("GET", "/v1/orders", token="viewer").status == 401, "the token is worthless")
        assert switch.ask("GET", "/v1/orders").status == 401
        assert switch.ask("POST", "/v1/orders", {"scope": "everything", "level": "halted"}).status == 401
