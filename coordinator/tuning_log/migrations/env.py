"""Alembic runs this for each upgrade, inside the transaction that the caller holds."""

from alembic import context

from coordinator.tuning_log.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can't alter a column: the table is rebuilt.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
