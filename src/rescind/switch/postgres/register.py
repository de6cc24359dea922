"""The register of guards in a database: who beats, who has fallen silent, and what each last said of itself.

Nobody can see from here whether a process on another machine lives. So a row tells of beats, and of how long a guard
goes on without one; whoever waits measures that by a clock of his own, from the moment when he first saw the newest
beat. A clock of the database that jumps makes no guard silent.

Everybody who may write in the database may write anything into the table, so readers believe nothing: sizes and times
are bounded, and what cannot be read makes a guard unknown and never absent.
"""

import socket
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.clock import Clock, from_us
from rescind.model.level import Level
from rescind.switch.client.lease import DRIFT_RATIO
from rescind.switch.port import GuardReport
from rescind.switch.postgres.link import Link
from rescind.switch.presence import REPORT_BYTES_MAX, Sighting, is_guard_id, read_report

if TYPE_CHECKING:
    import psycopg

    from rescind.database.address import Address

LEASE_TTL_MAX_S = 3_600.0
"""Longer than any lease with any grace: what somebody else has written into a row must not hold a receipt for ever."""

LONG_SILENT_S = 60.0
"""After how long without a beat, beyond its lease, a guard was silent before anybody looked: by the database's clock,
which would have to jump so far."""

FORGOTTEN_S = 3_600.0
"""After how long without a beat a guard's row is removed by those who come: its process has most likely died."""

LEFT_S = 60.0
"""How long a guard that has closed is still shown, as gone."""

_MARGIN_S = 0.25

_BEAT = """
INSERT INTO guards AS mine (guard_id, host, lease_ttl_s, on_silence, beats, beat_at, report, bound_at, drained_at)
VALUES (%(guard_id)s, %(host)s, %(ttl_s)s, %(on_silence)s, 1, clock_timestamp(), %(report)s,
    clock_timestamp() - make_interval(secs => %(bound_ago_s)s),
    clock_timestamp() - make_interval(secs => %(drained_ago_s)s))
ON CONFLICT (guard_id) DO UPDATE SET
    beats = mine.beats + 1, beat_at = excluded.beat_at, lease_ttl_s = excluded.lease_ttl_s,
    report = coalesce(excluded.report, mine.report),
    bound_at = CASE WHEN excluded.report IS NULL THEN mine.bound_at ELSE excluded.bound_at END,
    drained_at = CASE WHEN excluded.report IS NULL THEN mine.drained_at ELSE excluded.drained_at END"""

_LEAVE = """
UPDATE guards SET lease_ttl_s = 0, beats = beats + 1, beat_at = clock_timestamp() WHERE guard_id = %s"""

_TIDY = """
DELETE FROM guards WHERE beat_at < clock_timestamp() - make_interval(secs => %(forgotten_s)s)
    OR (lease_ttl_s = 0 AND beat_at < clock_timestamp() - make_interval(secs => %(left_s)s))"""

_SIGHT = """
SELECT guard_id, host, lease_ttl_s, on_silence, beats, extract(epoch FROM clock_timestamp() - beat_at)::float8,
    CASE WHEN octet_length(report) <= %s THEN report END, octet_length(report),
    extract(epoch FROM clock_timestamp() - bound_at)::float8, extract(epoch FROM clock_timestamp() - drained_at)::float8
FROM guards WHERE beat_at > clock_timestamp() - make_interval(secs => %s)
    AND (lease_ttl_s <> 0 OR beat_at > clock_timestamp() - make_interval(secs => %s)) ORDER BY guard_id"""

_SIGHT_VALUES = (REPORT_BYTES_MAX, FORGOTTEN_S, LEFT_S)


def beat(
    connection: "psycopg.Connection[Any]",
    *,
    guard_id: str,
    ttl_s: float,
    on_silence: str,
    report: GuardReport | None,
    now_s: float,
) -> None:
    """Say that a guard lives, and what it says of itself. Durable on return: what it was told would else be forgotten.

    Args:
        connection: To the orders.
        guard_id: Unique.
        ttl_s: How long it goes on without another beat.
        on_silence: The level that it lowers itself to then.
        report: What it says; None for what it said before.
        now_s: The clock of the report's moments, now.

    Raises: psycopg.Error.
    """
    bound_ago_s = None if report is None else now_s - report.bound_at_s
    drained_ago_s = None if report is None or report.drained_at_s is None else now_s - report.drained_at_s
    row = {
        "guard_id": guard_id,
        "host": socket.gethostname(),
        "ttl_s": ttl_s,
        "on_silence": on_silence,
        "report": None if report is None else msgspec.json.encode(report),
        "bound_ago_s": bound_ago_s,
        "drained_ago_s": drained_ago_s,
    }
    connection.execute(_BEAT, row)


