"""The register of workers."""

from pathlib import Path

from alembic import op

from rescind.database.migrating import run_script

revision, down_revision = "0001", None


def upgrade() -> None:
    """Make the tables."""
    run_script(op.get_bind(), Path(__file__).parent.parent / "schema" / "001_workers.sql")
