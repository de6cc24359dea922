"""Review tasks, incidents and impact over HTTP: laws PL1, PL3, PL4 and PL5."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from plane.served import HOSTILE, PAYMENTS, Served
from rescind.journal.pages import every_entry
from rescind.journal.port import Query


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Its first run is undone here; what is left are the letter of that, and the second run."""
    made = Served(tmp_path_factory.mktemp("plane"))
    made.allow(PAYMENTS)
    made.rescind("undo", "--run", "run-1", "--app", "till_tools", "--apply", "--yes", "--here")
    yield made
    made.end_all()


def entries_in(served: Served) -> int:
    with served.journal() as journal:
        return sum(1 for _ in every_entry(journal, Query()))


def test_a_task_is_given_commented_on_and_resolved_once(shared: Served) -> None:
    (listed,) = shared.get("/v1/reviews")["tasks"]
    task_id = listed["task"]["task_id"]
    shown = shared.get(f"/v1/reviews/{task_id[:12]}")
    assert (shown["task"]["action"], shown["steps_total"], shown["overdue"]) == ("letter.send", 1, False)
    assert [record["step"]["action"] for record in shown["records"]] == ["letter.send"]

    due_at = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    orders = {
        "assignee": {"assignee": "ann"},
        "due": {"due_at": due_at},
        "comments": {"text": "called them"},
        "resolution": {"resolution": "compensated", "reference": "CN-1047", "note": "credited"},
    }
    for what, body in orders.items():
        shared.post(f"/v1/reviews/{task_id}/{what}", body)
        before = entries_in(shared)
        shared.post(f"/v1/reviews/{task_id}/{what}", body)  # its answer was lost
        assert entries_in(shared) == before

    task = shared.get(f"/v1/reviews/{task_id}")["task"]
    assert (task["assignee"], task["resolution"], task["resolved_by"]) == ("ann", "compensated", "operator-name")
    assert [(each["actor"], each["text"]) for each in task["comments"]] == [("operator-name", "called them")]
    refused = shared.post(f"/v1/reviews/{task_id}/resolution", {"resolution": "done"}, status=409)
    assert "was resolved as compensated by operator-name" in refused["detail"]
    other = shared.post(f"/v1/reviews/{task_id}/resolution", orders["resolution"], role="approver", status=409)
    assert other["title"] == "Conflict"
    assert shared.get("/v1/reviews")["tasks"] == []
    assert len(shared.get("/v1/reviews?every=true&assignee=ann")["tasks"]) == 1
    assert shared.get("/v1/reviews?every=true&assignee=bob")["tasks"] == []


def test_what_agents_wrote_is_only_text(shared: Served) -> None:
    """Law PL5."""
    incident_id = shared.notice()
    for path in ("/v1/reviews?every=true", f"/v1/incidents/{incident_id}", f"/v1/incidents/{incident_id}/report"):
        raw = shared.ask("GET", path, role="viewer")
        assert raw.content.isascii()
        assert b"\x1b" not in raw.content
        assert HOSTILE[0] in raw.json().__repr__().encode().decode("unicode_escape")
        assert raw.headers["content-type"].startswith("application/json")
        assert raw.headers["x-content-type-options"] == "nosniff"
    told = shared.ask("GET", f"/v1/incidents/{incident_id}/report.md", role="viewer")
    assert told.headers["content-type"].startswith("text/markdown")
    assert "\x1b" not in told.text
    assert "\u202e" not in told.text
    assert "<script>" not in told.text


def test_incidents_are_listed_shown_and_told(shared: Served) -> None:
    incident_id = shared.notice("run-2")
    listed = shared.get("/v1/incidents")["incidents"]
    assert incident_id in [each["incident_id"] for each in listed]
    assert "timeline" not in listed[0]
    shown = shared.get(f"/v1/incidents/{incident_id}")
    assert (shown["incident"]["severity"], shown["next_stage"], shown["waits"]) == ("critical", "contain", False)
    assert shared.get(f"/v1/incidents/{incident_id}/report")["stages"] == {}
    pages: list[str] = []
    after = ""
    while True:
        page = shared.get(f"/v1/incidents?limit=1&after={after}")
        pages += [each["incident_id"] for each in page["incidents"]]
        after = page["after"]
        if not after:
            break
    assert pages == [each["incident_id"] for each in shared.get("/v1/incidents")["incidents"]]


def test_a_plan_of_an_incident_is_approved_by_its_digest_by_an_approver_and_once(shared: Served) -> None:
    incident_id = shared.notice("run-2")
    path = f"/v1/incidents/{incident_id}/approval"
    early = shared.post(path, {"digest": "0" * 16}, role="approver", status=409)
    assert "does not wait" in early["detail"]
    shared.rescind("incidents", "recover", incident_id, "--app", "till_tools")
    shown = shared.get(f"/v1/incidents/{incident_id}")
    assert (shown["next_stage"], shown["waits"]) == ("compensate", True)

    assert shared.ask("POST", path, {"digest": shown["digest"]}).status_code == 403
    other = shared.post(path, {"digest": "0" * 16}, role="approver", status=404)
    assert "no plan 0000000000000000" in other["detail"]
    wrong = shared.post(path, {"digest": "yes"}, role="approver", status=400)
    assert "is no digest" in wrong["detail"]
    approved = shared.post(path, {"digest": shown["digest"][:16], "note": "looked at it"}, role="approver")
    assert approved["waits"] is False
    before = entries_in(shared)
    assert shared.post(path, {"digest": shown["digest"][:16], "note": "looked at it"}, role="approver") == approved
    assert entries_in(shared) == before
    report = shared.get(f"/v1/incidents/{incident_id}/report")
    assert report["approvals"]["compensate"]["actor"] == "approver-name"


def test_the_impact_of_a_selection_is_that_of_the_command(shared: Served) -> None:
    found = shared.post("/v1/impact", {"run_ids": ["run-2"]}, role="viewer")
    told = shared.rescind("impact", "--run", "run-2")
    assert (found["roots"], found["affected"], found["reach"]) == (told["roots"], told["affected"], told["reach"])
    assert found["roots_total"] == PAYMENTS + 1
    few = shared.ask("POST", "/v1/impact?limit=2", {"run_ids": ["run-2"]}, role="viewer").json()
    assert (len(few["roots"]), few["roots_total"]) == (2, PAYMENTS + 1)


def test_what_is_not_there_is_said_to_be_not_there(shared: Served) -> None:
    for path in ("/v1/undos/0123456789ab", "/v1/reviews/review_nothing", "/v1/incidents/inc_nothing"):
        answer = shared.ask("GET", path, role="viewer")
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
        assert answer.json()["detail"]
    answer = shared.ask("POST", "/v1/impact", {"run_ids": ["run-nothing"]}, role="viewer")
    assert (answer.status_code, "did you mean" in answer.json()["detail"]) == (404, True)


def test_a_store_that_is_gone_is_said_to_be_so(tmp_path: Path) -> None:
    served = Served(tmp_path)
    try:
        assert served.ask("GET", "/health", role="").json() == {"readable": True, "trouble": ""}
        (tmp_path / "store" / "journal.db").write_bytes(b"no database any more" * 1000)
        answer = served.ask("GET", "/v1/reviews", role="viewer")
        assert answer.status_code in (500, 503), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    finally:
        served.end_all()