def leave(connection: "psycopg.Connection[Any]", guard_id: str) -> None:
    """Say that a guard has closed, and remove those that did long ago or have been silent for long.

    Its row stays for a while: whoever waits for a receipt may not have looked yet, and it has acknowledged.

    Raises: psycopg.Error.
    """
    connection.execute(_LEAVE, (guard_id,))
    connection.execute(_TIDY, {"forgotten_s": FORGOTTEN_S, "left_s": LEFT_S})


class DatabaseRegister:
    """The guards of a database as one observer sees them, who remembers when he first saw each one's newest beat."""

    def __init__(self, address: "Address", clock: Clock) -> None:
        """Nobody was looked at yet."""
        self._link = Link(address, name="register", create=False, lock_timeout_s=1.0)
        self._clock = clock
        self._beats: dict[str, tuple[int, float]] = {}

    def sight(self) -> list[Sighting]:
        """All guards that have beaten lately or may act still, and those that have just closed, by id.

        Raises: OrdersUnavailable; UsageError, if there is no store.
        """
        rows = self._link.do(lambda connection: connection.execute(_SIGHT, _SIGHT_VALUES).fetchall())
        now_s = self._clock.monotonic_s()  # after the answer: no moment of a report then seems earlier than it was
        return [self._sighting(now_s, *row) for row in rows if is_guard_id(row[0])]

    def close(self) -> None:
        """Let go of the database."""
        self._link.close()

    def _sighting(
        self,
        now_s: float,
        guard_id: str,
        host: str,
        ttl_s: float,
        on_silence: str,
        beats: int,
        beat_ago_s: float,
        data: bytes | None,
        length: int | None,
        bound_ago_s: float | None,
        drained_ago_s: float | None,
    ) -> Sighting:
        report, problem = _report_of(guard_id, data, length)
        if report is not None:
            report = msgspec.structs.replace(
                report,
                bound_at_s=now_s - (bound_ago_s or 0.0),
                drained_at_s=None if drained_ago_s is None else now_s - drained_ago_s,
            )
        lowers = _lowers(on_silence)
        ends_s = self._lease_ends_s(guard_id, ttl_s, beats, beat_ago_s, now_s)
        return Sighting(
            guard_id=guard_id,
            living=ttl_s != 0,
            report=report,
            problem=problem,
            host=host,
            silent=lowers and now_s >= ends_s,
            until=self._wall(ends_s, now_s) if lowers else None,
        )

    def _lease_ends_s(self, guard_id: str, ttl_s: float, beats: int, beat_ago_s: float, now_s: float) -> float:
        """When its lease has run out for certain, if it stays silent; by the clock of this process."""
        ttl_s = min(max(ttl_s, 0.0), LEASE_TTL_MAX_S) if ttl_s == ttl_s else LEASE_TTL_MAX_S  # no number
        known = self._beats.get(guard_id)
        if known is None and beat_ago_s > ttl_s + LONG_SILENT_S:
            known = self._beats[guard_id] = (beats, now_s - beat_ago_s)
        if known is None or known[0] != beats:
            known = self._beats[guard_id] = (beats, now_s)
        return known[1] + ttl_s * (1 + DRIFT_RATIO) + _MARGIN_S

    def _wall(self, moment_s: float, now_s: float) -> datetime:
        return from_us(self._clock.now_us() + round((moment_s - now_s) * 1_000_000))


def _lowers(on_silence: str) -> bool:
    """Whether a guard that falls silent refuses writes then. Whoever does not say so is never taken for silenced."""
    try:
        return Level.parse(on_silence) >= Level.READ_ONLY
    except ValueError:
        return False


def _report_of(guard_id: str, data: bytes | None, length: int | None) -> tuple[GuardReport | None, str]:
    if length is None:
        return None, "it has not reported yet"
    if data is None:
        return None, f"its report is longer than {REPORT_BYTES_MAX:,} bytes"
    return read_report(data, guard_id)


def sight_once(address: "Address", clock: Clock) -> list[Sighting]:
    """As `DatabaseRegister.sight`, for who looks once."""
    register = DatabaseRegister(address, clock)
    try:
        return register.sight()
    finally:
        register.close()
