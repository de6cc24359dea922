"""An undo on a real worker, followed, paused, resumed and cancelled over HTTP: laws PL2 to PL4 and LP1 to LP3."""

from typing import Any

import pytest

from plane.served import PAYMENTS, SLOWLY_S, Served, events_of, until


def state_of(served: Served, plan: str) -> dict[str, Any]:
    found: dict[str, Any] = served.get(f"/v1/undos/{plan}")
    return found


def done_of(served: Served, plan: str) -> int:
    return int(state_of(served, plan)["undo"]["done"])


def test_an_undo_is_followed_paused_resumed_and_comes_to_its_end(served: Served) -> None:
    worker = served.start_worker()
    plan = served.begin_undo()
    listed = served.get("/v1/undos")["undos"]
    assert [each["undo"]["plan_digest"] for each in listed] == [plan]
    assert served.get("/v1/workers")["workers"][0]["actions"] == ["letter.send", "payment.send"]

    with served.client("viewer") as client, client.stream("GET", f"/v1/undos/{plan[:12]}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = events_of(stream.iter_lines())
        name, first_id, first = next(events)
        assert (name, first["ended"]) == ("progress", False)

        served.allow(4)
        until(lambda: served.refunds() == 4, "four are paid back")
        told = [first["undo"]["done"]]
        while told[-1] < 4:
            told.append(next(events)[2]["undo"]["done"])
        assert told == sorted(told)

        paused = served.post(f"/v1/undos/{plan}/pause", {"reason": "the bank asks"})
        assert (paused["undo"]["state"], paused["undo"]["held_by"]) == ("paused", "operator-name")
        again = served.post(f"/v1/undos/{plan}/pause", {"reason": "the bank asks"})
        assert again["undo"]["state"] == "paused"
        seen = next(each for _, _, each in events if each["undo"]["state"] == "paused")
        assert seen["undo"]["held_because"] == "the bank asks"

        share = state_of(served, plan)["shares"][0]
        assert (share["state"], share["worker_id"]) == ("running", vars(worker)["worker_id"])
        assert share["actions"] == ["letter.send", "payment.send"]

        served.allow(PAYMENTS, each_s=SLOWLY_S)  # what is under way comes to its end, and no more
        until(served.is_still, "nothing is under way any more")
        held = state_of(served, plan)["undo"]
        assert (held["state"], held["done"] < PAYMENTS) == ("paused", True)
        resumed = served.post(f"/v1/undos/{plan}/resume", {"reason": "they are back"})
        assert resumed["undo"]["state"] == "running"

        rest = list(events)
    name, last_id, last = rest[-1]
    assert name == "end"
    assert [each for each, _, _ in rest[:-1]] == ["progress"] * (len(rest) - 1)
    assert (last["undo"]["state"], last["percent"], last["ended"]) == ("finished", 100.0, True)
    assert last["undo"]["by_disposition"] == {"compensated": PAYMENTS, "review": 1}
    assert served.refunds() == PAYMENTS
    assert len({first_id, *(event_id for _, event_id, _ in rest)}) == len(rest) + 1

    with served.client("viewer") as client:
        path = f"/v1/undos/{plan}/events"
        gone = client.get(path, headers={"last-event-id": last_id})
        assert (gone.status_code, gone.content) == (204, b"")
        late = list(events_of(iter(client.get(path, headers={"last-event-id": first_id}).text.split("\n"))))
        assert late == [("end", last_id, last)]
    ended = state_of(served, plan)
    assert [(each["state"], each["worker_id"]) for each in ended["shares"]] == [("ended", vars(worker)["worker_id"])]
    assert served.get("/v1/undos")["undos"] == []
    assert [each["undo"]["plan_digest"] for each in served.get("/v1/undos?every=true")["undos"]] == [plan]
    told_by_command = served.rescind("plan", "show", plan)["plan"]
    assert {name: told_by_command[name] for name in ended["undo"]} == ended["undo"]


@pytest.mark.slow
def test_a_cancelled_undo_ends_and_takes_no_further_order(served: Served) -> None:
    served.start_worker()
    plan = served.begin_undo()
    served.allow(2)
    until(lambda: served.refunds() == 2, "two are paid back")
    cancelled = served.post(f"/v1/undos/{plan}/cancel", {"reason": "wrong run"})
    assert cancelled["undo"]["state"] == "cancelling"
    served.allow(PAYMENTS, each_s=SLOWLY_S)
    ended = until(lambda: (found := state_of(served, plan))["ended"] and found, "it has ended")
    assert (ended["undo"]["state"], ended["undo"]["held_by"]) == ("cancelled", "operator-name")
    assert 2 < served.refunds() < PAYMENTS
    assert served.post(f"/v1/undos/{plan}/cancel", {"reason": "wrong run"})["undo"]["state"] == "cancelled"
    for what in ("pause", "resume"):
        refused = served.post(f"/v1/undos/{plan}/{what}", {"reason": "x"}, status=409)
        assert "has ended (cancelled)" in refused["detail"]


@pytest.mark.slow
def test_a_stream_goes_on_at_another_server_where_the_first_one_left_off(served: Served) -> None:
    """Law PL2: the server is killed and started again in mid-undo, and two serve one store."""
    served.start_worker()
    plan = served.begin_undo()
    served.allow(1)
    until(lambda: done_of(served, plan) == 1, "one is paid back")
    path = f"/v1/undos/{plan}/events"
    with served.client("viewer") as client, client.stream("GET", path) as stream:
        _, told_id, _ = next(events_of(stream.iter_lines()))
        served.plane.kill()
        served.plane.wait(20.0)
    served.start_plane()
    headers = {"last-event-id": told_id}
    with served.client("viewer") as client, client.stream("GET", path, headers=headers) as stream:
        served.allow(PAYMENTS)
        events = list(events_of(stream.iter_lines()))
    assert told_id not in {event_id for _, event_id, _ in events}
    assert events[-1][0] == "end"
    assert events[-1][2]["undo"]["done"] == PAYMENTS + 1


@pytest.mark.slow
def test_streams_end_when_the_server_is_told_to_leave(served: Served) -> None:
    served.start_worker()
    plan = served.begin_undo()
    with served.client("viewer") as client, client.stream("GET", f"/v1/undos/{plan}/events") as stream:
        events = events_of(stream.iter_lines())
        assert next(events)[0] == "progress"
        served.plane.terminate()
        assert [name for name, _, _ in events if name == "end"] == []
    assert served.plane.wait(20.0) == 0
