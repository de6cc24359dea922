"""Who applies a plan of a store in PostgreSQL: a shared advisory lock on a connection of its own. See `appliers`."""

import contextlib
import threading
from collections.abc import Collection, Generator
from typing import TYPE_CHECKING, Any

from rescind.database.address import Address
from rescind.database.connecting import connect, driver, translating
from rescind.errors import EngineUnavailable
from rescind.recovery.postgres.register import lock_number

if TYPE_CHECKING:
    import psycopg

_TIMEOUT_S = 10.0
_LOOK_EVERY_S = 2.0  # After a restart of the server it is shown again within this time.

_HELD = """
SELECT asked.place FROM unnest(%s::bigint[]) WITH ORDINALITY AS asked (number, place)
 WHERE EXISTS (SELECT 1 FROM pg_locks l
                WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND (l.classid::bigint << 32) | l.objid::bigint = asked.number)
"""


class DatabaseAppliers:
    """See `recovery.appliers.Appliers`."""

    def __init__(self, address: Address) -> None:
        self._address = address

    @contextlib.contextmanager
    def here(self, plan_run: str) -> Generator[bool]:
        """See `Appliers`."""
        try:
            session = self._hold(plan_run)
        except EngineUnavailable:
            yield False
            return
        ended = threading.Event()
        keeper = threading.Thread(
            target=self._keep, args=(plan_run, session, ended), name="rescind-applier", daemon=True
        )
        keeper.start()
        try:
            yield True
        finally:
            ended.set()
            keeper.join(2 * _TIMEOUT_S)

    def living(self, plan_runs: Collection[str]) -> frozenset[str]:
        """See `Appliers`."""
        asked = list(plan_runs)
        numbers = [_number(plan_run) for plan_run in asked]
        with (
            translating(self._address, EngineUnavailable, what="who applies a plan"),
            connect(self._address, name="appliers", statement_timeout_s=_TIMEOUT_S) as connection,
        ):
            rows: list[tuple[int]] = connection.execute(_HELD, (numbers,)).fetchall()
        return frozenset(asked[place - 1] for (place,) in rows)

    def _hold(self, plan_run: str) -> "psycopg.Connection[Any]":
        with translating(self._address, EngineUnavailable, what="who applies a plan"):
            session = connect(self._address, name="applier", statement_timeout_s=_TIMEOUT_S)
            try:
                session.execute("SELECT pg_advisory_lock_shared(%s)", (_number(plan_run),))
            except BaseException:
                session.close()
                raise
            return session

    def _keep(self, plan_run: str, session: "psycopg.Connection[Any]", ended: threading.Event) -> None:
        while not ended.wait(_LOOK_EVERY_S):
            try:
                session.execute("SELECT 1")
            except driver().Error:
                session.close()
                with contextlib.suppress(EngineUnavailable):
                    session = self._hold(plan_run)
        # Let go of by name: the server ends a session some time after its socket, and until then it seems to live.
        with contextlib.suppress(driver().Error):
            session.execute("SELECT pg_advisory_unlock_shared(%s)", (_number(plan_run),))
        session.close()


def _number(plan_run: str) -> int:
    return lock_number(f"applies {plan_run}")
