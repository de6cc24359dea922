"""Several writers that are in each other's way for one statement only."""

from pathlib import Path

from alembic import op

from rescind.database.migrating import run_script

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Run the file beside the others of the schema."""
    run_script(op.get_bind(), Path(__file__).parents[1] / "schema" / "0002_several_writers.sql")
