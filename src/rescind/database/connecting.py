"""Connections to a database, by psycopg: bounded in time, named in `pg_stat_activity`, and its exceptions kept in.

psycopg is imported when the first connection is made; who has no database needs no driver.
"""

import contextlib
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from rescind.database.address import Address
from rescind.errors import RescindError, UsageError

if TYPE_CHECKING:
    import psycopg

CONNECT_TIMEOUT_S = 5
"""How long a connection may take to come about, for each host of the address. libpq takes whole seconds, from 2."""

DEAF_AFTER_S = 10
"""After how long without a word from the other machine's network a connection counts as lost."""

_LINES_DOWN = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "tcp_user_timeout": DEAF_AFTER_S * 1000,
    "keepalives_idle": DEAF_AFTER_S // 2,
    "keepalives_interval": DEAF_AFTER_S // 4,
    "keepalives_count": 2,
}


def driver() -> Any:
    """The module. Raises: UsageError, which names the extra, if it is not installed."""
    try:
        import psycopg
    except ImportError as missing:
        raise UsageError(
            f"a store on PostgreSQL needs psycopg ({missing}): pip install 'rescind[postgres]'"
        ) from missing
    return psycopg


def connect(
    address: Address,
    *,
    name: str,
    statement_timeout_s: float = 0.0,
    lock_timeout_s: float = 0.0,
    connect_timeout_s: int = CONNECT_TIMEOUT_S,
    silent_after_s: float = float("inf"),
) -> "psycopg.Connection[Any]":
    """A connection that commits each statement by itself, unless a transaction is begun.

    What the address says of time-outs comes before ours. A commit on it is durable when it has returned.

    Args:
        address: Where.
        name: What it is for; shown to administrators behind `rescind`.
        statement_timeout_s: After how long the server gives a statement up; 0 for never.
        lock_timeout_s: After how long it gives up waiting for a lock; 0 for never.
        connect_timeout_s: How long to wait for each host of the address.
        silent_after_s: After how long without a word from the server it is given up and closed; by default never. It
            has to be more than `statement_timeout_s`, or what is merely slow is taken for lost.

    Raises: UsageError, if psycopg is not installed; psycopg.Error.
    """
    driver()
    from psycopg.conninfo import conninfo_to_dict

    from rescind.database.silence import HearingConnection

    # What stands in the address is known to it; further names would come before them.
    given = conninfo_to_dict(address.url)
    ours = {**_LINES_DOWN, "connect_timeout": connect_timeout_s, "application_name": f"rescind {name}"}
    further: dict[str, Any] = {key: value for key, value in ours.items() if key not in given}
    connection = HearingConnection.connect(address.url, autocommit=True, **further)
    try:
        connection.silent_after_s = silent_after_s
        # `synchronous_commit` too: a role or a database may have it off, and would take back what was acknowledged. Or
        # have idle sessions ended (from PostgreSQL 14 on): with its session, a lock goes whose holder is at work.
        connection.execute(
            "SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false),"
            " set_config('synchronous_commit', CASE current_setting('synchronous_commit')"
            " WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false),"
            " set_config('TimeZone', 'UTC', false),"
            " (SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout')",
            (str(round(statement_timeout_s * 1000)), str(round(lock_timeout_s * 1000))),
        )
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def translating(
    address: Address, unavailable: Callable[[str], RescindError], *, what: str = "the store"
) -> Generator[None]:
    """Let no exception of the driver out, and no secret with it.

    Args:
        address: Where it happened.
        unavailable: What to raise instead: an error made of its message.
        what: What cannot be used, for people.

    Raises: what `unavailable` makes; UsageError for text that no database can keep.
    """
    psycopg = driver()
    try:
        yield
    except UnicodeEncodeError as error:
        raise UsageError(f"something that is to be kept in {what} is no text: {error}") from error
    except psycopg.DataError as error:
        raise UsageError(f"something that is to be kept in {what} is no text: {address.scrub(str(error))}") from error
    except (psycopg.Error, OSError) as error:
        reason = address.scrub(str(error)) or type(error).__name__
        message = f"{what} in {address} cannot be used ({reason}); {_remedy(psycopg, error)}"
        raise unavailable(message) from _without_secrets(error, reason)


def _remedy(psycopg: Any, error: Exception) -> str:
    for kinds, remedy in (
        ((psycopg.errors.InvalidPassword, psycopg.errors.InvalidAuthorizationSpecification), _CREDENTIALS),
        ((psycopg.errors.InsufficientPrivilege,), "let its owner give this user the right"),
        ((psycopg.errors.LockNotAvailable,), "somebody holds its lock; see pg_stat_activity and try again"),
        ((psycopg.errors.QueryCanceled,), "it is too slow or stuck; see pg_stat_activity and try again"),
        ((psycopg.errors.DiskFull, psycopg.errors.OutOfMemory), "make room on its machine"),
        ((psycopg.errors.ReadOnlySqlTransaction,), "this is a standby; name the primary, or promote it"),
        (
            (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName),
            "its tables were removed: restore a backup",
        ),
    ):
        if isinstance(error, kinds):
            return remedy
    if "password" in str(error) or "authentication" in str(error):
        return _CREDENTIALS
    return "see that the server runs and can be reached from here"


_CREDENTIALS = "check user and password: PGPASSWORD, ~/.pgpass, or the address"


def _without_secrets(error: Exception, reason: str) -> Exception:
    # A traceback shows the cause's own words too.
    return error if " ".join(str(error).split()) == reason else type(error)(reason)
