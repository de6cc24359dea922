"""The journal's tables, and the functions through which alone they are written."""

from pathlib import Path

from alembic import op

from rescind.database.migrating import run_script

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Run the file beside the others of the schema."""
    run_script(op.get_bind(), Path(__file__).parents[1] / "schema" / "0001_journal.sql")
