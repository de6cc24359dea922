"""Who may do what: law PL1, over every request that the description names."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from acceptance.programs import Programs
from plane.served import Served, until
from rescind.web.tokens import Role

LOOKERS = {"viewer", "operator", "approver"}
ACTORS = {"operator", "approver"}

MAY: dict[str, set[str]] = {
    "GET /v1/undos": LOOKERS,
    "GET /v1/undos/{plan}": LOOKERS,
    "GET /v1/undos/{plan}/events": LOOKERS,
    "POST /v1/undos": ACTORS,
    "GET /v1/plans/{plan}": LOOKERS,
    "POST /v1/undos/{plan}/apply": ACTORS,
    "POST /v1/undos/{plan}/pause": ACTORS,
    "POST /v1/undos/{plan}/resume": ACTORS,
    "POST /v1/undos/{plan}/cancel": ACTORS,
    "GET /v1/workers": LOOKERS,
    "GET /v1/reviews": LOOKERS,
    "GET /v1/reviews/{task_id}": LOOKERS,
    "POST /v1/reviews/{task_id}/assignee": ACTORS,
    "POST /v1/reviews/{task_id}/due": ACTORS,
    "POST /v1/reviews/{task_id}/comments": ACTORS,
    "POST /v1/reviews/{task_id}/resolution": ACTORS,
    "POST /v1/impact": LOOKERS,
    "GET /v1/incidents": LOOKERS,
    "GET /v1/incidents/{incident_id}": LOOKERS,
    "GET /v1/incidents/{incident_id}/report": LOOKERS,
    "GET /v1/incidents/{incident_id}/report.md": LOOKERS,
    "POST /v1/incidents/{incident_id}/approval": {"approver"},
    "GET /v1/caller": LOOKERS,
}

BODIES: dict[str, Any] = {
    "assignee": {"assignee": "ann"},
    "due": {"due_at": None},
    "comments": {"text": "x"},
    "resolution": {"resolution": "done"},
    "impact": {"run_ids": ["run-1"]},
    "undos": {"run_ids": ["run-1"]},
    "approval": {"digest": "0123456789abcdef"},
}


def documented(served: Served) -> set[str]:
    paths = served.ask("GET", "/openapi.json", role="").json()["paths"]
    return {f"{method.upper()} {path}" for path, item in paths.items() for method in item} - {"GET /health"}


def test_the_table_names_every_request_and_no_other(shared: Served) -> None:
    assert documented(shared) == MAY.keys()


@pytest.mark.parametrize("request_line", MAY)
def test_each_role_may_do_what_it_is_for_and_no_more(shared: Served, request_line: str) -> None:
    method, path = request_line.split()
    for name, value in (("plan", "0123456789ab"), ("task_id", "review_x"), ("incident_id", "inc_x")):
        path = path.replace(f"{{{name}}}", value)
    body = BODIES.get(path.rpartition("/")[2], {"reason": "x"}) if method == "POST" else None
    for role in Role:
        answer = shared.ask(method, path, body, role=role.value)
        if role.value in MAY[request_line]:
            # 404: it may, and there is no such thing. 409: it may, and no worker is there.
            assert answer.status_code in (200, 404, 409), answer.text
        else:
            assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
            assert f"role {role.value} may not do this" in answer.json()["detail"]
    nobody = shared.ask(method, path, body, role="")
    assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("role", sorted(LOOKERS))
def test_who_asks_is_told_whom_it_is_taken_for(shared: Served, role: str) -> None:
    assert shared.get("/v1/caller", role=role) == {
        "name": f"{role}-name",
        "role": role,
        "may_undo": role in ACTORS,
        "may_approve": role == "approver",
    }


def test_an_agent_reaches_nothing_by_any_method(shared: Served) -> None:
    paths = {line.split()[1] for line in MAY}
    for path, method in itertools.product(sorted(paths), ("GET", "POST", "PUT", "PATCH", "DELETE")):
        answer = shared.ask(method, path, {} if method == "POST" else None, role="agent")
        assert answer.status_code in (400, 403, 405), (method, path, answer.text)


def test_a_revoked_token_is_refused_and_a_new_one_is_known(shared: Served) -> None:
    made = shared.rescind("token", "create", "--data", "tokens", "--role", "viewer", "--name", "late")
    shared.tokens["late"] = made["token"]
    until(lambda: shared.ask("GET", "/v1/caller", role="late").status_code == 200, "it is known")
    shared.rescind("token", "revoke", made["token_id"], "--data", "tokens")
    until(lambda: shared.ask("GET", "/v1/caller", role="late").status_code == 401, "it is worthless")


@pytest.mark.parametrize("authorization", ["Bearer", "Bearer rsc_no", "Basic eDp5", "Bearer " + "x" * 4_000])
def test_a_wrong_token_is_refused_and_never_repeated(shared: Served, authorization: str) -> None:
    with shared.client("") as client:
        answer = client.get("/v1/undos", headers={"authorization": authorization})
    secret = authorization.partition(" ")[2]
    assert answer.status_code == 401
    assert not secret or secret not in answer.text


def test_a_server_that_could_be_used_by_people_nobody_knows_does_not_start(shared: Served, tmp_path: Path) -> None:
    cases = {
        ("--data", str(tmp_path / "none")): "nobody has a token in",
        ("--data", "tokens", "--host", "0.0.0.0"): "without TLS tokens can be read on the way",
        ("--data", "tokens", "--cert", "x.pem"): "--cert and --key go together",
        ("--data", "tokens", "--cert", "x.pem", "--key", "x.key"): "cannot be used",
    }
    for words, said in cases.items():
        done = Programs().rescind(shared.folder, "serve", "--port", "0", *words, RESCIND_STORE=shared.store)
        assert (done.returncode, said in done.stderr) == (2, True), done
    assert not (tmp_path / "none").exists()
