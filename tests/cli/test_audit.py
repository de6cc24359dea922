"""The audit commands: what they find, what they print, and what they let in."""

import io
import json
import sqlite3
from pathlib import Path
from types import ModuleType

import pytest

from cli.conftest import Rescind

pytestmark = pytest.mark.usefixtures("shop")


def tamper(folder: Path, sql: str) -> None:
    connection = sqlite3.connect(folder / "store" / "journal.db")
    with connection:
        connection.execute(sql)
    connection.close()


def test_an_untouched_journal_is_intact(rescind: Rescind) -> None:
    answer = rescind("audit", "verify", "--json")

    assert answer.status == 0
    assert answer.json["intact"] is True
    assert "intact: 8 entries of 1 run" in rescind("audit", "verify").out


def test_a_changed_entry_is_named_and_the_status_is_1(rescind: Rescind, folder: Path) -> None:
    tamper(folder, "UPDATE entries SET body = replace(body, '100', '101') WHERE sequence = 2")

    answer = rescind("audit", "verify", "--json")

    assert answer.status == 1
    assert {finding["sequence"] for finding in answer.json["findings"]} >= {2}
    assert "entry 2" in rescind("audit", "verify").out


def test_a_rewritten_journal_is_found_by_a_seal_that_was_kept(rescind: Rescind, folder: Path) -> None:
    kept = rescind("audit", "seal")
    Path("kept.jsonl").write_text(kept.out)
    assert rescind("audit", "verify", "--against", "kept.jsonl").status == 0

    seal = json.loads(kept.out)
    Path("kept.jsonl").write_text(json.dumps(seal | {"digest": "0" * 64}))

    answer = rescind("audit", "verify", "--against", "kept.jsonl")
    assert answer.status == 1
    assert "is not this journal's" in answer.out


def test_what_is_no_seal_is_refused_with_its_line(rescind: Rescind) -> None:
    Path("kept.jsonl").write_text("\nnonsense\n")

    answer = rescind("audit", "verify", "--against", "kept.jsonl")

    assert answer.status == 2
    assert "line 2" in answer.err


def test_the_log_tells_what_happened_in_order(rescind: Rescind) -> None:
    lines = rescind("audit", "log").out.splitlines()

    assert lines[0].endswith("run-1  shop-agent@1.2.0")
    assert "opened by shop-agent@1.2.0 for acme" in lines[1]
    assert "intends price.set on shop/price/a" in lines[2]
    assert "completed" in lines[3]


@pytest.mark.parametrize(
    ("conditions", "entries"),
    [
        (("--target", "shop/price/a"), 1),
        (("--tenant", "acme"), 8),
        (("--tenant", "other"), 0),
        (("--agent", "shop-agent@1.2.0"), 8),
        (("--trace", "4bf92f3577b34da6a3ce929d0e0e4736", "--limit", "3"), 3),
        (("--until", "2020-01-01T00:00:00Z"), 0),
    ],
)
def test_the_log_can_be_narrowed(rescind: Rescind, conditions: tuple[str, ...], entries: int) -> None:
    answer = rescind("audit", "log", *conditions, "--json").json

    assert len(answer["entries"]) == entries
    assert answer["more"] is (entries == 3)


def test_what_was_exported_can_be_imported_and_exports_the_same(rescind: Rescind) -> None:
    lines = rescind("audit", "export").out.splitlines()
    assert [json.loads(line)["action"] for line in lines] == ["price.set", "thing.sell", "letter.send"]
    moved = [json.dumps(json.loads(line) | {"run_id": "run-9"}) for line in lines]
    Path("steps.jsonl").write_text("\n".join(moved))

    answer = rescind("audit", "import", "steps.jsonl", "--json").json

    assert answer == {"runs": 1, "steps": 3}
    assert [json.loads(line) for line in rescind("audit", "export", "--run", "run-9").out.splitlines()] == [
        json.loads(line) for line in moved
    ]
    assert rescind("audit", "verify").status == 0


def test_the_full_export_has_every_entry_with_its_hash(rescind: Rescind) -> None:
    entries = [json.loads(line) for line in rescind("audit", "export", "--format", "full").out.splitlines()]

    assert [entry["sequence"] for entry in entries] == list(range(1, 9))
    assert all(len(entry["hash"]) == 64 for entry in entries)


GOOD = {
    "run_id": "run-7",
    "agent_id": "a@1",
    "step_id": "1",
    "action": "x",
    "target": {"system": "erp"},
    "before_ref": None,
    "after_ref": None,
    "idempotency_key": "k",
    "result": "ok",
    "compensation": None,
}


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("{", "line 2: not a step in compact form"),
        (json.dumps(GOOD | {"surprise": 1}), "surprise"),
        (json.dumps(GOOD), "line 2: step run-7/1 stands on an earlier line"),
        (json.dumps(GOOD | {"step_id": "2", "agent_id": "b@1"}), "of b@1 here and of a@1 on an earlier line"),
        (json.dumps(GOOD | {"run_id": "run-1"}), "line 2: the journal has a run run-1 already"),
        (json.dumps(GOOD | {"run_id": "r", "agent_id": "a@"}), "cannot read agent"),
        (
            json.dumps(
                GOOD | {"step_id": "2", "compensation": {"type": "restore", "allowed_until": "2026-12-01T00:00:00"}}
            ),
            "has no time zone",
        ),
    ],
)
def test_an_import_is_all_or_nothing_and_names_the_line(
    rescind: Rescind, monkeypatch: pytest.MonkeyPatch, bad: str, says: str
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(f"{json.dumps(GOOD)}\n{bad}\n".encode()))
    monkeypatch.setattr("sys.stdin", stdin)

    answer = rescind("audit", "import", "-")

    assert answer.status == 2
    assert "line 2" in answer.err
    assert says in answer.err
    assert len(rescind("audit", "export").out.splitlines()) == 3


def test_an_imported_step_in_doubt_is_left_to_a_person(rescind: Rescind, shop: ModuleType) -> None:
    step = GOOD | {"action": "thing.sell", "result": {"$unknown": "no reply"}, "compensation": {"type": "compensate"}}
    Path("steps.jsonl").write_text(json.dumps(step))
    rescind("audit", "import", "steps.jsonl")

    plan = rescind("undo", "--run", "run-7", "--app", "desk", "--json").json

    assert plan["reviews"] == {"in_doubt": 1}
