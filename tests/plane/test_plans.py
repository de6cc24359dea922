"""An undo planned, shown and applied for somebody who has no tools: laws PA3, PA4 and PL4 on real workers."""

from typing import Any

import pytest

from plane.served import PAYMENTS, Served, until

RUN = {"run_ids": ["run-1"], "reason": "wrong customers"}


@pytest.mark.slow
def test_an_undo_is_planned_by_a_worker_and_exactly_that_plan_is_applied(served: Served) -> None:
    refused = served.post("/v1/undos", RUN, status=409)
    assert "no worker lives here" in refused["detail"]
    worker = served.start_worker()
    shown = served.post("/v1/undos?wait_s=40", RUN | {"request_id": "mine-1", "parallel": 1})
    assert (shown["state"], shown["worker_id"]) == ("shown", vars(worker)["worker_id"])
    assert shown["facts"]["counts"] == {"compensate": PAYMENTS, "review": 1}
    assert len(shown["items"]) == shown["facts"]["steps"] == PAYMENTS + 1
    told = served.rescind("undo", "--run", "run-1", "--app", "till_tools")
    assert shown["digest"] == told["digest"]
    assert shown["items"] == told["plan"]["items"]
    assert served.get("/v1/undos?every=true")["undos"] == []
    assert served.post("/v1/undos?wait_s=40", RUN | {"request_id": "mine-1", "parallel": 1}) == shown

    page = served.get(f"/v1/plans/{shown['digest'][:12]}?item=1&limit=2")
    assert (page["items"], page["next_item"]) == (shown["items"][1:3], 3)
    digest = shown["digest"]
    applied = served.post(f"/v1/undos/{digest[:16]}/apply?wait_s=40", {"reason": "go"})
    assert (applied["state"], applied["digest"]) == ("submitted", digest)
    again = served.post(f"/v1/undos/{digest}/apply?wait_s=40", {"reason": "go"})
    assert (again["state"], again["digest"]) == ("submitted", digest)
    served.allow(PAYMENTS)
    ended = until(lambda: (found := served.get(f"/v1/undos/{digest}"))["ended"] and found, "it has ended")
    assert (ended["undo"]["state"], ended["undo"]["actor"]) == ("finished", "operator-name")
    assert served.refunds() == PAYMENTS

    stale = served.post("/v1/undos?wait_s=40", RUN)
    assert stale["facts"]["settled"] is True


@pytest.mark.slow
def test_a_plan_that_has_changed_since_it_was_shown_is_refused(served: Served) -> None:
    served.start_worker()
    selection: dict[str, Any] = {"agent": "paying-agent", "exclude": ["letter.send"], "reason": "both"}
    both = served.post("/v1/undos?wait_s=40", selection)
    served.allow(PAYMENTS)
    served.rescind("undo", "--run", "run-1", "--app", "till_tools", "--apply", "--yes", "--here")
    refused = served.post(f"/v1/undos/{both['digest']}/apply?wait_s=40", {"reason": "go"}, status=409)
    assert "outdated: the plan has changed since it was shown" in refused["detail"]
    assert served.refunds() == PAYMENTS
    assert served.get(f"/v1/plans/{both['request_id']}")["state"] == "outdated"
    unknown = served.post("/v1/undos/0123456789abcdef/apply", {"reason": "go"}, status=404)
    assert "no plan" in unknown["detail"]


@pytest.mark.slow
def test_whoever_lacks_the_tools_is_told_whom_it_lacks_and_force_takes_an_approver(served: Served) -> None:
    (served.folder / "other_tools.py").write_text(
        "import os, rescind\nguard = rescind.Guard.at(os.environ['RESCIND_STORE'])\n"
        "@guard.write('letter.send', irreversible='no')\ndef send(number: int) -> None: ...\n"
    )
    served.start_worker("other_tools")
    lacking = served.post("/v1/undos", RUN, status=409)
    assert "payment.send: declared by none of them" in lacking["detail"]
    assert "(other_tools)" in lacking["detail"]

    forced = served.post("/v1/undos", RUN | {"force": True}, status=403)
    assert "it takes approver" in forced["detail"]
    for body, status in (
        (RUN | {"force": True, "reason": ""}, 400),
        (RUN | {"parallel": 0}, 400),
        (RUN | {"within_s": 0}, 400),
        (RUN | {"request_id": "../../etc"}, 400),
        ({"run_ids": ["run-9"]}, 404),
        ({"run_ids": ["run-1"], "since": "2036-01-01T00:00:00Z"}, 409),
    ):
        answer = served.ask("POST", "/v1/undos", body, role="approver")
        assert answer.status_code == status, (body, answer.text)


@pytest.mark.slow
def test_a_request_waits_for_a_worker_that_died_with_it(served: Served) -> None:
    worker = served.start_worker()
    worker.send_signal(19)  # stopped: it lives, and answers nothing
    asked = served.post("/v1/undos?wait_s=0", RUN, status=202)
    assert asked["state"] in ("waiting", "taken")
    worker.kill()
    worker.wait(20.0)
    served.start_worker()
    shown = until(
        lambda: (found := served.get(f"/v1/plans/{asked['request_id']}"))["state"] == "shown" and found, "it is shown"
    )
    assert shown["facts"]["steps"] == PAYMENTS + 1
