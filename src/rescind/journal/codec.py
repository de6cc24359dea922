"""How events become bytes and come back, and what an index needs to know of them."""

import hashlib
from collections.abc import Sequence
from typing import get_args

import msgspec

from rescind.errors import EntryUnreadable, UsageError
from rescind.journal.port import Draft
from rescind.model.entry import Event, Intended, ReviewNoted, ReviewOpened, ReviewResolved
from rescind.model.step import Target, canonical_json

KIND_OF: dict[type[Event], str] = {event_type: event_type.__struct_config__.tag for event_type in get_args(Event)}
"""The word for each type of event, as it stands in the body and in the column `kind`."""

REVIEW_KINDS = (KIND_OF[ReviewOpened], KIND_OF[ReviewNoted], KIND_OF[ReviewResolved])

_AT_US_END = 253_402_300_800_000_000  # The year 10000, which a datetime cannot hold.
_BODY_BYTES_MAX = 64 * 2**20  # SQLite's own limit is 1 GB; long before that, one entry would stop everybody's commit.

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


class Prepared(msgspec.Struct, frozen=True):
    """A draft with all that can be computed before its place is known, so that the caller's thread does it."""

    draft: Draft
    kind: str
    body: bytes
    target: bytes | None


def prepare(drafts: Sequence[Draft]) -> list[Prepared]:
    """The drafts, ready to be placed. What a store could choke on is found here, not among other callers' drafts.

    Raises: UsageError, if an event cannot be written as JSON, or a time or a text cannot be stored.
    """
    return [_prepare(draft) for draft in drafts]


def _prepare(draft: Draft) -> Prepared:
    event = draft.event
    kind = KIND_OF[type(event)]
    try:
        body = _ENCODER.encode(event)
        draft.run_id.encode()
        if draft.claim is not None:
            _ENCODER.encode(draft.claim)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"{kind} of run {draft.run_id!r} cannot be written as JSON: {error}") from error
    if not 0 <= draft.recorded_at_us < _AT_US_END:
        raise UsageError(
            f"{kind} of run {draft.run_id}: {draft.recorded_at_us} is not a time in µs between 1970 and 9999"
        )
    if len(body) > _BODY_BYTES_MAX:
        raise UsageError(
            f"{kind} of run {draft.run_id} has {len(body)} bytes; keep what is larger elsewhere and refer to it"
        )
    target = event.step.target if type(event) is Intended else None
    return Prepared(draft, kind, body, None if target is None else target_digest(target))


def decode_event(sequence: int, body: bytes, run_id: str = "") -> Event:
    """The event of a stored body.

    Raises: EntryUnreadable, if it cannot be read, naming the entry, and its run if that is given.
    """
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EntryUnreadable(sequence=sequence, run_id=run_id, problem=str(error)) from error


def target_digest(target: Target) -> bytes:
    """What a target is indexed by: 128 bits of its SHA-256.

    A digest takes no look-up in a table of names, and two targets that share one cannot be made, even on purpose.
    """
    return hashlib.sha256(canonical_json(target)).digest()[:16]
