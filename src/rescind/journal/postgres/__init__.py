"""The journal on PostgreSQL: for several machines that share one truth."""

from rescind.journal.postgres.journal import PostgresJournal

__all__ = ["PostgresJournal"]
