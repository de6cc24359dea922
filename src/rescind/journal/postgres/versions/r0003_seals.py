"""Seals, made while the journal is written."""

from pathlib import Path

from alembic import op

from rescind.database.migrating import run_script

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Run the file beside the others of the schema."""
    run_script(op.get_bind(), Path(__file__).parents[1] / "schema" / "0003_seals.sql")
