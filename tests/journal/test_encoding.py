"""How events stand in journals that were written before: old ones must be read, and their hashes must hold."""

from pathlib import Path

import msgspec
import pytest

from rescind.journal.codec import KIND_OF, decode_event, prepare
from rescind.journal.port import Draft

EVENTS = Path(__file__).with_name("events.jsonl")
"""One event of each kind with every field filled, byte for byte as it was written. Lines are added, never changed: a
field that is new has a default, and is in no line that was written before it."""

LINES = EVENTS.read_bytes().splitlines()


def kind_of(line: bytes) -> str:
    return str(msgspec.json.decode(line)["type"])


def test_each_kind_of_event_has_its_line() -> None:
    missing = set(KIND_OF.values()) - set(map(kind_of, LINES))
    assert not missing, f"add a line to {EVENTS.name} for: {', '.join(sorted(missing))}"


@pytest.mark.parametrize("line", LINES, ids=kind_of)
def test_an_event_is_read_and_written_as_it_stands(line: bytes) -> None:
    event = decode_event(1, line)

    (prepared,) = prepare([Draft(run_id="run-1", event=event, recorded_at_us=0)])

    written = msgspec.json.decode(prepared.body)
    assert (prepared.kind, prepared.body[: len(line) - 1]) == (kind_of(line), line[:-1])
    assert written.items() >= msgspec.json.decode(line).items()
