"""Alembic's way in: it applies revisions on the connection that `rescind.database.migrating` has opened."""

from alembic import context

_given = context.config.attributes
context.configure(
    connection=_given["connection"],
    version_table=_given["version_table"],
    version_table_schema=_given["schema"],
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
