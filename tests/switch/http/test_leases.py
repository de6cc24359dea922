"""`GET /v1/leases/{run_id}`: what a gateway is told of a run, and what it has to say of it."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from switch.http.service import RunningSwitch, running

KNOWN = {"agent": "billing-agent@2.4.0", "tenant": "acme", "workflow": "dunning", "ancestor": "run-0"}


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSwitch]:
    with running(tmp_path_factory.mktemp("leases"), roles=("agent", "viewer", "operator", "approver")) as switch:
        yield switch


def lease(switch: RunningSwitch, run_id: str, **details: str) -> Any:
    return switch.look(f"/v1/leases/{run_id}?{urlencode(details)}")


def revoke(switch: RunningSwitch, scope: str) -> str:
    order = {"scope": scope, "level": "paused", "measure": "revoke", "reason": "rogue"}
    answer = switch.ask("POST", "/v1/orders", order, token="operator")
    assert answer.status == 201, answer.body
    return str(answer.json["order"]["order_id"])


def lift(switch: RunningSwitch, order_id: str) -> None:
    lifted = {"order_ids": [order_id], "reason": "mended"}
    assert switch.ask("POST", "/v1/lifts", lifted, token="approver").status == 201


def test_a_lease_that_was_revoked_and_given_back_has_a_higher_number(switch: RunningSwitch) -> None:
    assert lease(switch, "run-1", **KNOWN) == {
        "switch_id": lease(switch, "run-1", **KNOWN)["switch_id"],
        "run_id": "run-1",
        "valid": True,
        "fencing_number": 1,
        "level": "normal",
        "revocations": [],
        "held_by": [],
        "unknown": [],
    }
    order_id = revoke(switch, "run:run-1")

    revoked = lease(switch, "run-1", **KNOWN)
    assert (revoked["valid"], revoked["fencing_number"], revoked["revocations"]) == (False, 2, [order_id])
    assert [(order["order_id"], order["measure"]) for order in revoked["held_by"]] == [(order_id, "revoke")]

    lift(switch, order_id)
    given_back = lease(switch, "run-1", **KNOWN)
    assert (given_back["valid"], given_back["fencing_number"]) == (True, 2)


@pytest.mark.parametrize(
    ("scope", "left_out"),
    [
        ("tenant:bank+workflow:dunning+agent:billing-agent+tree:run-0", "tenant"),
        ("workflow:news+tenant:acme+agent:billing-agent+tree:run-0", "workflow"),
        ("tree:run-9+tenant:acme+workflow:dunning+agent:billing-agent", "ancestor"),
        ("agent:mail-agent+tenant:acme+workflow:dunning+tree:run-0", "agent"),
    ],
)
def test_what_the_request_leaves_out_may_be_anything(switch: RunningSwitch, scope: str, left_out: str) -> None:
    order_id = revoke(switch, scope)
    details = {name: value for name, value in KNOWN.items() if name != left_out}

    assert lease(switch, "run-2", **KNOWN)["valid"]
    assert order_id in lease(switch, "run-2", **details)["revocations"]
    assert order_id not in lease(switch, "run-2", **details, **{left_out: ""})["revocations"]
    lift(switch, order_id)


def test_a_revocation_for_one_action_is_told_to_who_asks_for_that_action(switch: RunningSwitch) -> None:
    order_id = revoke(switch, "run:run-3+action:pay")

    assert not lease(switch, "run-3", **KNOWN, action="pay")["valid"]
    assert lease(switch, "run-3", **KNOWN, action="mail")["valid"]
    assert lease(switch, "run-3", **KNOWN)["valid"]
    lift(switch, order_id)


def test_an_agent_asks_for_its_own_leases_and_no_others(switch: RunningSwitch) -> None:
    own = switch.ask("GET", "/v1/leases/run-1?agent=billing-agent%402.4.0", token="agent")
    other = switch.ask("GET", "/v1/leases/run-1?agent=mail-agent", token="agent")
    silent = switch.ask("GET", "/v1/leases/run-1", token="agent")

    assert (own.status, other.status, silent.status) == (200, 403, 403)
    assert "agent:billing-agent" in silent.json["detail"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("run%2B1", "has a `+`"),
        ("run-1?agent=a%20b", "cannot read agent"),
        ("run-1?tenant=a%0Ab", "control character"),
        ("run-1?tenant=" + "x" * 3_000, "too long"),
        ("run-1?" + "&".join(f"ancestor=run-{n}" for n in range(101)), "at most 100"),
    ],
)
def test_a_request_that_names_no_run_is_refused_with_what_is_wrong(switch: RunningSwitch, path: str, says: str) -> None:
    answer = switch.ask("GET", f"/v1/leases/{path}", token="viewer")

    assert answer.status == 400
    assert answer.is_problem
    assert says in answer.json["detail"]
