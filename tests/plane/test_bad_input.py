"""Whatever is sent: a refusal that says what is wrong, and nothing recorded."""

import json
from typing import Any

import pytest

from plane.served import Served
from rescind.journal.pages import every_entry
from rescind.journal.port import Query

BODIES: dict[str, bytes] = {
    "empty": b"",
    "not json": b"{reason:",
    "a list": b"[]",
    "null": b"null",
    "not utf-8": b'{"reason": "\xff"}',
    "unknown field": b'{"reason": "x", "reson": "y"}',
    "wrong type": b'{"reason": 5}',
    "a field twice": b'{"reason": "x", "reason": "y"}',
    "half a surrogate pair": b'{"reason": "\\ud800"}',
    "nested": b'{"reason": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "oversized": json.dumps({"reason": "x" * 400_000}).encode(),
    "empty reason": b'{"reason": " "}',
    "long reason": json.dumps({"reason": "x" * 5_000}).encode(),
}


def entries_in(served: Served) -> int:
    with served.journal() as journal:
        return sum(1 for _ in every_entry(journal, Query()))


def send(served: Served, path: str, body: bytes, kind: str = "application/json") -> Any:
    with served.client("approver") as client:
        return client.post(path, content=body, headers={"content-type": kind})


@pytest.mark.parametrize("path", ["/v1/undos/0123456789ab/pause", "/v1/reviews/review_x/comments", "/v1/impact"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_bad_body_is_refused_with_a_reason_and_leaves_nothing(shared: Served, path: str, body: bytes) -> None:
    before = entries_in(shared)
    answer = send(shared, path, body)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], bool(problem["detail"])) == (answer.status_code, True)
    assert entries_in(shared) == before


def test_who_sends_no_body_is_told_to_send_one(shared: Served) -> None:
    assert "the body is missing; send it as JSON" in send(shared, "/v1/impact", b"").json()["detail"]


def test_a_web_page_cannot_send_an_order_without_being_asked(shared: Served) -> None:
    answer = send(shared, "/v1/undos/0123456789ab/pause", b'{"reason": "x"}', kind="text/plain")
    assert answer.status_code == 415


SELECTIONS: dict[str, dict[str, Any]] = {
    "nothing chosen": {},
    "only left out": {"exclude": ["letter.send"]},
    "no time zone": {"since": "2026-11-26T12:00:00"},
    "no time": {"since": "yesterday"},
    "no time between": {"since": "2026-11-26T12:00:00Z", "until": "2026-11-26T11:00:00Z"},
    "empty name": {"run_ids": [""]},
    "unknown action": {"run_ids": ["run-1"], "actions": ["payment.sent"]},
    "unknown field": {"runs": ["run-1"]},
    "too short": {"run_ids": ["r"]},
}


@pytest.mark.parametrize("body", SELECTIONS.values(), ids=SELECTIONS.keys())
def test_a_selection_that_means_nothing_is_refused_in_words(shared: Served, body: dict[str, Any]) -> None:
    answer = send(shared, "/v1/impact", json.dumps(body).encode())
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/undos?limit=0",
        "/v1/undos?limit=100000",
        "/v1/undos?after=nowhere",
        "/v1/undos?every=perhaps",
        "/v1/undos/xyz",
        "/v1/undos/%00",
        "/v1/undos/..%2F..%2Fetc/events",
        "/v1/undos/0123/events",
        "/v1/reviews?overdue=x",
        "/v1/incidents?limit=nan",
        "/v1/nothing",
        "/",
    ],
)
def test_an_odd_request_is_refused_with_a_reason(shared: Served, path: str) -> None:
    answer = shared.ask("GET", path, role="approver")
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


def test_a_method_that_is_not_known_is_refused(shared: Served) -> None:
    answer = shared.ask("DELETE", "/v1/undos/0123456789ab", role="approver")
    assert (answer.status_code, answer.headers["content-type"]) == (405, "application/problem+json")


def test_nothing_secret_is_logged(shared: Served) -> None:
    shared.ask("GET", "/v1/undos", role="viewer")
    send(shared, "/v1/impact", b"{")
    shared.plane.terminate()
    out, err = shared.plane.communicate(timeout=20.0)
    assert all(token not in out + err for token in shared.tokens.values())
