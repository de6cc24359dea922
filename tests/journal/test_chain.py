"""The hash chain by itself: what is changed is named, and nothing else."""

import hashlib

import pytest

from rescind.journal.chain import Break, Link, entry_hash, genesis, verify_chain

CHANGED = "its content or its hash was changed, or it was moved here"


def a_chain(length: int = 5) -> list[Link]:
    links, previous = list[Link](), genesis("run-1")
    for position in range(length):
        body = f'{{"n":{position}}}'.encode()
        previous = entry_hash(previous, position, 1_000 + position, body)
        links.append(Link(position + 1, position, 1_000 + position, body, previous))
    return links


def breaks(links: list[Link]) -> list[tuple[int, str]]:
    return [(found.position, found.problem) for found in verify_chain("run-1", links)]


def test_the_hash_is_what_the_documentation_says() -> None:
    first = hashlib.sha256(b"rescind-chain-1:run-1").digest()
    place = (3).to_bytes(8, "big") + (7).to_bytes(8, "big")

    assert genesis("run-1") == first
    assert entry_hash(first, 3, 7, b"{}") == hashlib.sha256(first + place + b"{}").digest()


def test_an_unbroken_chain_has_no_breaks() -> None:
    assert breaks(a_chain()) == []
    assert breaks([]) == []


def test_the_chain_of_one_run_is_not_that_of_another() -> None:
    assert list(verify_chain("run-2", a_chain(2))) == [Break(1, 0, CHANGED)]


@pytest.mark.parametrize("position", range(5))
@pytest.mark.parametrize("field", ["body", "recorded_at_us", "hash"])
def test_a_changed_entry_is_named_and_those_after_it_are_not_blamed(position: int, field: str) -> None:
    links = a_chain()
    link = links[position]
    links[position] = Link(
        link.sequence,
        link.position,
        link.recorded_at_us + (field == "recorded_at_us"),
        b"{}" if field == "body" else link.body,
        bytes(32) if field == "hash" else link.hash,
    )

    assert breaks(links) == [(position, CHANGED)]


@pytest.mark.parametrize(
    ("removed", "expected"),
    [
        ([0], (1, "position 0 is missing before it")),
        ([2], (3, "position 2 is missing before it")),
        ([1, 2], (3, "positions 1 to 2 are missing before it")),
    ],
)
def test_a_gap_is_named(removed: list[int], expected: tuple[int, str]) -> None:
    links = [link for link in a_chain() if link.position not in removed]

    assert breaks(links) == [expected]


def test_two_exchanged_entries_are_out_of_order() -> None:
    links = a_chain()
    links[1], links[3] = links[3], links[1]

    assert [position for position, _ in breaks(links)] == [3, 2, 1, 4]
