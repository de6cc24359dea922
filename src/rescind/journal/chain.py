"""The hash chain of a run: each entry's hash covers its content and the hash before it.

    genesis   = SHA-256("rescind-chain-1:" + run id)
    hash(n)   = SHA-256(hash(n - 1) + position + recorded_at_us + body)

Position and time are eight bytes each, big endian, so that no two different entries are hashed as the same bytes; the
body is the event's JSON exactly as it is stored. The global sequence is not covered: a run's chain stays valid when
its entries are copied into another journal. The order across runs is what seals cover (see `seal`).
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator

import msgspec

_PLACE = struct.Struct(">qq")  # position, recorded_at_us

_CANDIDATES_MAX = 4  # Beyond so many changed entries in a row, the next one may be blamed with them.


class Link(msgspec.Struct, frozen=True):
    """A stored entry as far as its chain goes."""

    sequence: int
    position: int
    recorded_at_us: int
    body: bytes
    hash: bytes


class Break(msgspec.Struct, frozen=True):
    """One place where a run's chain does not hold. `position` is where it shows."""

    sequence: int
    position: int
    problem: str


def genesis(run_id: str) -> bytes:
    """What the first entry of a run takes for the hash before it: 32 bytes."""
    return hashlib.sha256(b"rescind-chain-1:" + run_id.encode()).digest()


def entry_hash(previous: bytes, position: int, recorded_at_us: int, body: bytes) -> bytes:
    """The 32 bytes that chain an entry to the one before it."""
    return hashlib.sha256(previous + _PLACE.pack(position, recorded_at_us) + body).digest()


class ChainWalk:
    """Follows a run's chain, link by link in stored order, and names each place where it does not hold.

    A changed entry is named once, and those after it are not blamed for it. It remembers no more than the last hash, so
    a run of any length is verified in constant memory.
    """

    def __init__(self, run_id: str) -> None:
        self._candidates: tuple[bytes, ...] = (genesis(run_id),)
        self._due = 0

    def follow(self, link: Link) -> list[Break]:
        """What is wrong with the next link; mostly nothing."""
        breaks: list[Break] = []
        if link.position != self._due:
            breaks.append(Break(link.sequence, link.position, _misplaced(self._due, link.position)))
            self._candidates = ()  # What stood before it is not known.
        computed = [entry_hash(it, link.position, link.recorded_at_us, link.body) for it in self._candidates]
        self._candidates = (link.hash,)
        if computed and link.hash not in computed:
            breaks.append(
                Break(link.sequence, link.position, "its content or its hash was changed, or it was moved here")
            )
            # Nobody can say which hash is the honest one, the stored or a computed, so the next link may continue any.
            self._candidates = (link.hash, *computed[:_CANDIDATES_MAX])
        self._due = link.position + 1
        return breaks


def verify_chain(run_id: str, links: Iterable[Link]) -> Iterator[Break]:
    """Every place where the links, in stored order, are not the unbroken chain of the run. Nothing if all holds.

    An end that was cut off does not show here, but against the recorded head.
    """
    walk = ChainWalk(run_id)
    for link in links:
        yield from walk.follow(link)


def _misplaced(due: int, found: int) -> str:
    if found < due:
        return f"out of order: position {found} stands where {due} is due"
    missing = f"position {due} is" if found == due + 1 else f"positions {due} to {found - 1} are"
    return f"{missing} missing before it"
